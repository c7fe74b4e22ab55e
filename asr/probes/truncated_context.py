"""Computes encoder frames from a limited past, by running the encoder on a window per frame.

The method follows Khandelwal et al. 2018, who truncate the input of a language model. Here the
features are truncated: output frame t comes from a run of the encoder that begins c encoder frames
before t. At that point a recurrent state is reset, attention sees no older frames, and a
convolution sees padding. This works for every encoder without changes. Absolute positions, and
grids that begin with the input (such as the blocks of a hierarchy), begin at that point, too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data.batches import bucket
from asr.encoders import Encoder


@dataclass(frozen=True)
class Window:
    """One run of the encoder, in encoder frames of the utterance.

    Attributes:
        begin, end: what it hears; ``end`` is not heard.
        first, stop: the output frames that are taken from it; ``stop`` is not.
    """

    begin: int
    end: int
    first: int
    stop: int


def chunk_frames(encoder: Encoder) -> int:
    """Encoder frames per chunk: runs begin at multiples, so that chunks stay what they are.

    1 wherever a frame does not see the rest of a chunk.
    """
    return encoder.chunk // encoder.stride


def whole_chunks(frames: float, chunk: int) -> int:
    """The least multiple of ``chunk`` that is not less, rounding errors of seconds apart."""
    return chunk * max(0, math.ceil((frames - 1e-6) / chunk))


def windows(
    frames: int, context: int | None, *, block: int, chunk: int, causal: bool
) -> list[Window]:
    """The runs that give each of ``frames`` output frames once, in order.

    Frames of a block are taken from one run, which begins ``context`` frames before the first of
    them: the others hear up to ``block`` - 1 frames more. Blocks that begin within ``context`` of
    the utterance's beginning are one run. A run of a causal encoder ends with its block, any other
    with the utterance.

    Args:
        frames: S of the utterance, at least 1.
        context: frames before its own that a frame may hear, a multiple of ``chunk``; None: all.
        block: frames that share a run; rounded up to whole chunks.
        chunk: see ``chunk_frames``.
        causal: see ``Encoder.causal``.
    """
    block = whole_chunks(block, chunk)
    shared = frames if context is None else min(frames, (context // block + 1) * block)
    found = [Window(0, shared if causal else frames, 0, shared)]
    for first in range(shared, frames, block):
        assert context is not None
        stop = min(first + block, frames)
        found.append(Window(first - context, stop if causal else frames, first, stop))
    return found


@torch.inference_mode()
def encode(
    encoder: Encoder, x: Tensor, context: int | None, *, block: int = 1, max_frames: int = 12_000
) -> Tensor:
    """(T, F) features of an utterance -> (S, D), each frame hearing ``context`` frames before it.

    With ``block`` 1 and chunks of 1 exactly so many, or as many as there are; see ``windows``.

    Args:
        encoder: in eval mode, on the device of ``x``.
        x: at least one frame.
        context: encoder frames; None: all, the ordinary run.
        block: encoder frames that share a run.
        max_frames: feature frames of a batch of runs, padding included.
    """
    stride, chunk = encoder.stride, chunk_frames(encoder)
    frames = -(-len(x) // stride)
    runs = windows(frames, context, block=block, chunk=chunk, causal=encoder.causal)
    heard = [x[run.begin * stride : run.end * stride] for run in runs]
    y = x.new_zeros(frames, encoder.dim)
    for batch in bucket([len(part) for part in heard], max_frames):
        parts = [heard[i] for i in batch]
        lengths = torch.tensor([len(part) for part in parts], device=x.device)
        out, _ = encoder(pad_sequence(parts, batch_first=True), lengths)  # (B, S, D)
        for row, i in zip(out, batch, strict=True):
            run = runs[i]
            y[run.first : run.stop] = row[run.first - run.begin : run.stop - run.begin]
    return y
