"""The two variants of hierarchical attention: aligned summaries and dilated levels.

In "The fall of RNN / LSTM" (Culurciello 2018), attention looks at about 100 past vectors, and a
second level of attention looks at 100 such modules, so that two levels reach 10,000 vectors. In the
aligned variant, a level holds one summary for each complete block of w vectors of the level below.
In the dilated variant, a level looks at every w-th output of the level below.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.encoders.attention import Attention, FrameAttention
from asr.encoders.block import BlockState, Frames
from asr.kernels.linear import Linear, xavier
from asr.layers import attend, modules, rotary_at, rotary_factors

Pooling = Literal["attention", "mean", "last"]


class Pool(nn.Module):
    """Summarises each block of w vectors: by attention of a learned query, the mean or the last."""

    def __init__(self, dim: int, *, heads: int, pooling: Pooling) -> None:
        super().__init__()
        self.dim, self.heads, self.pooling = dim, heads, pooling
        if pooling == "attention":
            # A learned query and the key projection form one linear map to a score per head.
            self.score = Linear(dim, heads, bias=False)
            self.value = Linear(dim, dim)
            self.output = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Summarises blocks (..., w, D) as vectors (..., D)."""
        if self.pooling == "mean":
            return x.mean(-2)
        if self.pooling == "last":
            return x[..., -1, :]
        shares = self.score(x).softmax(-2)[..., None]  # (..., w, H, 1)
        values = self.value(x).unflatten(-1, (self.heads, -1))
        return self.output((shares * values).sum(-3).flatten(-2))

    def flops(self, vectors: int, blocks: int) -> int:
        """FLOPs of ``blocks`` blocks that hold ``vectors`` vectors in all."""
        if self.pooling != "attention":
            return 0
        return 2 * self.dim * (self.heads + self.dim) * vectors + 2 * self.dim**2 * blocks


