"""Location-aware attention with its LSTM: one step, or all steps of a known sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv1d_weight

from asr.kernels.linear import Linear

Shared = dict[str, Tensor]

# A step on a CPU computes this number of elements of the energies at once: 1 MB, a core's cache.
# A whole batch at once would pass through main memory four times, with new pages each time.
ENERGIES_AT_ONCE = 2**18


class LocationAttention(nn.Module):
    """energy(s) = v . tanh(key(s) + query + U (F * previous alignment)(s)), then a softmax.

    Chorowski et al. 2015, equations 8 and 9. The LSTM of this module reads the token, its last
    output and the last context (input feeding). The caller computes the token's part of the gates.
    """

    def __init__(self, dim: int, width: int, attention: int, *, channels: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"location_kernel {kernel} is even; an odd one is centred")
        self.dim, self.width, self.inner = dim, width, attention
        self.channels, self.kernel = channels, kernel
        self.gates = Linear(width + dim, 4 * width, bias=False)
        self.key = Linear(dim, attention)
        self.query = Linear(width, attention, bias=False)
        self.location = nn.Conv1d(1, channels, kernel, padding=kernel // 2, bias=False)
        self.place = nn.Parameter(torch.empty(channels, attention))
        self.energy = Linear(attention, 1, bias=False)
        weights = (self.key.weight, self.query.weight, self.place, self.energy.weight)
        for weight in (*weights, *self.gates.weight.data.chunk(4)):
            nn.init.xavier_uniform_(weight)
        for weight in self.gates.weight.data.chunk(4):
            nn.init.orthogonal_(weight[:, :width])
        nn.init.zeros_(self.key.bias)

    def remember(self, encoded: Tensor, real: Tensor) -> Shared:
        """Computes the tensors that all steps of a search share; keys are doubled."""
        return {"encoded": encoded, "keys": 2 * self.key(encoded), "real": real}

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, place and energy weights for a sigmoid instead of the tanh.

        On a CPU a sigmoid takes a sixth of the time of a tanh = 2 sigmoid(2x) - 1. Keys and these
        weights, which are small, are doubled. The -1 adds the same constant to all energies, which
        does not change their softmax.
        """
        return 2 * self.query.weight, 2 * self.place, 2 * self.energy.weight

    def initial_cache(self, encoded: Tensor) -> dict[str, Tensor]:
        """Returns zeros: no output and no context yet."""
        batch, time, _ = encoded.shape
        return {
            "output": encoded.new_zeros(batch, self.width + self.dim),
            "cell": encoded.new_zeros(batch, self.width),
            "alignment": encoded.new_zeros(batch, time),
        }

    def forward(self, token: Tensor, memory: Shared, cache: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes one step, given the token's part (B*K, 4 * width) of the gates.

        The cache's ``output`` is (B*K, width + D), the LSTM's output and the context.
        """
        hidden, cell = lstm_cell(token + self.gates(cache["output"]), cache["cell"])
        context, alignment = self._read(hidden, memory, cache["alignment"])
        return {
            "output": torch.cat([hidden, context], dim=1),
            "cell": cell,
            "alignment": alignment,
        }

    def _read(self, hidden: Tensor, memory: Shared, alignment: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the context (B*K, D) and the alignment (B*K, S) of hidden states (B*K, width).

        The K hypotheses of an utterance share its row of memory.
        """
        encoded, real = memory["encoded"], memory["real"]
        energies = self._energies(hidden, memory["keys"], alignment).float()  # (B, K, S)
        weights = energies.masked_fill(~real[:, None], -torch.inf).softmax(-1).type_as(encoded)
        context = torch.bmm(weights, encoded)  # (B, K, D)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def _energies(self, hidden: Tensor, keys: Tensor, alignment: Tensor) -> Tensor:
        """Computes energies (B, K, S) of hidden states (B*K, width) and keys (B, S, A)."""
        batch, time, inner = keys.shape
        beam = len(hidden) // batch
        query_weight, place, energy = self._weights()
        query = F.linear(hidden, query_weight)[:, None]  # (B*K, 1, A)
        places = self.location(alignment[:, None]).transpose(1, 2)  # (B*K, S, C)
        chunk = (
            max(1, ENERGIES_AT_ONCE // (beam * time * inner))
            if keys.device.type == "cpu"
            else batch
        )
        rows = chunk * beam
        place = place.to(keys.dtype).expand(min(rows, len(query)), -1, -1)
        # One buffer serves all chunks, to avoid new pages, unless a gradient needs every chunk.
        room = None if torch.is_grad_enabled() else keys.new_empty(len(place), time, inner)
        parts = []
        for some, where, shared in zip(
            query.split(rows), places.split(rows), keys.split(chunk), strict=True
        ):
            out = None if room is None else room[: len(some)]
            x = torch.baddbmm(some, where, place[: len(some)], out=out)  # (chunk*K, S, A)
            x = x.view(-1, beam, time, inner).add_(shared[:, None]).sigmoid_()
            parts.append(F.linear(x, energy)[..., 0])  # (chunk, K, S)
        return torch.cat(parts)

    def unroll(self, tokens: Tensor, memory: Shared) -> Tensor:
        """Takes all U steps, given the tokens' part of the gates; returns (B, U, width + D).

        The backward pass is hand-written; all is computed in float32, even inside autocast.
        """
        if not torch.is_grad_enabled():
            cache, outputs = self.initial_cache(memory["encoded"]), []
            for token in tokens.unbind(1):
                cache = self(token, memory, cache)
                outputs.append(cache["output"])
            return torch.stack(outputs, dim=1)
        query_weight, place, energy = self._weights()
        with torch.autocast(tokens.device.type, enabled=False):
            outputs = Unrolled.apply(
                tokens.transpose(0, 1).float().contiguous(),
                memory["encoded"].float(),
                memory["keys"].float(),
                memory["real"],
                self.gates.weight,
                query_weight,
                self.location.weight,
                place,
                energy,
            )
        return outputs.transpose(0, 1)

    def flops(self, time: int, steps: int) -> int:
        """Returns one utterance's FLOPs: keys, and ``steps`` without the tokens' part of gates."""
        per_frame = 2 * self.channels * (self.kernel + self.inner) + 2 * self.inner + 2 * self.dim
        per_step = 8 * self.width * (self.width + self.dim) + 2 * self.width * self.inner
        return 2 * self.dim * self.inner * time + steps * (per_step + per_frame * time)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Applies (R, 4 * width) gates, in torch's order input, forget, cell, output."""
    first, forget, new, output = gates.chunk(4, dim=1)
    cell = torch.addcmul(forget.sigmoid() * cell, first.sigmoid(), new.tanh())
    return output.sigmoid() * cell.tanh(), cell


class Unrolled(torch.autograd.Function):
    """All steps of ``LocationAttention`` over known tokens, with a hand-written gradient.

    Autograd would compute and add gradients of every weight, of the frames and of the keys at every
    step. Here each is one product at the end, or is added in place. The backward pass recomputes
    the (B, S, A) terms of the energies, which is cheaper than new memory for all steps.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        tokens: Tensor,
        encoded: Tensor,
        keys: Tensor,
        real: Tensor,
        gates_weight: Tensor,
        query_weight: Tensor,
        location: Tensor,
        place: Tensor,
        energy: Tensor,
    ) -> Tensor:
        """Computes the outputs (U, B, width + D) of all steps."""
        steps, batch, width = *tokens.shape[:2], tokens.shape[2] // 4
        time, inner, channels = keys.shape[1], keys.shape[2], len(place)
        new = tokens.new_empty
        outputs = new(steps + 1, batch, width + encoded.shape[2])
        cells, squashed = new(steps + 1, batch, width), new(steps, batch, width)
        alignments = new(steps + 1, batch, 1, time)
        for start in (outputs, cells, alignments):
            start[0] = 0
        gates, queries = torch.empty_like(tokens), new(steps, batch, inner)
        x = torch.empty_like(keys)
        # The query is the weight of an extra channel of ones, so one product adds both to the keys.
        places = new(steps, batch, channels + 1, time)
        places[:, :, channels] = 1
        weights = torch.cat([place, place[:1]]).repeat(batch, 1, 1)  # (B, C + 1, A)
        hidden_frames = ~real[:, None]
        columns = gates_weight.T.contiguous()  # faster on a CPU for a product with few rows
        for step in range(steps):
            torch.addmm(tokens[step], outputs[step], columns, out=gates[step])
            _activate(gates[step], cells, squashed, outputs, step)
            torch.mm(outputs[step + 1, :, :width], query_weight.T, out=queries[step])
            weights[:, channels] = queries[step]
            places[step, :, :channels] = torch.conv1d(
                alignments[step], location, padding=location.shape[2] // 2
            )
            torch.baddbmm(keys, places[step].transpose(1, 2), weights, out=x).sigmoid_()
            energies = torch.mm(x.view(-1, inner), energy.T).view(batch, 1, time)
            energies.masked_fill_(hidden_frames, -torch.inf)
            torch.softmax(energies, dim=2, out=alignments[step + 1])
            outputs[step + 1, :, width:] = torch.bmm(alignments[step + 1], encoded)[:, 0]
        ctx.save_for_backward(
            encoded, keys, gates_weight, query_weight, location, place, energy,
            outputs, cells, squashed, alignments, gates, queries, places,
        )  # fmt: skip
        return outputs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Computes the gradients of the arguments of ``forward``."""
        (
            encoded, keys, gates_weight, query_weight, location, place, energy,
            outputs, cells, squashed, alignments, gates, queries, places,
        ) = ctx.saved_tensors  # fmt: skip
        steps, batch, width = squashed.shape
        channels, inner = place.shape
        d_outputs = gradient.clone()
        d_gates, d_place = torch.empty_like(gates), torch.zeros_like(place)
        d_queries, d_energy = gates.new_empty(steps, batch, inner), torch.zeros_like(energy)
        d_keys, x, d_x = torch.zeros_like(keys), torch.empty_like(keys), torch.empty_like(keys)
        flat, d_flat = x.view(-1, inner), d_x.view(-1, inner)
        weights = torch.cat([place, place[:1]]).repeat(batch, 1, 1)  # (B, C + 1, A)
        d_places = torch.empty_like(places[:, :, :channels])
        d_cell, d_alignment = torch.zeros_like(cells[0]), torch.zeros_like(alignments[0])
        for step in reversed(range(steps)):
            d_output, alignment = d_outputs[step], alignments[step + 1]
            d_context = d_output[:, None, width:]
            d_alignment = torch.baddbmm(d_alignment, d_context, encoded.transpose(1, 2))
            d_energies = torch._softmax_backward_data(d_alignment, alignment, 2, alignment.dtype)
            d_energies = d_energies.view(-1, 1)  # (B * S, 1)
            weights[:, channels] = queries[step]
            torch.baddbmm(keys, places[step].transpose(1, 2), weights, out=x).sigmoid_()
            d_energy.addmm_(d_energies.T, flat)
            torch.mul(d_energies, energy, out=d_flat)
            torch.ops.aten.sigmoid_backward.grad_input(d_x, x, grad_input=d_x)
            d_keys += d_x
            d_weights = torch.bmm(places[step], d_x)  # (B, C + 1, A)
            d_place += d_weights[:, :channels].sum(0)
            d_queries[step] = d_weights[:, channels]
            d_places[step] = torch.mm(d_flat, place.T).view(batch, -1, channels).transpose(1, 2)
            d_alignment = torch.conv_transpose1d(
                d_places[step], location, padding=location.shape[2] // 2
            )
            d_hidden = torch.addmm(d_output[:, :width], d_queries[step], query_weight)
            d_cell = _cell_backward(
                d_hidden, d_cell, gates[step], cells[step], squashed[step], d_gates[step]
            )
            if step:
                d_outputs[step - 1].addmm_(d_gates[step], gates_weight)
        contexts = d_outputs[:, :, width:].transpose(0, 1)  # (B, U, D)
        d_encoded = torch.bmm(alignments[1:, :, 0].permute(1, 2, 0), contexts)
        d_location = conv1d_weight(
            alignments[:-1].flatten(0, 1),
            location.shape,
            d_places.flatten(0, 1),
            padding=location.shape[2] // 2,
        )
        d_gates_weight = d_gates.flatten(0, 1).T @ outputs[:-1].flatten(0, 1)
        d_query_weight = d_queries.flatten(0, 1).T @ outputs[1:, :, :width].flatten(0, 1)
        return (
            d_gates, d_encoded, d_keys, None,
            d_gates_weight, d_query_weight, d_location, d_place, d_energy,
        )  # fmt: skip


def _activate(gates: Tensor, cells: Tensor, squashed: Tensor, outputs: Tensor, step: int) -> None:
    """Turns (B, 4 * width) sums into gates in place; writes the cell, its tanh and the output."""
    width = cells.shape[2]
    gates[:, : 2 * width].sigmoid_()
    gates[:, 2 * width : 3 * width].tanh_()
    gates[:, 3 * width :].sigmoid_()
    first, forget, new, output = gates.chunk(4, dim=1)
    torch.mul(forget, cells[step], out=cells[step + 1]).addcmul_(first, new)
    torch.tanh(cells[step + 1], out=squashed[step])
    torch.mul(output, squashed[step], out=outputs[step + 1, :, :width])


def _cell_backward(
    d_hidden: Tensor, d_cell: Tensor, gates: Tensor, cell: Tensor, squashed: Tensor, d_gates: Tensor
) -> Tensor:
    """Returns the gradient of the old cell, and writes the gradients of the gates' sums."""
    first, forget, new, output = gates.chunk(4, dim=1)
    d_first, d_forget, d_new, d_output = d_gates.chunk(4, dim=1)
    d_cell = d_cell + torch.ops.aten.tanh_backward(d_hidden * output, squashed)
    torch.mul(d_cell, new, out=d_first)
    torch.mul(d_cell, cell, out=d_forget)
    torch.mul(d_hidden, squashed, out=d_output)
    for d_gate, gate in ((d_first, first), (d_forget, forget), (d_output, output)):
        d_gate.copy_(torch.ops.aten.sigmoid_backward(d_gate, gate))
    torch.mul(d_cell, first, out=d_new)
    d_new.copy_(torch.ops.aten.tanh_backward(d_new, new))
    return d_cell * forget
