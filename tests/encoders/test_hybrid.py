"""Parts keep what they are; the contract itself is in test_encoders.py."""

import pytest
import torch

from asr.encoders import LSTM, Hybrid
from asr.encoders.recurrent import RecurrentBlock
from asr.encoders.transformer import TransformerBlock

RECURRENT = {"class_path": "LSTM", "init_args": {"layers": 2, "bidirectional": False}}
ATTENTION = {"class_path": "Transformer", "init_args": {"layers": 1, "heads": 2, "causal": True}}


def kinds(encoder):
    return [type(block) for block in encoder.layers if any(True for _ in block.parameters())]


def test_parts_come_in_order_and_repeated_parts_have_their_own_weights():
    encoder = Hybrid(8, dim=16, parts=[RECURRENT, ATTENTION], repeat=2)
    assert kinds(encoder) == [RecurrentBlock, RecurrentBlock, TransformerBlock] * 2
    parameters = [p.data_ptr() for p in encoder.parameters()]
    assert len(set(parameters)) == len(parameters)


@torch.no_grad()
def test_a_hybrid_of_one_part_equals_that_part():
    single = LSTM(8, dim=16, layers=2, channels=4).eval()
    hybrid = Hybrid(8, dim=16, parts=[{"class_path": "LSTM", "init_args": {"layers": 2}}],
                    channels=4).eval()  # fmt: skip
    hybrid.load_state_dict(single.state_dict())
    x, lengths = torch.randn(2, 40, 8), torch.tensor([40, 31])
    assert hybrid(x, lengths)[0].equal(single(x, lengths)[0])
    assert hybrid.flops([40]) == single.flops([40])


def test_a_hybrid_with_a_part_that_sees_the_future_cannot_stream():
    full = {"class_path": "Transformer", "init_args": {"layers": 1, "heads": 2}}
    encoder = Hybrid(8, dim=16, parts=[RECURRENT, full])
    assert not encoder.causal
    with pytest.raises(ValueError, match="make every part causal"):
        encoder.initial_state(1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "at least one part"),
        ([{"class_path": "os.system"}], r"parts\[0\].class_path 'os.system': take one of LSTM"),
        ([{"class_path": "Hybrid"}], "take one of"),
        (["LSTM"], "take one of"),
        ([RECURRENT, {**ATTENTION, "init_args": {"layers": 1}}], r"parts\[1\].heads is missing"),
        ([{"class_path": "LSTM", "init_args": {"layers": 1, "dim": 8}}], r"parts\[0\].dim"),
        (
            [{"class_path": "LSTM", "init_args": {"layers": 1, "subsampling": 8}}],
            r"parts\[0\].subsampling: a part takes it from the Hybrid",
        ),
        (
            [
                {
                    "class_path": "Hierarchical",
                    "init_args": {"layers": 1, "heads": 2, "next_frame": 1},
                }
            ],
            "predict belongs to a whole Hierarchical",
        ),
        ([{"class_path": "LSTM", "init_args": {"layer": 1}}], r"parts\[0\].layer: no such key"),
    ],
)
def test_impossible_parts_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=message):
        Hybrid(8, dim=16, parts=parts)
