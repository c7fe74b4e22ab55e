"""Training with ``torch.compile``: few static batch shapes, compiled regions, measured time."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from asr.batch import BLANK
from asr.encoders.recurrent import RecurrentBlock
from asr.layers import Rotary
from asr.metering.meter import Ledger
from asr.model import Padded, SpeechModel

log = logging.getLogger(__name__)

STEP = 1.25  # from one shape's frames to the next one's
FRAMES, TOKENS = 16, 8  # shapes have multiples of these
BACKENDS = ("eager", "aot_eager")  # of ``trainer.compile``; what is none of these is a mode
SLACK = 4  # frames that rounding, of durations and of resampled lengths, may make of a difference


class Shape(NamedTuple):
    """The padded size of a batch: utterances, feature frames, tokens."""

    rows: int
    frames: int
    tokens: int


class Shapes:
    """As many shapes as fit between the shortest and the longest utterance, each ``STEP`` apart.

    A shape has the frames of the longest batch of its step, and of utterances and of tokens the
    most that a batch of its step can hold, so that every batch of a recipe has exactly one, and
    their number is known before training.

    Args:
        seconds: length of each training utterance.
        num_tokens: of each.
        max_batch_seconds: largest batch, in seconds: length of the longest utterance times number
            of utterances.
        speeds: factors of speed perturbation.
        hop_seconds: from one feature frame to the next.

    Attributes:
        all: by rising number of frames.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        num_tokens: Sequence[int],
        max_batch_seconds: float,
        speeds: Sequence[float],
        hop_seconds: float,
    ) -> None:
        slow, fast = min(speeds), max(speeds)
        shortest, longest = min(seconds), max(seconds)
        # At least these, and at most those, are the frames of each utterance.
        fewest = [length / fast / hop_seconds - SLACK for length in seconds]
        last = longest / slow / hop_seconds + SLACK
        frames, ladder = last, [pad_to_multiple(last, FRAMES)]
        while (frames := frames / STEP) > shortest / fast / hop_seconds:
            ladder.append(pad_to_multiple(frames, FRAMES))
        self.all: list[Shape] = []
        below = 0
        for frames in sorted(set(ladder)):
            # Of the longest utterance of its batches, in seconds.
            least = max(shortest, (below - SLACK) * hop_seconds * slow)
            rows = max(1, min(len(seconds), int(max_batch_seconds / least)))
            tokens = max(n for n, few in zip(num_tokens, fewest, strict=True) if few <= frames)
            self.all.append(Shape(rows, frames, pad_to_multiple(tokens, TOKENS)))
            below = frames

    def of(self, rows: int, frames: int, tokens: int) -> Shape:
        """The shape of a batch; it has at least this size."""
        for shape in self.all:
            if shape.frames >= frames and shape.rows >= rows and shape.tokens >= tokens:
                return shape
        raise AssertionError(f"no shape for {rows} x {frames} x {tokens} in {self.all}")

    def pad(self, given: Padded) -> Padded:
        """Features and tokens of a batch, padded to its shape; see ``SpeechModel.forward``."""
        x, frames, tokens, token_lengths = given
        shape = self.of(len(x), x.shape[1], tokens.shape[1])
        rows = shape.rows - len(x)
        return (
            F.pad(x, (0, 0, 0, shape.frames - x.shape[1], 0, rows)),
            F.pad(frames, (0, rows)),
            F.pad(tokens, (0, shape.tokens - tokens.shape[1], 0, rows), value=BLANK),
            F.pad(token_lengths, (0, rows)),
        )


def pad_to_multiple(number: float, size: int) -> int:
    """The next multiple of ``size``, at least one."""
    return max(1, math.ceil(number / size)) * size


def compile_regions(model: SpeechModel, mode: str, shapes: Sequence[Shape]) -> list[nn.Module]:
    """Compiles, in place, the regions that the encoder and the decoder name.

    For these shapes, by rising number of frames, on the device where the model is.

    Regions rather than the whole: layers of one kind share what is compiled for a shape, so that
    its cost does not grow with depth, and what a compiler makes nothing of stays between them, the
    same for all encoders and decoders: cuDNN's recurrences, which it would unroll frame by frame,
    CTC, the transducer's lattice and the attention LSTM's steps, which have their own kernels.
    """
    regions = [*model.encoder.regions(), *model.decoder.regions()]
    for module in model.modules():
        if isinstance(module, RecurrentBlock):
            setattr(module, "read", torch.compiler.disable(module.read))  # noqa: B010  (for mypy)
        # What a region makes lies in the memory of its CUDA graph, which the next step overwrites:
        # what it would keep has to be there before.
        if isinstance(rotary := getattr(module, "rotary", None), Rotary):
            rotary(shapes[-1].frames, model.device)
    settings: Any = torch._dynamo.config
    # Every shape once for every region, should regions share nothing; beyond it is run uncompiled.
    settings.recompile_limit = max(settings.recompile_limit, 2 * len(shapes) * len(regions))
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 2 * settings.recompile_limit
    )
    how = {"backend": mode} if mode in BACKENDS else {"mode": mode}
    for region in regions:
        region.compile(dynamic=False, **how)
    return regions


def begin_step(mode: str | None) -> None:
    """Marks the begin of an update, after which CUDA graphs may overwrite the earlier outputs.

    By themselves they take each region that is called for a new step once a backward pass has
    begun. Behind a last region without a graph the first gradient would then throw away what the
    other regions have kept for theirs.
    """
    if mode is not None and mode not in BACKENDS:
        torch.compiler.cudagraph_mark_step_begin()


class Compilations:
    """The number of compilations by torch."""

    number = 0


@contextlib.contextmanager
def metered(ledger: Ledger) -> Iterator[Compilations]:
    """Counts the time in which torch compiles inside the block as ``compilation`` in the ledger."""
    from torch._dynamo.callback import callback_handler

    found, before = Compilations(), "step"

    def begin(_: object) -> None:
        nonlocal before
        found.number += 1
        before = ledger.enter("compilation")

    def end(_: object) -> None:
        ledger.enter(before)

    callback_handler.register_start_callback(begin)
    callback_handler.register_end_callback(end)
    try:
        yield found
    finally:
        callback_handler.remove_start_callback(begin)
        callback_handler.remove_end_callback(end)
        log.info(
            "%d compilations, %.1f s in all sessions", found.number, ledger.seconds["compilation"]
        )