class AlignedAttention(Attention):
    """One softmax over the last w frames and the last w summaries of each level above.

    Level l >= 1 has a summary for every complete block of w^l frames. Frame t sees the summaries of
    blocks before its own block of w^l frames. All frames of a block of w see the same summaries, so
    keys are gathered per block, and memory is not quadratic in time. A frame reaches w^levels to
    w^levels + w^(levels-1) - 1 frames back. Positions are rotary; the position of a summary is the
    middle of its block.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        levels: int,
        pooling: Pooling,
        right_context: int,
    ) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ValueError(f"width {dim} does not divide by twice the number of heads ({heads})")
        self.dim, self.heads, self.window, self.levels = dim, heads, window, levels
        self.right_context, self.causal = right_context, not right_context
        self.query, self.output = Linear(dim, dim), Linear(dim, dim)
        self.key_value = modules(Linear(dim, 2 * dim) for _ in range(levels))
        self.pools = modules(Pool(dim, heads=heads, pooling=pooling) for _ in range(levels - 1))
        xavier(self.query, self.output)
        xavier(*self.key_value, parts=2)

    def turned_query(self, x: Tensor, positions: Tensor) -> Tensor:
        """Computes queries (B, H, n, d) of (B, n, D) vectors, rotated by their positions."""
        return rotary_at(self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), positions)

    def keys_and_values(self, level: int, memory: Tensor, first: int | Tensor) -> Tensor:
        """Computes keys and values (B, n, 2, H, d) of (B, n, D) vectors of a level.

        ``first`` is the number of the first vector in its level.
        """
        key_value = self.key_value[level](memory).unflatten(-1, (2, self.heads, -1))
        size = self.window**level
        at = (first + torch.arange(memory.shape[1], device=memory.device)) * size + size // 2
        key, value = key_value.unbind(2)
        key = rotary_at(key.transpose(1, 2), at).transpose(1, 2)
        return torch.stack([key, value.type_as(key)], dim=2)

    def slots(self, time: int) -> list[int]:
        """Keys per block of queries at each level that some frame of ``time`` frames sees."""
        block = min(self.window, time)
        last = -(-time // block) - 1  # the last block's number
        own = block + (self.window + self.right_context if time > block else 0)
        above = [last // self.window**level for level in range(self.levels - 1)]
        return [own, *(min(self.window, there) for there in above if there)]

    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to frames and summaries before them."""
        x, (batch, time, _) = frames.x, frames.x.shape
        window, block = self.window, min(self.window, time)
        blocks, slots = -(-time // block), self.slots(time)
        later = blocks * block - time
        left, right = (window, self.right_context) if time > block else (0, 0)

        positions = torch.arange(time, device=x.device)
        query = self.turned_query(x, positions).transpose(1, 2)  # (B, S, H, d)
        query = F.pad(query, (0, 0, 0, 0, 0, later)).unflatten(1, (blocks, block))

        # Level 0: the block itself, the frames of its left context and of its right context.
        stored = self.keys_and_values(0, x, 0)
        if time > block:
            after = later + (block if right else 0)
            stored = F.pad(stored, (0, 0, 0, 0, 0, 0, window, after)).unflatten(1, (-1, block))
            parts = [stored[:, :blocks], stored[:, 1 : blocks + 1]]
            parts += [stored[:, 2:, :right]] if right else []
        else:
            parts = [stored[:, None]]
        starts = block * torch.arange(blocks, device=x.device)[:, None]
        at = starts + torch.arange(-left, block + right, device=x.device)  # (blocks, keys)
        back = torch.arange(block, device=x.device)[:, None] - at[0]  # (block, keys)
        seen = (back < window) & (back >= -self.right_context)
        there = (at >= 0)[None]
        if self.right_context:
            there = there & (at < frames.lengths[:, None, None])  # (B, blocks, keys)
        # A frame of the padding sees itself, because a softmax over no keys would be NaN.
        real = (seen & there[:, :, None]) | (back == 0)  # (B or 1, blocks, block, keys)

        masks, memory = [real], x
        for level, keys in enumerate(slots[1:], start=1):
            number = memory.shape[1] // window
            memory = self.pools[level - 1](
                memory[:, : number * window].unflatten(1, (number, window))
            )
            stored = self.keys_and_values(level, memory, 0)
            before = torch.arange(blocks, device=x.device) // window ** (level - 1)
            slot = before[:, None] - 1 - torch.arange(keys, device=x.device)  # newest first
            chosen = stored.index_select(1, slot.clamp(min=0).flatten())
            parts.append(chosen.unflatten(1, (blocks, keys)))
            masks.append((slot >= 0)[None, :, None].expand(len(real), -1, block, -1))
        key, value = torch.cat(parts, dim=2).flatten(0, 1).unbind(2)
        mask = torch.cat(masks, dim=-1).expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
        query, key, value = (v.transpose(1, 2) for v in (query.flatten(0, 1), key, value))
        y = attend(query, key, value, mask)
        y = self.output(y.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :time])
        return self._with_all_levels(y, len(slots))

    def _with_all_levels(self, y: Tensor, levels: int) -> Tensor:
        """Returns ``y`` unchanged, but gives zero gradients to levels that it does not use.

        Distributed training waits for a gradient of every parameter.
        """
        if not self.training or levels == self.levels:
            return y
        beyond = [*self.key_value[levels:], *self.pools[levels - 1 :]]
        unused = [p.sum() for module in beyond for p in module.parameters()]
        return y + 0 * torch.stack(unused).sum()

    def initial_state(self, batch: int) -> BlockState:
        """The empty state: keys and values ``stored``, and incomplete blocks ``open``, by level."""
        weight = self.output.weight
        none = weight.new_zeros(batch, 0, 2, self.heads, self.dim // self.heads)
        state = {f"stored.{level}": none for level in range(self.levels)}
        for level in range(self.levels - 1):
            state[f"open.{level}"] = weight.new_zeros(batch, 0, self.dim)
        return state | {"position": torch.zeros((), dtype=torch.int64, device=weight.device)}

    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames one by one; see ``Block.step``.

        The state is bounded: keys and values of ``window`` vectors per level, and the vectors of
        blocks that are not complete.
        """
        state, outputs = dict(state), []
        for frame in frames.x.split(1, dim=1):
            position = state["position"]
            self._store(state, 0, frame, position)
            query = self.turned_query(frame, position[None])
            stored = torch.cat([state[f"stored.{level}"] for level in range(self.levels)], dim=1)
            key, value = stored.to(query.dtype).permute(2, 0, 3, 1, 4)
            outputs.append(self.output(attend(query, key, value, None)))
            self._complete(state, frame, position)
            state["position"] = position + 1
        return torch.cat(outputs, dim=1), state

    def _store(self, state: BlockState, level: int, vector: Tensor, number: Tensor) -> None:
        """Adds the key and value of a vector to a level, which drops its oldest ones."""
        new = self.keys_and_values(level, vector, number)
        stored = torch.cat([state[f"stored.{level}"].to(new.dtype), new], dim=1)
        state[f"stored.{level}"] = stored[:, -self.window :].clone()

    def _complete(self, state: BlockState, vector: Tensor, number: Tensor) -> None:
        """Adds a vector to a block; a complete block is summarised for the level above."""
        for level in range(self.levels - 1):
            block = torch.cat([state[f"open.{level}"].to(vector.dtype), vector], dim=1)
            if block.shape[1] < self.window:
                state[f"open.{level}"] = block
                return
            state[f"open.{level}"] = block[:, :0].clone()
            vector, number = self.pools[level](block)[:, None], number // self.window
            self._store(state, level + 1, vector, number)

    def flops(self, time: int) -> int:
        """FLOPs of one utterance, including masked scores."""
        block, slots = min(self.window, time), self.slots(time)
        total = 8 * self.dim**2 * time  # query, key, value, output
        total += 4 * self.dim * -(-time // block) * block * sum(slots)
        vectors = time
        for pool in self.pools[: len(slots) - 1]:
            blocks = vectors // self.window
            total += pool.flops(blocks * self.window, blocks) + 4 * self.dim**2 * blocks
            vectors = blocks
        return total


class DilatedAttention(Attention):
    """Attention in levels: each attends to w outputs of the level below, w^level frames apart.

    A frame reaches exactly w^levels frames. This saves computation but not memory: streaming must
    keep all of these frames, because later frames attend to each of them.
    """

    causal = True

    def __init__(self, dim: int, *, heads: int, window: int, levels: int) -> None:
        super().__init__()
        self.window = window
        self.levels = modules(
            FrameAttention(dim, heads=heads, causal=True, left_context=window - 1)
            for _ in range(levels)
        )

    def apart(self, level: int, time: int) -> int:
        """Number of frames between neighbouring keys, at most ``time``."""
        return min(self.window**level, time)

    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to frames and summaries before them."""
        x, lengths = frames.x, frames.lengths
        for level, attention in enumerate(self.levels):
            time = x.shape[1]
            apart = self.apart(level, time)
            # Frames whose distance is a multiple of ``apart`` become neighbours.
            phases = F.pad(x, (0, 0, 0, -time % apart)).unflatten(1, (-1, apart))
            phases = phases.transpose(1, 2).flatten(0, 1)
            every = lengths.new_full((len(phases),), phases.shape[1])  # causal: padding is unseen
            y = attention(Frames(phases, every)).unflatten(0, (-1, apart))
            x = y.transpose(1, 2).flatten(1, 2)[:, :time]
        return x

    def initial_state(self, batch: int) -> BlockState:
        """The empty state: keys and values ``stored`` by level."""
        first = self.levels[0]
        weight = first.attention.output.weight
        none = weight.new_zeros(batch, 2, first.heads, 0, first.dim // first.heads)
        state = {f"stored.{level}": none for level in range(len(self.levels))}
        return state | {"position": torch.zeros((), dtype=torch.int64, device=weight.device)}

    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames; the state grows to (w - 1) w^l vectors per level."""
        x, new = frames.x, frames.x.shape[1]
        positions = state["position"] + torch.arange(new, device=x.device)
        after = {"position": state["position"] + new}
        for level, attention in enumerate(self.levels):
            apart = self.window**level
            numbers = torch.div(positions, apart, rounding_mode="floor")
            factors = rotary_factors(numbers, attention.dim // attention.heads)
            query, key, value = attention.attention.split(x, factors)
            held = torch.stack([key, value], dim=1)  # (B, 2, H, C, d)
            held = torch.cat([state[f"stored.{level}"].to(key.dtype), held], dim=3)
            outputs = []
            for at in range(new):
                end = held.shape[3] - new + at
                seen = held[:, :, :, end % apart : end + 1 : apart][:, :, :, -self.window :]
                outputs.append(attend(query[:, :, at : at + 1], seen[:, 0], seen[:, 1], None))
            after[f"stored.{level}"] = held[:, :, :, -(self.window - 1) * apart :].clone()
            x = attention.attention.output(torch.cat(outputs, dim=1))
        return x, after

    def flops(self, time: int) -> int:
        """FLOPs of one utterance."""
        total = 0
        for level, attention in enumerate(self.levels):
            apart = self.apart(level, time)
            total += apart * attention.flops(-(-time // apart))
        return total
