"""Training with ``torch.compile``: few static batch shapes, compiled regions, measured time."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from asr.batch import BLANK
from asr.encoders.recurrent import RecurrentBlock
from asr.layers import Rotary
from asr.metering.meter import Ledger
from asr.model import Padded, SpeechModel

log = logging.getLogger(__name__)

STEP = 1.25  # ratio of the numbers of frames of two neighbouring shapes
FRAMES, TOKENS = 16, 8  # shapes have multiples of these numbers
BACKENDS = ("eager", "aot_eager")  # values of ``trainer.compile`` that are not modes
SLACK = 4  # frames of error due to the rounding of durations and of resampled lengths


class Shape(NamedTuple):
    """The padded size of a batch: utterances, feature frames, tokens."""

    rows: int
    frames: int
    tokens: int


class Shapes:
    """The shapes of a rank's batches of a recipe, whose numbers of frames grow by ``STEP``.

    A shape has the frames of the longest batch of its step, and the most utterances and tokens that
    a rank's share of a batch of its step can hold. Every share therefore has exactly one shape, and
    the number of shapes is known before training.

    Args:
        seconds: length of each training utterance.
        num_tokens: number of tokens of each training utterance.
        max_batch_seconds: largest batch, in seconds: length of the longest utterance times number
            of utterances.
        speeds: factors of speed perturbation.
        hop_seconds: time from one feature frame to the next.
        num_ranks: number of ranks, among which ``asr.data.batches.split`` splits each batch.

    Attributes:
        all: the shapes in order of their numbers of frames.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        num_tokens: Sequence[int],
        max_batch_seconds: float,
        speeds: Sequence[float],
        hop_seconds: float,
        num_ranks: int = 1,
    ) -> None:
        slow, fast = min(speeds), max(speeds)
        shortest, longest = min(seconds), max(seconds)
        # Lower and upper bounds of the number of frames of each utterance.
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
            most = max(1, min(len(seconds), int(max_batch_seconds / least)))
            # A batch of N rows as long as the bound allows. Shares of equal numbers of rows have a
            # padded size of at most ``largest``, so the best split has no larger ones.
            batch = np.arange(1, most + 1)
            largest = np.ceil(batch / num_ranks) * np.minimum(max_batch_seconds / batch, longest)
            rows = max(1, int(np.minimum(batch, largest / least + 1e-6).max()))
            tokens = max(n for n, few in zip(num_tokens, fewest, strict=True) if few <= frames)
            self.all.append(Shape(rows, frames, pad_to_multiple(tokens, TOKENS)))
            below = frames

    def of(self, rows: int, frames: int, tokens: int) -> Shape:
        """Returns the shape of a batch of this size; the shape is at least as large."""
        for shape in self.all:
            if shape.frames >= frames and shape.rows >= rows and shape.tokens >= tokens:
                return shape
        raise AssertionError(f"no shape for {rows} x {frames} x {tokens} in {self.all}")

    def pad(self, given: Padded) -> Padded:
        """Pads features and tokens of a batch to its shape; see ``SpeechModel.forward``."""
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
    """Rounds up to a multiple of ``size`` that is not 0."""
    return max(1, math.ceil(number / size)) * size


def compile_regions(model: SpeechModel, mode: str, shapes: Sequence[Shape]) -> list[nn.Module]:
    """Compiles, in place, the regions that the encoder and the decoder name.

    The shapes are ordered by their numbers of frames. The model must be on its final device.

    Regions are compiled rather than the whole model, because layers of one kind then share the code
    for a shape, and the cost does not grow with depth. The parts that a compiler cannot speed up
    stay outside: cuDNN's recurrences, which it would unroll frame by frame, CTC, the transducer's
    lattice and the attention LSTM's steps, which have their own kernels.
    """
    regions = [*model.encoder.regions(), *model.decoder.regions()]
    for module in model.modules():
        if isinstance(module, RecurrentBlock):
            setattr(module, "read", torch.compiler.disable(module.read))  # noqa: B010  (for mypy)
        # A region's outputs lie in the memory of its CUDA graph, which the next step overwrites.
        # The rotary factors outlive a step, so they are computed outside of the regions.
        if isinstance(rotary := getattr(module, "rotary", None), Rotary):
            rotary(shapes[-1].frames, model.device)
    settings: Any = torch._dynamo.config
    # Beyond this limit torch runs uncompiled; it suffices if no two regions share their code.
    settings.recompile_limit = max(settings.recompile_limit, 2 * len(shapes) * len(regions))
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 2 * settings.recompile_limit
    )
    how = {"backend": mode} if mode in BACKENDS else {"mode": mode}
    for region in regions:
        region.compile(dynamic=False, **how)
    return regions


def begin_step(mode: str | None) -> None:
    """Marks the start of an update, after which CUDA graphs may overwrite earlier outputs.

    Without the mark, CUDA graphs take each region that is called after a backward pass began for a
    new step. If the last region has no graph, the first gradient would then discard the values that
    the other regions keep for their gradients.
    """
    if mode is not None and mode not in BACKENDS:
        torch.compiler.cudagraph_mark_step_begin()


@contextlib.contextmanager
def metered(ledger: Ledger) -> Iterator[None]:
    """Counts the time in which torch compiles inside the block as ``compilation`` in the ledger."""
    from torch._dynamo.callback import callback_handler

    number, before = 0, "step"

    def begin(_: object) -> None:
        nonlocal number, before
        number += 1
        before = ledger.enter("compilation")

    def end(_: object) -> None:
        ledger.enter(before)

    callback_handler.register_start_callback(begin)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(begin)
        callback_handler.remove_end_callback(end)
        seconds = ledger.spent["wall_seconds"]["compilation"]
        log.info("%d compilations, %.1f s in all sessions", number, seconds)
