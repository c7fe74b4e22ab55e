"""Gates that choose the frames a causal attention encoder stores, and their controls.

"The fall of RNN / LSTM" (Culurciello 2018) proposes a memory that stores a frame only if it differs
from the frames stored before. A gate decides this once for all layers above it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask
from asr.encoders.block import Block, BlockState, Frames, Stored
from asr.kernels.linear import Linear
from asr.layers import zero_padding
from asr.loss import add_term, collecting

RATIO_WEIGHT = 0.03  # weight of the loss on a learned gate's rate (Hwang et al. 2025)


@dataclass(frozen=True)
class Memory:
    """Options of the memory: the rule for storing frames, and the use of skipped frames.

    Args:
        gate: rule for storing frames. last_kept stores a frame that differs from the last stored
            frame. previous stores a frame that differs from the frame before it. learned is the
            router of H-Net (Hwang et al. 2025). The controls are uniform (every n-th frame) and
            random.
        threshold: last_kept and previous store a frame if its cosine similarity to the frame that
            they compare it with is below this threshold. A threshold above 1 stores every frame.
        rate: share of frames that uniform and random store; learned is trained towards this share.
        gap: last_kept always stores a frame that comes this many frames after the last stored one.
        skipped: what happens to frames that are not stored: drop, or merge into the last stored
            vector. A merged vector is the mean of its frames; attention counts it once per frame
            (Bolya et al. 2023).
    """

    gate: Literal["last_kept", "previous", "learned", "uniform", "random"]
    threshold: float = 0.9
    rate: float = 0.5
    gap: int = 100
    skipped: Literal["drop", "merge"] = "drop"

    def __post_init__(self) -> None:
        """Checks the ranges of the options.

        Raises:
            ValueError: the rate or the gap is out of range.
        """
        if not 0 < self.rate <= 1 or (self.gate == "learned" and self.rate == 1):
            limit = "below 1" if self.gate == "learned" else "1 at most"
            raise ValueError(f"memory.rate {self.rate}: give a share of frames above 0 and {limit}")
        if self.gap < 1:
            raise ValueError(f"memory.gap {self.gap}: give 1 frame or more")

    def most(self, time: int) -> int:
        """Number of ``time`` frames that are stored; an upper bound if it depends on the frames."""
        if self.gate not in ("uniform", "random"):
            return time
        choose = uniform if self.gate == "uniform" else random
        return int(choose(torch.arange(time), self.rate).sum())


class Gate(Block):
    """Decides which frames the blocks above it store; does not change the frames.

    Adds the terms ``kept`` (share of frames that are stored), ``kept_speech`` and
    ``kept_silence``, without weight; see ``is_silent``. The learned gate adds ``gate_ratio``.
    """

    def __init__(self, dim: int, memory: Memory) -> None:
        super().__init__()
        self.dim, self.memory = dim, memory
        if memory.gate == "learned":
            self.query, self.key = Linear(dim, dim, bias=False), Linear(dim, dim, bias=False)
            nn.init.eye_(self.query.weight)
            nn.init.eye_(self.key.weight)

    def forward(self, frames: Frames) -> Frames:
        """Returns the frames unchanged, with ``stored`` set."""
        state = self.initial_state(len(frames.x))
        keep, probability, _ = self._decide(frames.x, state)
        real = mask(frames.lengths, frames.x.shape[1])
        keep = keep & real
        weight = None
        if probability is not None:
            # Straight-through estimator: the value is 1, the gradient that of the probability.
            weight = probability - probability.detach() + 1
            if collecting():
                self._hold_rate(keep, zero_padding(probability, frames.lengths), frames.lengths)
        if collecting():
            add_kept_terms(keep, real, frames.loudness)
        return replace(frames, stored=Stored.of(keep, weight))

    def _decide(self, x: Tensor, state: BlockState) -> tuple[Tensor, Tensor | None, BlockState]:
        """Returns keep (B, S), the probabilities (B, S) of a learned gate, and the next state."""
        memory, position = self.memory, state["position"].to(x.device)
        time = position + torch.arange(x.shape[1], device=x.device)
        after = {"position": position + x.shape[1]}
        if memory.gate == "uniform":
            return uniform(time, memory.rate).expand(len(x), -1), None, after
        if memory.gate == "random":
            if self.training:
                chance = torch.rand(x.shape[:2], device=x.device)
                return (chance < memory.rate) | (time == 0), None, after
            return random(time, memory.rate).expand(len(x), -1), None, after
        g = F.layer_norm(x.to(torch.promote_types(x.dtype, torch.float32)), (self.dim,))
        if memory.gate == "last_kept":
            with torch.no_grad():
                keep, last, age = last_kept(
                    g, memory.threshold, memory.gap, state["last"].to(g), state["age"].to(g.device)
                )
            return keep, None, {**after, "last": last, "age": age}
        before = torch.cat([state["last"].to(g)[:, None], g[:, :-1]], dim=1)
        after["last"] = g[:, -1].clone()
        if memory.gate == "previous":
            cosine = F.cosine_similarity(before, g, dim=-1)
            return (cosine < memory.threshold) | (time == 0), None, after
        query, key = self.query(before).float(), self.key(g).float()
        difference = (1 - F.cosine_similarity(query, key, dim=-1)) / 2
        probability = torch.where(time == 0, 1.0, difference.clamp(0, 1))
        return probability >= 0.5, probability, after

    def _hold_rate(self, keep: Tensor, probability: Tensor, lengths: Tensor) -> None:
        """Adds the ratio loss, as a mean over utterances that is weighted by their frames."""
        sizes = lengths.clamp(min=1)
        losses = ratio_loss(keep.sum(1) / sizes, probability.sum(1) / sizes, self.memory.rate)
        add_term("gate_ratio", (losses * lengths).sum(), lengths.sum(), RATIO_WEIGHT)

    def initial_state(self, batch: int) -> BlockState:
        """The initial ``position``; gates that compare frames also have the ``last`` frame."""
        state = {"position": torch.zeros((), dtype=torch.int64)}
        if self.memory.gate in ("uniform", "random"):
            return state
        state["last"] = torch.zeros(batch, self.dim)
        if self.memory.gate == "last_kept":
            # The age equals the gap, so that the first frame is always stored.
            state["age"] = torch.full((batch,), self.memory.gap)
        return state

    def step(self, frames: Frames, state: BlockState) -> tuple[Frames, BlockState]:
        """See ``Block.step``."""
        keep, _, state = self._decide(frames.x, state)
        return replace(frames, stored=Stored.of(keep)), state

    def flops(self, time: int) -> int:
        """FLOPs of the matrix products of the learned gate; other gates have none."""
        return 4 * self.dim**2 * time if self.memory.gate == "learned" else 0


def last_kept(
    g: Tensor, threshold: float, gap: int, last: Tensor, age: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keeps a frame that differs from the last kept frame, or comes ``gap`` frames after it.

    Each decision depends on the one before, so the function loops over frames, without gradient. A
    frame of g (B, S, D) is kept if its cosine similarity is below ``threshold``. ``last`` (B, D) is
    the last kept frame, which came ``age`` (B,) frames before.

    Returns:
        (B, S) bool, and the next ``last`` (of length 1) and ``age``.
    """
    kept = []
    for x in F.normalize(g, dim=-1).unbind(1):
        age = age + 1
        keep = ((x * last).sum(-1) < threshold) | (age >= gap)
        last = torch.where(keep[:, None], x, last)
        age = age.masked_fill(keep, 0)
        kept.append(keep)
    return torch.stack(kept, dim=1), last, age


