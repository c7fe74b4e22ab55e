"""Tiny models and inputs that tests share, and what torch's FLOP counter lacks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from asr.decoders import (
    CTC,
    DECODERS,
    AttentionDecoder,
    AttentionLSTM,
    Decoder,
    Transducer,
    TransducerDecoder,
)
from asr.decoders import Transformer as TransformerDecoder
from asr.encoders import (
    ENCODERS,
    GRU,
    LSTM,
    Conformer,
    Convolution,
    Encoder,
    Hierarchical,
    Hybrid,
    Memory,
    MinGRU,
    MinLSTM,
    StateSpace,
    Transformer,
    Universal,
)

NUM_MELS = 8
VOCABULARY = 6
DIM = 16

ENCODER_BUILDERS: dict[str, Callable[[int], Encoder]] = {
    "LSTM": partial(LSTM, dim=DIM, layers=2, channels=4),
    "LSTM causal": partial(LSTM, dim=DIM, layers=2, bidirectional=False, channels=4),
    "LSTM projected": partial(LSTM, dim=DIM, layers=2, cells=24, time_reduction=[1], channels=4),
    "LSTM causal projected": partial(
        LSTM, dim=DIM, layers=2, bidirectional=False, cells=24, time_reduction=[1, 2], channels=4
    ),
    "LSTM causal projected of 80 ms": partial(
        LSTM,
        dim=DIM,
        layers=2,
        bidirectional=False,
        cells=24,
        time_reduction=[1],
        channels=4,
        subsampling=8,
    ),
    "GRU": partial(GRU, dim=DIM, layers=2, channels=4),
    "GRU causal": partial(GRU, dim=DIM, layers=2, bidirectional=False, channels=4),
    "GRU causal projected": partial(
        GRU, dim=DIM, layers=2, bidirectional=False, cells=24, time_reduction=[1], channels=4
    ),
    "MinLSTM": partial(MinLSTM, dim=DIM, layers=2, channels=4),
    "MinLSTM causal": partial(MinLSTM, dim=DIM, layers=2, bidirectional=False, channels=4),
    "MinGRU": partial(MinGRU, dim=DIM, layers=2, channels=4),
    "MinGRU causal": partial(MinGRU, dim=DIM, layers=2, bidirectional=False, channels=4),
    "Convolution": partial(
        Convolution, dim=DIM, layers=3, kernel=3, dilations=[1, 2], reduction=4, channels=4
    ),
    "Convolution causal": partial(
        Convolution,
        dim=DIM,
        layers=3,
        kernel=4,
        dilations=[1, 2],
        reduction=4,
        causal=True,
        channels=4,
    ),
    "Convolution without excitation": partial(
        Convolution, dim=DIM, layers=2, kernel=3, repeats=1, reduction=0, channels=4
    ),
    "Convolution causal without excitation": partial(
        Convolution, dim=DIM, layers=2, kernel=3, reduction=0, causal=True, channels=4
    ),
    "Hierarchical": partial(Hierarchical, dim=DIM, layers=2, heads=2, window=4, channels=4),
    "Hierarchical 3 levels": partial(
        Hierarchical, dim=DIM, layers=1, heads=2, window=2, levels=3, channels=4
    ),
    "Hierarchical mean": partial(
        Hierarchical, dim=DIM, layers=1, heads=2, window=3, pooling="mean", channels=4
    ),
    "Hierarchical last": partial(
        Hierarchical, dim=DIM, layers=1, heads=2, window=3, pooling="last", channels=4
    ),
    "Hierarchical dilated": partial(
        Hierarchical, dim=DIM, layers=2, heads=2, window=3, variant="dilated", channels=4
    ),
    "Hierarchical right context": partial(
        Hierarchical, dim=DIM, layers=2, heads=2, window=4, right_context=2, channels=4
    ),
    "Hierarchical next frame": partial(
        Hierarchical, dim=DIM, layers=1, heads=2, window=4, next_frame=0.5, channels=4
    ),
    "Hierarchical next frame of 80 ms": partial(
        Hierarchical,
        dim=DIM,
        layers=1,
        heads=2,
        window=4,
        next_frame=0.5,
        channels=4,
        subsampling=8,
    ),
    "Conformer": partial(Conformer, dim=DIM, layers=2, heads=2, kernel=3, channels=4),
    "Conformer causal": partial(
        Conformer, dim=DIM, layers=2, heads=2, kernel=4, causal=True, channels=4
    ),
    "Conformer chunk left context": partial(
        Conformer,
        dim=DIM,
        layers=2,
        heads=2,
        kernel=3,
        causal=True,
        chunk=2,
        left_context=3,
        channels=4,
    ),
    # A halting bias that leaves every step to be taken: the FLOPs of the formula.
    "Universal": partial(Universal, dim=DIM, heads=2, max_steps=3, halting_bias=-4.0, channels=4),
    "Universal causal": partial(
        Universal, dim=DIM, heads=2, max_steps=3, halting_bias=-4.0, causal=True, channels=4
    ),
    "Universal left context": partial(
        Universal,
        dim=DIM,
        heads=2,
        max_steps=2,
        halting_bias=0.0,
        left_context=3,
        causal=True,
        channels=4,
    ),
    "StateSpace": partial(StateSpace, dim=DIM, layers=2, state=4, heads=4, channels=4),
    "StateSpace causal": partial(
        StateSpace,
        dim=DIM,
        layers=2,
        state=4,
        heads=2,
        bidirectional=False,
        channels=4,
    ),
    "Hybrid": partial(
        Hybrid,
        dim=DIM,
        channels=4,
        parts=[
            {"class_path": "LSTM", "init_args": {"layers": 1, "time_reduction": [1]}},
            {"class_path": "Transformer", "init_args": {"layers": 1, "heads": 2}},
        ],
    ),
    "Hybrid causal": partial(
        Hybrid,
        dim=DIM,
        channels=4,
        repeat=2,
        parts=[
            {
                "class_path": "LSTM",
                "init_args": {"layers": 1, "time_reduction": [1], "bidirectional": False},
            },
            {
                "class_path": "Transformer",
                "init_args": {"layers": 1, "heads": 2, "causal": True, "chunk": 2},
            },
        ],
    ),
    "Transformer": partial(Transformer, dim=DIM, layers=2, heads=2, channels=4),
    "Transformer causal": partial(Transformer, dim=DIM, layers=2, heads=2, causal=True, channels=4),
    "Transformer left context": partial(
        Transformer, dim=DIM, layers=2, heads=2, causal=True, left_context=2, channels=4
    ),
    "Transformer chunk": partial(
        Transformer, dim=DIM, layers=2, heads=2, causal=True, chunk=3, channels=4
    ),
    "Transformer chunk of 80 ms": partial(
        Transformer, dim=DIM, layers=2, heads=2, causal=True, chunk=3, channels=4, subsampling=8
    ),
    "Transformer chunk left context": partial(
        Transformer, dim=DIM, layers=2, heads=2, causal=True, left_context=3, chunk=2, channels=4
    ),
    "Transformer sinusoidal causal": partial(
        Transformer, dim=DIM, layers=2, heads=2, causal=True, positions="sinusoidal", channels=4
    ),
    "Transformer sinusoidal": partial(
        Transformer, dim=DIM, layers=2, heads=2, positions="sinusoidal", channels=4
    ),
    **{
        f"Transformer {memory.gate} {memory.skipped}": partial(
            Transformer,
            dim=DIM,
            layers=3,
            heads=2,
            causal=True,
            left_context=left_context,
            memory=memory,
            channels=4,
        )
        for memory, left_context in (
            (Memory("last_kept", threshold=0.5), None),
            (Memory("previous", threshold=0.5, skipped="merge"), 3),
            (Memory("learned", rate=0.3), None),
            (Memory("uniform", rate=0.4), 2),
            (Memory("random", rate=0.4), 1),
        )
    },
    **{
        f"Hierarchical {memory.gate}": partial(
            Hierarchical, dim=DIM, layers=3, heads=2, window=3, memory=memory, channels=4
        )
        for memory in (Memory("last_kept", threshold=0.9), Memory("uniform", rate=0.7))
    },
}
# Where a gate looks at the frames, the formula counts all of them as stored.
BOUNDED_FLOPS = [
    name for name in ENCODER_BUILDERS if {"last_kept", "previous", "learned"} & set(name.split())
]
DECODER_BUILDERS: dict[str, partial[Decoder]] = {
    "AttentionLSTM": partial(AttentionLSTM, width=12, attention=8, location_kernel=5),
    "AttentionLSTM of 3 layers": partial(
        AttentionLSTM, width=12, layers=3, attention=8, location_kernel=5
    ),
    "Transformer": partial(TransformerDecoder, width=DIM, layers=2, heads=2),
    "Transformer of another width": partial(TransformerDecoder, width=12, layers=2, heads=3),
    "Transducer": partial(Transducer, width=12, joint=10),
    "Transducer of 2 layers": partial(Transducer, width=12, joint=10, layers=2),
    "Transducer without state": partial(Transducer, width=12, joint=10, prediction="stateless"),
    "Transducer of the last token": partial(
        Transducer, width=12, joint=10, prediction="stateless", context=1
    ),
    "CTC": partial(CTC),
}
ATTENTION_DECODERS, TRANSDUCERS = (
    [name for name, builder in DECODER_BUILDERS.items() if issubclass(builder.func, kind)]
    for kind in (AttentionDecoder, TransducerDecoder)
)


def encoder(name: str, seed: int = 0) -> Encoder:
    """An encoder by its name in ENCODER_BUILDERS, in eval mode."""
    torch.manual_seed(seed)
    return ENCODER_BUILDERS[name](NUM_MELS).eval()


def decoder(name: str, seed: int = 0) -> Decoder:
    """A decoder by its name in DECODER_BUILDERS, in eval mode."""
    torch.manual_seed(seed)
    return DECODER_BUILDERS[name](DIM, VOCABULARY).eval()


def features(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(B, T, F) of noise, zero beyond the lengths, and the lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), NUM_MELS, generator=generator)
    for row, length in zip(x, lengths, strict=True):
        row[length:] = 0
    return x, torch.tensor(lengths)


def with_garbage(x: Tensor, lengths: Tensor) -> Tensor:
    """``x`` with noise a hundred times as loud in the padding."""
    beyond = torch.arange(x.shape[1]) >= lengths[:, None]
    return torch.where(beyond[..., None], 100 * torch.randn_like(x), x)


def _rnn(time: int, batch: int, inputs: int, cells: int) -> int:
    """Products of an LSTM layer of one direction."""
    return time * batch * 2 * 4 * cells * (inputs + cells)


def _mkldnn_rnn_layer(x, w0, w1, w2, w3, hx, cx, reverse, sizes, mode, hidden, *rest, **kwargs):
    return _rnn(*x.shape[:2], x.shape[-1], hidden)


def _cudnn_rnn(
    x, weight, stride, buffer, hx, cx, mode, hidden, projection, layers, *rest, **kwargs
):
    bidirectional, gates = rest[3], {2: 4, 3: 3}[int(mode)]  # LSTM, GRU
    directions, frames = 2 if bidirectional else 1, x.numel() // x.shape[-1]
    inputs = [x.shape[-1], *[directions * hidden] * (layers - 1)]
    return sum(frames * directions * 2 * gates * hidden * (width + hidden) for width in inputs)


def _attention_on_cpu(query, key, value, *rest, **kwargs):
    batch, heads, queries, width = query.shape
    return 4 * batch * heads * queries * key.shape[2] * width


def _linear_by_onednn(x, weight, *rest, **kwargs):
    return 2 * x.numel() * weight.shape[0]


for _formula in (_mkldnn_rnn_layer, _cudnn_rnn, _attention_on_cpu, _linear_by_onednn):
    _formula._get_raw = True  # give the operator's own arguments, not their shapes
FLOP_FORMULAS = {
    torch.ops.aten.mkldnn_rnn_layer: _mkldnn_rnn_layer,
    torch.ops.aten._cudnn_rnn: _cudnn_rnn,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
    torch.ops.mkldnn._linear_pointwise: _linear_by_onednn,
}


def counted_flops(function: Callable[[], object]) -> int:
    """What torch's counter sees in a call, recurrent layers and CPU attention included."""
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        function()
    return counter.get_total_flops()


assert {name.split()[0] for name in ENCODER_BUILDERS} == set(ENCODERS)
assert {name.split()[0] for name in DECODER_BUILDERS} == set(DECODERS)
