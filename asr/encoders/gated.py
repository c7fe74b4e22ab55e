"""Self-attention to stored frames and to the frame itself; streams."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.encoders.attention import Attention, block_frames
from asr.encoders.block import BlockState, Frames, Stored
from asr.encoders.gate import Memory
from asr.kernels.scan import scan
from asr.layers import Rotary, SelfAttention, apply_rotary, attend, rotary_at


class GatedAttention(Attention):
    """Causal attention of each frame to itself and to the vectors stored before it.

    A stored frame and the skipped frames after it form a group, which the memory holds as one
    vector. If skipped frames are dropped, it is the vector of the first frame. If they are merged,
    it is the mean of the n frames of the group so far, and log n is added to its scores (Bolya et
    al. 2023). The rotary position of a group is that of its first frame.

    Keys and values are gathered, so T frames in K groups need T * K scores. A frame sees the last
    ``left_context`` stored vectors, or all of them if ``left_context`` is None.
    """

    causal = True

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        memory: Memory,
        left_context: int | None = None,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        if left_context is not None and left_context < 1:
            raise ValueError(f"left_context {left_context}: with memory, give 1 vector or more")
        self.dim, self.heads, self.memory, self.left_context = dim, heads, memory, left_context
        self.attention = SelfAttention(dim, heads=heads)
        self.rotary = Rotary(dim // heads) if rotary else None

    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to the stored vectors."""
        x, stored, time = frames.x, frames.stored, frames.x.shape[1]
        assert stored is not None, "a Gate comes first"
        query, plain, value = self.attention.split(x, None)  # (B, H, S, d)
        key, held, bias = self._groups(plain, value, stored)
        if self.rotary:
            factors = self.rotary(time, x.device)
            query, plain = apply_rotary(query, factors), apply_rotary(plain, factors)
            key = apply_rotary(key, factors[stored.began][:, None])
        if stored.weight is not None:
            held = held * stored.weight.gather(1, stored.began)[:, None, :, None].to(held.dtype)

        # The vectors of complete groups that each block of queries may see.
        vectors = max(0, stored.frames.shape[1] - 1)
        block = self._block(time, vectors)
        numbers, age = window(stored.before, vectors, self.left_context or time, block - 1, block)
        ends = (stored.frames[:, 1:] - 1).clamp(min=0).gather(1, numbers.flatten(1))
        keys, values = (take_frames(v, ends).unflatten(2, numbers.shape[1:]) for v in (key, held))
        sizes = bias.gather(1, ends).view_as(numbers)[:, :, None]
        sizes = sizes.masked_fill((age < 2) | (age > (self.left_context or time)), -math.inf)
        # The vectors that only one query sees: its own frame, and the newest group before it.
        newest, late = F.pad(bias[:, :-1], (1, 0), value=-math.inf), (0, 0, 1, 0)
        alone = [
            (plain, value, torch.zeros_like(newest)),
            (F.pad(key[:, :, :-1], late), F.pad(held[:, :, :-1], late), newest),
        ]
        return self.attention.output(attend_both(query, keys, values, sizes, alone))

    def _groups(self, key: Tensor, value: Tensor, stored: Stored) -> tuple[Tensor, Tensor, Tensor]:
        """The key and value of each frame's group up to that frame, and (B, S) score offsets."""
        if self.memory.skipped == "drop":
            bias = torch.zeros_like(stored.began, dtype=torch.float32)
            return take_frames(key, stored.began), take_frames(value, stored.began), bias
        frame = torch.arange(key.shape[2], device=key.device)
        sizes = (frame - stored.began + 1).float()
        both = torch.cat([key, value], dim=-1).transpose(1, 2)  # (B, S, H, 2d)
        log_decay = torch.where(stored.keep, -math.inf, 0.0)[:, :, None]
        sums = scan(log_decay.expand(-1, -1, both[0, 0].numel()), both.flatten(2))
        means = (sums / sizes[:, :, None]).view_as(both).transpose(1, 2).type_as(key)
        key, value = means.chunk(2, dim=-1)
        return key, value, sizes.log()

    def _block(self, time: int, vectors: int) -> int:
        """Number of queries that share their keys: all, unless windows need less computation."""
        if self.left_context is None:
            return time
        block = block_frames(self.left_context, 1)
        return time if vectors < self.left_context + block else block

    def initial_state(self, batch: int) -> BlockState:
        """An empty memory: ``stored`` keys and values, the ``sizes`` of their groups.

        ``count`` vectors were stored, the newest one from frame ``began`` on; with a left context
        they take each other's places in turn.
        """
        weight = self.attention.output.weight
        return {
            "stored": weight.new_zeros(batch, 0, 2, self.heads, self.dim // self.heads),
            "sizes": weight.new_zeros(batch, 0),
            "count": torch.zeros(batch, dtype=torch.int64, device=weight.device),
            "began": torch.zeros(batch, dtype=torch.int64, device=weight.device),
            "position": torch.zeros((), dtype=torch.int64, device=weight.device),
        }

    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames one by one; see ``Block.step``.

        The state grows with the stored vectors, unless ``left_context`` bounds it.
        """
        x, stored, outputs = frames.x, frames.stored, []
        assert stored is not None, "a Gate comes first"
        for frame, keep in zip(x.split(1, dim=1), stored.keep.unbind(1), strict=True):
            query, key, value = self.attention.split(frame, None)
            at = state["position"].expand(len(x))
            slots = torch.arange(state["sizes"].shape[1], device=x.device)
            there = slots < state["count"][:, None]
            bias = state["sizes"].log().masked_fill(~there, -math.inf)
            keys, values = state["stored"].to(key.dtype).permute(2, 0, 3, 1, 4)
            keys = torch.cat([keys, self._turn(key, at)], dim=2)
            values = torch.cat([values, value], dim=2)
            bias = F.pad(bias, (0, 1))[:, None, None].to(query.dtype)
            outputs.append(self.attention.output(attend(self._turn(query, at), keys, values, bias)))
            state = self._store(key, value, keep, state)
        return torch.cat(outputs, dim=1), state

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotates (B, H, 1, d) vectors by their positions (B,), if positions are rotary."""
        return x if self.rotary is None else rotary_at(x, positions[:, None])

    def _store(self, key: Tensor, value: Tensor, keep: Tensor, state: BlockState) -> BlockState:
        """Starts a group with the frame, merges the frame into the newest group, or drops it."""
        count = state["count"] + keep
        began = torch.where(keep, state["position"], state["began"])
        most = min(int(count.max()), self.left_context or int(count.max()))
        more = most - state["sizes"].shape[1]
        held = F.pad(state["stored"], (0, 0, 0, 0, 0, 0, 0, more)).to(key.dtype)
        sizes = F.pad(state["sizes"], (0, more))
        slot = (count - 1) % (self.left_context or most)
        here = torch.arange(most, device=key.device) == slot[:, None]  # (B, M)
        if self.memory.skipped == "drop":
            here = here & keep[:, None]
        grown = torch.where(keep[:, None], 1.0, sizes + 1)
        new = torch.cat([self._turn(key, began), value], dim=2).transpose(1, 2)[:, None]
        share = (here / grown)[:, :, None, None, None]
        held = torch.lerp(held, new.expand_as(held), share.to(held.dtype))
        return {
            "stored": held,
            "sizes": torch.where(here, grown, sizes),
            "count": count,
            "began": began,
            "position": state["position"] + 1,
        }

    def flops(self, time: int) -> int:
        """FLOPs of one sequence; an upper bound if the gate depends on the frames."""
        vectors = max(0, self.memory.most(time) - 1)
        block = self._block(time, vectors)
        width = min(vectors, (self.left_context or time) + block - 1)
        scores = -(-time // block) * block * (width + 2)
        return 8 * self.dim**2 * time + 4 * self.heads * widened(self.dim // self.heads, 2) * scores


def blocked(x: Tensor, block: int) -> Tensor:
    """Cuts (..., S, d) vectors into (..., blocks, n, d), with zeros at the end."""
    return F.pad(x, (0, 0, 0, -x.shape[-2] % block)).unflatten(-2, (-1, block))


def window(
    number: Tensor, vectors: int, before: int, growth: int, block: int
) -> tuple[Tensor, Tensor]:
    """The numbers and ages of the memory vectors that each block of queries may see.

    Args:
        number: (B, S) vectors stored before each query; vector ``number`` - 1 is the newest.
        vectors: number of vectors in the memory.
        before: number of the newest vectors that a query may see.
        growth: largest number of vectors that are added within a block.
        block: number n of queries in a block.

    Returns:
        (B, blocks, W) numbers of vectors, and (B, blocks, n, W) their ages: the newest vector has
        age 1; a vector of age 0 or less is not stored yet.
    """
    there = blocked(number[..., None], block)  # (B, blocks, n, 1)
    if vectors <= before + growth:
        every = torch.arange(vectors, device=number.device).expand(*there.shape[:2], -1)
        return every, there - every[:, :, None]
    numbers = there[:, :, 0] - before + torch.arange(before + growth, device=number.device)
    age = (there - numbers[:, :, None]).masked_fill((numbers < 0)[:, :, None], 0)
    return numbers.clamp(0, vectors - 1), age


def attend_both(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    alone: list[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Attention with one softmax over the keys of a block and the keys of each single query.

    It takes one call of torch's fused attention. Each key of a single query is replaced by a unit
    vector in an extra dimension, which all queries share; the query holds the score in that
    dimension. The same unit vector serves as the value and returns the attention weight.

    Args:
        query: (B, H, S, d).
        keys: (B, H, blocks, W, d).
        values: the same.
        bias: (B, blocks, n, W) added to the scores; -inf masks a key.
        alone: keys (B, H, S, d) of single queries, values (B, H, S, d), (B, S) score offsets.

    Returns:
        (B, S, H * d).
    """
    (batch, _, time, width), (blocks, block) = query.shape, bias.shape[1:3]
    more = widened(width, len(alone)) - width
    scores = torch.stack([(query * key).sum(-1) for key, _, _ in alone], dim=-1)
    query = torch.cat([query, F.pad(scores, (0, more - len(alone)))], dim=-1).type_as(query)
    shared = torch.eye(len(alone), width + more, dtype=query.dtype, device=query.device)
    shared = shared.roll(width, 1).expand(*keys.shape[:3], -1, -1)
    keys, values = (torch.cat([F.pad(v, (0, more)), shared], dim=3) for v in (keys, values))
    others = blocked(torch.stack([own.expand(batch, -1) for _, _, own in alone], dim=-1), block)
    bias = torch.cat([bias, others], dim=-1).to(query.dtype).flatten(0, 1)[:, None]
    query, keys, values = (
        v.transpose(1, 2).flatten(0, 1) for v in (blocked(query, block), keys, values)
    )
    y = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=width**-0.5)
    y = y.unflatten(0, (batch, blocks)).transpose(2, 3).flatten(1, 2)[:, :time]  # (B, S, H, .)
    shares = y[..., width:].split(1, dim=-1)
    y = y[..., :width]
    for share, (_, value, _) in zip(shares, alone, strict=False):  # the rest pads the width
        y = y + share * value.transpose(1, 2)
    return y.flatten(2)


def widened(width: int, alone: int) -> int:
    """Head width plus ``alone`` dimensions, as the multiple of 8 that fused kernels need."""
    return -(-(width + alone) // 8) * 8


def take_frames(x: Tensor, frames: Tensor) -> Tensor:
    """Takes the frames (B, N) of each utterance from (B, H, S, d); returns (B, H, N, d)."""
    return x.gather(2, frames[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
