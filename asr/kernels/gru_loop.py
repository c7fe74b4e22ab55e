"""A bidirectional GRU for CPUs with few kernel calls; torch has no fused GRU for CPUs."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from asr.kernels.linear import linear, product
from asr.kernels.permute import Permute, reversal


def gru(recurrence: nn.GRU, x: Tensor, lengths: Tensor) -> Tensor:
    """Runs a GRU over padded (B, S, D); the padding comes last in both directions.

    On a CPU it takes a third of the time of torch's own GRU, forward and backward: 19 ms against
    55 ms (16 utterances of up to 150 frames, 112 cells per direction, one core of an EPYC). torch
    runs one direction after the other and leaves the backward pass of each frame to autograd.
    """
    weights = [w for w in recurrence._flat_weights if w is not None]
    inputs = [linear(x, weights[0], weights[2])]
    if recurrence.bidirectional:
        order = reversal(lengths, x.shape[1])
        inputs.append(Permute.apply(linear(x, weights[4], weights[6]), order))
    gates = (
        torch.stack(inputs).to(weights[1].dtype).permute(2, 0, 1, 3)
    )  # (S, directions, B, 3 * cells)
    recurrent, bias = torch.stack(weights[1::4]), torch.stack(weights[3::4])
    y = GRULoop.apply(gates.contiguous(), recurrent, bias).permute(1, 2, 0, 3)
    if not recurrence.bidirectional:
        return y[0]
    return torch.cat([y[0], Permute.apply(y[1].contiguous(), order)], dim=-1)


class GRULoop(torch.autograd.Function):
    """The recurrence h_t = (1 - z) n + z h_{t-1}, n = tanh(g_n + r (W_n h_{t-1} + b_n)).

    The backward pass needs two products per frame: an elementwise one, whose factors are computed
    for all frames at once, and a matrix product. The gradient of the weights is a single product.
    """

    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Computes states (S, N, B, C) of N directions from input gates (S, N, B, 3C)."""
        time, directions, batch, triple = gates.shape
        cells = triple // 3
        hidden = gates.new_empty(time + 1, directions, batch, cells)
        hidden[0] = 0
        from_hidden = gates.new_empty(time, directions, batch, triple)
        active = gates.new_empty(time, directions, batch, triple)  # reset, update, new
        transposed = weight.mT.contiguous()
        bias = bias[:, None].expand(-1, batch, -1)
        with torch.autocast(gates.device.type, enabled=False):
            for t in range(time):
                h, a, before = from_hidden[t], active[t], hidden[t]
                torch.baddbmm(bias, before, transposed, out=h)
                ru = torch.add(gates[t, ..., : 2 * cells], h[..., : 2 * cells])
                a[..., : 2 * cells] = ru.sigmoid_()
                reset, update = ru[..., :cells], ru[..., cells:]
                new = torch.addcmul(gates[t, ..., 2 * cells :], reset, h[..., 2 * cells :]).tanh_()
                a[..., 2 * cells :] = new
                torch.lerp(new, before, update, out=hidden[t + 1])
        ctx.save_for_backward(weight, hidden, from_hidden[..., 2 * cells :], active)
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """Computes the gradients of gates, weight and bias."""
        weight, hidden, new_from_hidden, active = ctx.saved_tensors
        reset, update, new = active.chunk(3, dim=-1)
        before = hidden[:-1]
        # Factors from the gradient of h_t to the gradients of the three gates' inputs.
        of_new = (1 - update) * (1 - new * new)
        factors = torch.stack(
            [
                of_new * new_from_hidden * reset * (1 - reset),
                (before - new) * update * (1 - update),
                of_new * reset,
            ],
            dim=-2,
        )  # (S, N, B, 3, C)
        of_gates = torch.empty_like(factors)
        total = torch.zeros_like(gradient[0])
        totals = torch.empty_like(gradient)
        with torch.autocast(gradient.device.type, enabled=False):
            for t in reversed(range(len(gradient))):
                torch.add(total, gradient[t], out=totals[t])
                torch.mul(factors[t], totals[t][..., None, :], out=of_gates[t])
                total = torch.baddbmm(totals[t] * update[t], of_gates[t].flatten(-2), weight)
            through = of_gates.flatten(-2)  # (S, N, B, 3C), with respect to W h + b
            flat = through.transpose(0, 1).flatten(1, 2)  # (N, S * B, 3C)
            earlier = before.transpose(0, 1).flatten(1, 2)
            pairs = zip(flat, earlier, strict=True)
            of_weight = torch.stack([product(f.t(), e.t(), None) for f, e in pairs])
        of_inputs = through.clone()
        of_inputs[..., -totals.shape[-1] :] = totals * of_new
        return of_inputs, of_weight, flat.sum(1)
