"""The joint network of a transducer, and its loss in memory independent of the batch size."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from asr.batch import BLANK, EOS
from asr.kernels.linear import Linear, xavier
from asr.kernels.torchaudio_functional import rnnt_loss

# Utterances are computed in groups. This is the number of elements of a group's largest tensor:
# 4 MB, which fit a core's caches, or 64 MB for a GPU. A larger utterance is a group by itself.
GROUP = {"cpu": 2**20, "cuda": 2**24}


class Joint(nn.Module):
    """Scores tokens given a frame f and a prediction g: W tanh(W_e f + W_p g + b) + c.

    He et al. 2019 ("Streaming end-to-end speech recognition for mobile devices"). There is no
    output for EOS, which a transducer never emits: class 0 is BLANK and class k is token k + 1.
    All values are computed in float32 at any precision of the model.
    """

    def __init__(self, dim: int, width: int, joint: int, vocabulary: int) -> None:
        super().__init__()
        if vocabulary < 3:
            raise ValueError(f"a vocabulary of {vocabulary}; BLANK, EOS and one token are needed")
        if joint < 1:
            raise ValueError(f"joint is {joint}: the joint network needs a width of at least 1")
        self.dim, self.width, self.inner, self.vocabulary = dim, width, joint, vocabulary
        self.encoder = Linear(dim, joint, bias=False)
        self.prediction = Linear(width, joint)
        self.output = Linear(joint, vocabulary - 1)
        xavier(self.encoder, self.prediction, self.output)
        self.output.parts = 0

    def forward(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """Computes log-probabilities (..., V) of frames and predictions (..., J); EOS has -inf."""
        log_probs = self.output(torch.tanh(frames + predictions)).log_softmax(-1)
        blank, tokens = log_probs.split([1, self.vocabulary - 2], dim=-1)
        return torch.cat([blank, torch.full_like(blank, -torch.inf), tokens], dim=-1)

    def internal_lm(self, predictions: Tensor) -> Tensor:
        """Computes log-probabilities (..., V) of tokens without audio; BLANK and EOS have -inf."""
        log_probs = self.output(torch.tanh(predictions))[..., 1:].log_softmax(-1)
        return F.pad(log_probs, (EOS + 1, 0), value=-torch.inf)

    def loss(
        self,
        frames: Tensor,
        predictions: Tensor,
        lengths: Sequence[int],
        tokens: Tensor,
        token_lengths: Sequence[int],
    ) -> Tensor:
        """Computes the sum () of negative log-likelihoods of (B, U) tokens.

        Utterances without frames have no likelihood and are left out.
        """
        # tanh(x) = 2 sigmoid(2x) - 1, and on a CPU a sigmoid takes a sixth of the time of a tanh.
        weight = 2 * self.output.weight
        bias = self.output.bias - self.output.weight.sum(1)
        total: Tensor = LatticeLoss.apply(
            2 * frames,
            2 * predictions,
            weight,
            bias,
            tokens - EOS,
            lengths,
            token_lengths,
            torch.is_grad_enabled(),
        )
        return total

    def flops(self, time: int, tokens: int) -> int:
        """Returns the FLOPs of one utterance: ``time`` encoder frames, ``tokens`` labels."""
        steps = tokens + 1
        projections = 2 * self.inner * (self.dim * time + self.width * steps)
        return projections + 2 * self.inner * (self.vocabulary - 1) * time * steps


class LatticeLoss(torch.autograd.Function):
    """Sum over utterances of -log p(labels), with the logits weight sigmoid(f + g) + bias.

    A lattice has S * (U + 1) cells with J inner values and V - 1 logits each. To save memory,
    groups of utterances are computed one after another, each utterance without padding, and their
    gradients are computed together with the loss, so that nothing is kept for the backward pass.
    The recursion over paths (Graves 2012, equations 16 to 18) reads only two log-probabilities per
    cell, those of BLANK and of the next label (Li et al. 2019, "Improving RNN transducer modeling
    for end-to-end speech recognition").
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        frames: Tensor,
        predictions: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        lengths: Sequence[int],
        label_lengths: Sequence[int],
        learn: bool,
    ) -> Tensor:
        """Computes the loss () of (B, U) classes from frames (B, S, J) and predictions."""
        inputs = frames, predictions, weight, bias
        gradients = tuple(map(torch.zeros_like, inputs)) if learn else None
        total = frames.new_zeros(())
        steps = [length + 1 for length in label_lengths]
        for rows in utterance_groups(lengths, steps, max(weight.shape), frames.device.type):
            sizes = [(row, lengths[row], steps[row]) for row in rows]
            total += _group(inputs, labels, sizes, gradients)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Scales the stored gradients of frames, predictions, weight and bias."""
        return *(gradient * saved for saved in ctx.saved_tensors), None, None, None, None


def utterance_groups(
    lengths: Sequence[int], steps: Sequence[int], width: int, device: str
) -> Iterator[list[int]]:
    """Groups neighbouring utterances with frames into tensors of at most GROUP elements.

    The tensors are their cells times ``width``, and their padded lattices with two values per cell.
    """
    limit = GROUP.get(device, GROUP["cuda"])
    group: list[int] = []
    cells = longest = most = 0
    for row, (time, step) in enumerate(zip(lengths, steps, strict=True)):
        if not time:
            continue
        cells, longest, most = cells + time * step, max(longest, time), max(most, step)
        if group and max(cells * width, 2 * (len(group) + 1) * longest * most) > limit:
            yield group
            group, cells, longest, most = [], time * step, time, step
        group.append(row)
    if group:
        yield group


def _group(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    labels: Tensor,
    sizes: list[tuple[int, int, int]],
    gradients: tuple[Tensor, ...] | None,
) -> Tensor:
    """Returns the loss () of utterances (row, S, U + 1), and adds to their ``gradients``."""
    frames, predictions, weight, bias = inputs
    starts = [0]
    for _, time, steps in sizes:
        starts.append(starts[-1] + time * steps)
    hidden = frames.new_empty(starts[-1], frames.shape[2])  # (cells, J)
    following = labels.new_zeros(starts[-1], 1)  # next label of each cell; BLANK if there is none
    cells = [slice(*ends) for ends in pairwise(starts)]
    for (row, time, steps), own in zip(sizes, cells, strict=True):
        grid = hidden[own].view(time, steps, -1)
        torch.add(frames[row, :time, None], predictions[row, :steps], out=grid)
        following[own].view(time, steps)[:, :-1] = labels[row, : steps - 1]
    # oneDNN is avoided, because it keeps a megabyte of memory for every new number of rows.
    log_probs = F.linear(hidden.sigmoid_(), weight, bias).log_softmax(-1)  # (cells, V - 1)
    arcs = torch.cat([log_probs[:, :1], log_probs.gather(1, following)], dim=1)  # (cells, 2)
    total, d_arcs = _paths(arcs, sizes, cells, gradients is not None)
    if gradients is None:
        return total
    d_frames, d_predictions, d_weight, d_bias = gradients
    d_logits = log_probs.exp_().mul_(-d_arcs.sum(1, keepdim=True))
    d_logits[:, BLANK] += d_arcs[:, 0]
    d_logits.scatter_add_(1, following, d_arcs[:, 1:])
    d_weight.addmm_(d_logits.t(), hidden)
    d_bias += d_logits.sum(0)
    d_sums = torch.ops.aten.sigmoid_backward(d_logits @ weight, hidden)  # (cells, J)
    for (row, time, steps), own in zip(sizes, cells, strict=True):
        grid = d_sums[own].view(time, steps, -1)
        torch.sum(grid, dim=1, out=d_frames[row, :time])
        torch.sum(grid, dim=0, out=d_predictions[row, :steps])
    return total


def _paths(
    arcs: Tensor, sizes: list[tuple[int, int, int]], cells: list[slice], learn: bool
) -> tuple[Tensor, Tensor]:
    """Computes the loss () and its gradient (cells, 2).

    ``arcs`` (cells, 2) holds the log-probabilities of BLANK and of the next label of each cell.

    Without labels the only path is all BLANK and is computed here, because the gradients of
    torchaudio's kernels (2.11) for GPUs and for CPUs differ there.
    """
    total, gradient = arcs.new_zeros(()), torch.zeros_like(arcs)
    labelled = []
    for size, own in zip(sizes, cells, strict=True):
        if size[2] > 1:
            labelled.append((size, own))
        else:
            total = total - arcs[own, 0].sum()
            gradient[own, 0] = -1.0
    if labelled:
        total = total + _lattices(arcs, labelled, gradient if learn else None)
    return total, gradient


def _lattices(
    arcs: Tensor, labelled: list[tuple[tuple[int, int, int], slice]], gradient: Tensor | None
) -> Tensor:
    """Returns the loss () of utterances with labels, and fills their cells of the gradient."""
    shapes = torch.tensor([size[1:] for size, _ in labelled], dtype=torch.int32)  # (B, 2)
    time, steps = shapes.amax(0).tolist()
    lattice = arcs.new_zeros(len(labelled), time, steps, 2)
    parts = [part[:t, :u] for part, ((_, t, u), _) in zip(lattice, labelled, strict=True)]
    for part, (_, own) in zip(parts, labelled, strict=True):
        part[:] = arcs[own].view(part.shape)
    times, labels = shapes.to(arcs.device).unbind(1)
    learn = gradient is not None
    with torch.set_grad_enabled(learn):
        total = rnnt_loss(
            lattice.requires_grad_(learn),
            lattice.new_ones(len(labelled), steps - 1, dtype=torch.int32),
            times.contiguous(),
            labels - 1,
            blank=0,
            reduction="sum",
            fused_log_softmax=False,
        )
    if gradient is not None:
        (found,) = torch.autograd.grad(total, lattice)
        for part, ((_, t, u), own) in zip(found, labelled, strict=True):
            gradient[own] = part[:t, :u].reshape(-1, 2)
    return total.detach()
