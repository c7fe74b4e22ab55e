"""The contract of encoders at the sizes that are trained: every recipe, with its own options.

``pytest tests/recipe/test_encoder_recipes.py --encoder my.yaml`` checks a recipe of your own;
``python -m tests.recipe.test_encoder_recipes`` prints the worst deviations of the shipped ones.
"""

import functools
import math

import torch

from asr.config import strict_yaml
from asr.encoders import ENCODERS
from asr.encoders.gate import Gate
from asr.encoders.universal import UniversalBlock
from asr.loss import collected, weighted
from asr.recipe.catalogue import NUM_MELS
from benchmarks.encoder_table import recipes
from tests.tiny import counted_flops, with_garbage

REPEATS = 2  # for learning, so that a second level of 200 frames is reached, too
# What these compute depends on the audio; their formula is the most that it can be.
UPPER_BOUND = (UniversalBlock, Gate)
# One size runs everything; the others have the same code, and gigabytes of weights.
PATHS = recipes()
SMALL = [path for path in PATHS if path.stem.rsplit("-")[-1] in ("tiny", "small")]


def pytest_generate_tests(metafunc):
    """Tests take ``path``, any recipe, or ``small``."""
    own = [path.resolve() for path in metafunc.config.getoption("--encoder")]
    for name, paths in (("path", PATHS), ("small", SMALL)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, own or paths, ids=lambda p: p.stem)


def utterances(path):
    """Feature lengths: of small models long enough for blocks, chunks and a second level."""
    return (1, 41, 130) if path in PATHS and path not in SMALL else (1, 41, 850)


def num_mels(path):
    return NUM_MELS.get(path.stem.rsplit("-")[-1], 80)


@functools.lru_cache(maxsize=1)  # one at a time: the large ones take a quarter of a gigabyte
def build(path):
    torch.manual_seed(0)
    component = strict_yaml.read_component(ENCODERS, strict_yaml.load_file(path), "", 1)
    return component(num_mels(path)).eval()


def sounds(path):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(utterances(path))
    x = torch.randn(len(lengths), max(lengths), num_mels(path), generator=generator)
    return with_garbage(x, lengths), lengths


@torch.no_grad()
def padding_deviation(path):
    """Largest difference of an utterance between alone and in a batch with noisy padding."""
    encoder = build(path)
    x, lengths = sounds(path)
    together, outputs = encoder(x, lengths)
    worst = 0.0
    for row, length in enumerate(lengths.tolist()):
        alone, size = encoder(x[row : row + 1, :length], lengths[row : row + 1])
        assert size.item() == outputs[row].item()
        assert together[row, size:].eq(0).all()
        worst = max(worst, float((together[row, :size] - alone[0]).abs().max()))
    return worst


@torch.no_grad()
def streaming_deviation(path):
    """Largest difference between chunk by chunk and at once; None where it cannot stream."""
    encoder = build(path)
    if not encoder.causal:
        return None
    time = encoder.chunk * -(-max(utterances(path)) // encoder.chunk)
    x = torch.randn(2, time, num_mels(path))
    state, outputs = encoder.initial_state(2), []
    for piece in x.split(7 * encoder.chunk, dim=1):
        y, state = encoder.step(piece, state)
        outputs.append(y)
    whole, _ = encoder(x, torch.tensor([time, time]))
    return float((torch.cat(outputs, 1) - whole).abs().max())


def test_an_encoder_recipe_passes_the_contract_tests(path):
    assert padding_deviation(path) < 1e-4
    streaming = streaming_deviation(path)
    assert streaming is None or streaming < 1e-4


@torch.no_grad()
def test_a_small_size_has_the_lengths_of_its_stride_and_the_flops_of_its_formula(small):
    encoder = build(small)
    x, lengths = sounds(small)
    y, sizes = encoder(x, lengths)
    assert sizes.tolist() == [math.ceil(length / encoder.stride) for length in utterances(small)]
    assert y.shape == (len(lengths), max(sizes), encoder.dim)
    counted = counted_flops(lambda: encoder(x[2:], lengths[2:]))
    formula = encoder.flops([int(lengths[2])])
    upper_bound = any(isinstance(block, UPPER_BOUND) for block in encoder.layers)
    assert counted <= formula if upper_bound else counted == formula


def test_a_small_size_learns_with_every_parameter_in_bfloat16(small):
    encoder = build(small).train()
    x, lengths = sounds(small)
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), collected() as terms:
        y, _ = encoder(x.repeat(1, REPEATS, 1), lengths * REPEATS)
        loss = (y.float() * torch.linspace(-1, 2, y.shape[-1])).sum()
        (loss + (weighted(terms) if terms else 0)).backward()
    encoder.eval()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


if __name__ == "__main__":
    padding, streaming = {}, {}
    for path in PATHS:
        padding[path.stem] = padding_deviation(path)
        found = streaming_deviation(path)
        if found is not None:
            streaming[path.stem] = found
        print(f"{path.stem:28} padding {padding[path.stem]:.1e}  streaming {found}", flush=True)
    for name, values in (("padding", padding), ("streaming", streaming)):
        worst = max(values, key=values.get)
        print(f"{name}: {len(values)} combinations, worst {values[worst]:.1e} ({worst})")
