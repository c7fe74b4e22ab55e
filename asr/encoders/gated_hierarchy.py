"""Aligned hierarchical attention over the frames that a gate stored."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.encoders.block import BlockState, Frames
from asr.encoders.gate import Memory
from asr.encoders.gated import attend_both, take_frames, widened, window
from asr.encoders.hierarchy import AlignedAttention, Pooling
from asr.layers import attend, rotary_at


class GatedAlignedAttention(AlignedAttention):
    """One softmax over the frame itself, the last w - 1 stored ones, and w summaries per level.

    This is ``AlignedAttention`` over stored frames instead of all frames. Level l >= 1 has a
    summary for every w^l stored frames. A frame after n stored frames sees the last w of the first
    n // w^l summaries. Rotary positions count all frames; the position of a summary is that of the
    middle stored frame of its block.
    """

    def __init__(
        self, dim: int, *, heads: int, window: int, levels: int, pooling: Pooling, memory: Memory
    ) -> None:
        if memory.skipped == "merge":
            raise ValueError("memory.skipped merge: summaries are of single frames; set it to drop")
        super().__init__(
            dim, heads=heads, window=window, levels=levels, pooling=pooling, right_context=0
        )
        self.memory = memory

    def forward(self, frames: Frames) -> Tensor:
        """Lets the frames (B, S, D) attend to the stored vectors and their summaries."""
        x, stored, time = frames.x, frames.stored, frames.x.shape[1]
        assert stored is not None, "a Gate comes first"
        block, at = min(self.window, time), torch.arange(time, device=x.device)[None]
        query = self.turned_query(x, at)
        key, value = self._key_value(0, x, at)
        alone = [(key, value, torch.zeros_like(at, dtype=query.dtype))]
        vectors = x.gather(1, stored.frames[:, :, None].expand(-1, -1, self.dim))
        keys, values = take_frames(key, stored.frames), take_frames(value, stored.frames)
        if stored.weight is not None:
            weight = stored.weight.gather(1, stored.frames)
            vectors = vectors * weight[..., None].to(vectors.dtype)
            values = values * weight[:, None, :, None].to(values.dtype)
        parts, biases = [], []
        for level in self._levels(vectors.shape[1]):
            size = self.window**level
            if level:
                number = vectors.shape[1] // self.window
                vectors = vectors[:, : number * self.window].unflatten(1, (number, -1))
                vectors = self.pools[level - 1](vectors)
                keys, values = self._key_value(
                    level, vectors, stored.frames[:, size // 2 :: size][:, :number]
                )
            seen, growth = self._sight(level, block)
            numbers, age = window(stored.before // size, vectors.shape[1], seen, growth, block)
            chosen = numbers.flatten(1)
            parts.append(
                [take_frames(v, chosen).unflatten(2, numbers.shape[1:]) for v in (keys, values)]
            )
            hidden = (age < 1) | (age > seen)
            biases.append(torch.zeros_like(age, dtype=query.dtype).masked_fill(hidden, -math.inf))
        keys, values = (torch.cat(each, dim=3) for each in zip(*parts, strict=True))
        y = self.output(attend_both(query, keys, values, torch.cat(biases, dim=-1), alone))
        return self._with_all_levels(y, len(parts))

    def _levels(self, vectors: int) -> range:
        """The levels that are not empty when ``vectors`` frames are stored."""
        return range(sum(vectors >= self.window**level for level in range(1, self.levels)) + 1)

    def _sight(self, level: int, block: int) -> tuple[int, int]:
        """Numbers of vectors of a level that a frame sees, and that a block of frames can add."""
        return (self.window, 1) if level else (self.window - 1, block - 1)

    def _key_value(self, level: int, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Computes keys and values (B, H, n, d) of (B, n, D) vectors of a level."""
        both = self.key_value[level](x).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)
        key, value = both.chunk(2, dim=1)
        return rotary_at(key, positions), value

    def initial_state(self, batch: int) -> BlockState:
        """An empty memory.

        Each level has a ring buffer ``stored`` of keys and values. Levels that are summarised also
        have the vectors ``open`` of the incomplete block and its ``middle`` frame. ``count`` is the
        number of stored frames.
        """
        weight = self.output.weight
        none = weight.new_zeros(batch, 2, self.heads, 0, self.dim // self.heads)
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        state = {f"stored.{level}": none for level in range(self.levels)}
        for level in range(self.levels - 1):
            state[f"open.{level}"] = weight.new_zeros(batch, self.window, self.dim)
            state[f"middle.{level}"] = zero
        return state | {"count": zero, "position": zero[0]}

    def step(self, frames: Frames, state: BlockState) -> tuple[Tensor, BlockState]:
        """Processes (B, C, D) new frames one by one; the state is bounded. See ``Block.step``."""
        x, stored, state, outputs = frames.x, frames.stored, dict(state), []
        assert stored is not None, "a Gate comes first"
        for frame, keep in zip(x.split(1, dim=1), stored.keep.unbind(1), strict=True):
            at = state["position"].expand(len(x), 1)
            own = torch.stack(self._key_value(0, frame, at), dim=1)  # (B, 2, H, 1, d)
            held, real = [own], [torch.ones_like(at, dtype=torch.bool)]
            for level in range(self.levels):
                held.append(state[f"stored.{level}"].to(own.dtype))
                slots = torch.arange(held[-1].shape[3], device=x.device)
                real.append(slots < (state["count"] // self.window**level)[:, None])
            key, value = torch.cat(held, dim=3).unbind(1)
            there = torch.cat(real, dim=1)[:, None, None]
            outputs.append(self.output(attend(self.turned_query(frame, at), key, value, there)))

            state["count"] = state["count"] + keep
            for level in range(self.levels - 1):
                size = self.window ** (level + 1)
                middle = keep & ((state["count"] - 1) % size == size // 2)
                state[f"middle.{level}"] = torch.where(middle, at[:, 0], state[f"middle.{level}"])
            self._keep(state, 0, own, frame, keep)
            state["position"] = state["position"] + 1
        return torch.cat(outputs, dim=1), state

    def _keep(
        self, state: BlockState, level: int, new: Tensor, vector: Tensor, rows: Tensor
    ) -> None:
        """Stores a vector (B, 1, D) and its key and value at a level, in some utterances.

        When a block is complete, its summary is stored at the level above.
        """
        number = state["count"] // self.window**level
        limit, _ = self._sight(level, 1)
        held = state[f"stored.{level}"].to(new.dtype)
        held = F.pad(held, (0, 0, 0, min(limit, int(number.max())) - held.shape[3]))
        here = rows[:, None] & placed((number - 1) % limit, held.shape[3])
        state[f"stored.{level}"] = torch.where(here[:, None, None, :, None], new, held)
        if level == self.levels - 1:
            return
        here = rows[:, None] & placed((number - 1) % self.window, self.window)
        opened = state[f"open.{level}"].to(vector.dtype)
        state[f"open.{level}"] = opened = torch.where(here[..., None], vector, opened)
        complete = rows & (number % self.window == 0)
        if bool(complete.any()):
            vector = self.pools[level](opened)[:, None]
            both = self._key_value(level + 1, vector, state[f"middle.{level}"][:, None])
            self._keep(state, level + 1, torch.stack(both, dim=1), vector, complete)

    def flops(self, time: int) -> int:
        """FLOPs of one utterance; an upper bound if the gate depends on the frames."""
        vectors, block = self.memory.most(time), min(self.window, time)
        total, width = 8 * self.dim**2 * time, 0  # query, key, value, output
        for level in self._levels(vectors):
            if level:
                number = vectors // self.window
                total += self.pools[level - 1].flops(number * self.window, number)
                total += 4 * self.dim**2 * number
                vectors = number
            width += min(vectors, sum(self._sight(level, block)))
        scores = -(-time // block) * block * (width + 1)
        return total + 4 * self.heads * widened(self.dim // self.heads, 1) * scores


def placed(slot: Tensor, slots: int) -> Tensor:
    """Turns (B,) slot numbers into one-hot rows (B, slots) bool."""
    return torch.arange(slots, device=slot.device) == slot[:, None]