def uniform(positions: Tensor, rate: float) -> Tensor:
    """Keeps position 0, and each of (S,) positions where floor(rate * position) increases."""
    # The margin is for rates such as 1 / 49: in floating point, 49 times 1 / 49 is less than 1.
    complete = torch.floor(torch.stack([positions, positions - 1]).double() * rate + 1e-6)
    return complete[0] > complete[1]


def random(positions: Tensor, rate: float) -> Tensor:
    """Keeps position 0, and each of (S,) positions whose hash is below rate * 2^32."""
    x = (positions * 0x9E3779B1) & 0xFFFFFFFF  # followed by the finaliser of MurmurHash3, 32 bits
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return ((x ^ (x >> 16)) < rate * 2**32) | (positions == 0)


def ratio_loss(kept: Tensor, probability: Tensor, rate: float) -> Tensor:
    """Computes N / (N - 1) [(1 - F)(1 - G) + (N - 1) F G] (Hwang et al. 2025, equation 10).

    F is the share of kept frames, G the mean probability, and N is 1 / rate. The loss is 1 if
    F = G = rate.
    """
    return (1 - kept) * (1 - probability) / (1 - rate) + kept * probability / rate


def is_silent(loudness: Tensor) -> Tensor:
    """Marks silent frames, (B, S) bool; the loudness (B, S) is NaN in the padding.

    A frame is silent if its loudness (the mean of its features) is below the midpoint between the
    5 % and the 95 % quantile of the loudness of the utterance.
    """
    quantiles = torch.nanquantile(loudness, loudness.new_tensor([0.05, 0.95]), dim=1)
    return loudness < quantiles.mean(0)[:, None]


def add_kept_terms(keep: Tensor, real: Tensor, loudness: Tensor | None) -> None:
    """Adds the terms ``kept``, ``kept_speech`` and ``kept_silence``, (B, S) each."""
    add_term("kept", keep.sum(), real.sum())
    if loudness is None:
        return
    silence = is_silent(loudness)
    for name, among in (("speech", real & ~silence), ("silence", real & silence)):
        add_term(f"kept_{name}", (keep & among).sum(), among.sum())
