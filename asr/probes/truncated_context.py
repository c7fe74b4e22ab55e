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
        begin, end: the input frames, without ``end``.
        first, stop: the output frames that are used, without ``stop``.
    """

    begin: int
    end: int
    first: int
    stop: int


def chunk_frames(encoder: Encoder) -> int:
    """Encoder frames per chunk; 1 if frames do not see the later frames of their chunk.

    Runs begin at multiples of it, so that they keep the chunks of the utterance.
    """
    return encoder.chunk // encoder.stride


def whole_chunks(frames: float, chunk: int) -> int:
    """``frames`` rounded up to a multiple of ``chunk``; an excess below 1e-6 is ignored."""
    return chunk * max(0, math.ceil((frames - 1e-6) / chunk))


def windows(
    frames: int, context: int | None, *, block: int, chunk: int, causal: bool
) -> list[Window]:
    """The runs that compute each of ``frames`` output frames once, in order.

    One run computes all frames of a block. The run begins ``context`` frames before the first frame
    of the block, so later frames of the block see up to ``block`` - 1 frames more. One run computes
    all blocks that begin within ``context`` of the beginning of the utterance. A run ends with its
    block if the encoder is causal, otherwise with the utterance.

    Args:
        frames: S of the utterance, at least 1.
        context: number of past frames that a frame sees, a multiple of ``chunk``; None for all.
        block: number of frames that share a run, rounded up to whole chunks.
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
    """Encodes features (T, F) as frames (S, D) that each see ``context`` frames before.

    If blocks or chunks are longer than 1, some frames see more; see ``windows``.

    Args:
        encoder: in eval mode, on the device of ``x``.
        x: features, at least one frame.
        context: number of encoder frames; None for all, as in an ordinary run.
        block: number of encoder frames that share a run.
        max_frames: most feature frames in a batch of runs, including padding.
    """
    stride, chunk = encoder.stride, chunk_frames(encoder)
    frames = -(-len(x) // stride)
    runs = windows(frames, context, block=block, chunk=chunk, causal=encoder.causal)
    inputs = [x[run.begin * stride : run.end * stride] for run in runs]
    y = x.new_zeros(frames, encoder.dim)
    for batch in bucket([len(part) for part in inputs], max_frames):
        parts = [inputs[i] for i in batch]
        lengths = torch.tensor([len(part) for part in parts], device=x.device)
        out, _ = encoder(pad_sequence(parts, batch_first=True), lengths)  # (B, S, D)
        for row, i in zip(out, batch, strict=True):
            run = runs[i]
            y[run.first : run.stop] = row[run.first - run.begin : run.stop - run.begin]
    return y
