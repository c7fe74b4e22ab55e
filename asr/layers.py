"""Layers that encoders, decoders and language models share: attention, positions, tokens."""

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import BLANK, EOS, Cache, mask
from asr.kernels.linear import Linear, xavier

AnyModule = TypeVar("AnyModule", bound=nn.Module)

FEEDFORWARD = 4  # inner width of feed-forwards, in multiples of the width (Vaswani et al. 2017)
ROTARY_BASE = 10000.0  # Su et al. 2021, section 3.4.2; the wavelengths of Vaswani et al. 2017


def halved(size: int, times: int = 1) -> int:
    """Halves ``size`` ``times`` times; rounds up each time."""
    return -(-size // 2**times)


def halved_lengths(lengths: Tensor) -> Tensor:
    """Halves each of (B,) lengths and rounds up."""
    return torch.div(lengths + 1, 2, rounding_mode="floor")


def modules(layers: Iterable[AnyModule]) -> Sequence[AnyModule]:
    """Makes an ``nn.ModuleList`` whose item type is known to a type checker."""
    return cast(Sequence[AnyModule], nn.ModuleList(layers))


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Sets x (B, T, ...) to zero beyond the lengths, even in place of NaN and infinity."""
    real = mask(lengths, x.shape[1])
    return x.masked_fill(~real.view(real.shape + (1,) * (x.dim() - 2)), 0.0)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Applies inverted dropout to a tensor of any shape.

    On a CPU ``F.dropout`` draws one random number per element in 7 ns, which is a tenth of a
    Transformer's training step. This function takes eight random numbers from each 64-bit draw and
    a quarter of the time. It rounds the probability to a multiple of 1/256.

    Raises:
        ValueError: ``probability`` is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"dropout is {probability}: it must be between 0 and 1")
    if not training or not probability:
        return x
    if x.device.type != "cpu" or x.dtype != torch.float32 or probability == 1:
        return F.dropout(x, probability)
    dropped = min(round(256 * probability), 255)
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def rotary_factors(positions: Tensor, width: int) -> Tensor:
    """Returns rotary factors (U, width / 2) complex64 of (U,) positions (Su et al. 2021)."""
    # float32 would round the angle of frame 1,000,000 to a hundredth of a turn.
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    angles = positions[:, None] * ROTARY_BASE**-exponents
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


class Rotary:
    """The rotary factors of positions 0, 1, ...; computed once for all layers and batches."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.factors = torch.zeros(0, width // 2, dtype=torch.complex64)

    def __call__(self, time: int, device: torch.device) -> Tensor:
        """Returns (time, width / 2) complex64 factors."""
        factors = self.factors  # read once, because other threads may replace it
        if len(factors) < time or factors.device != device:
            with torch.inference_mode(False):  # so that training can use them
                positions = torch.arange(max(time, 2 * len(factors)), device=device)
                factors = self.factors = rotary_factors(positions, self.width)
        return factors[:time]


def apply_rotary(x: Tensor, factors: Tensor) -> Tensor:
    """Turns each pair of neighbours by its angle: (..., U, d), (U, d / 2) -> (..., U, d).

    A complex product takes one kernel forward and one backward; sines and cosines of split halves
    would take seven.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * factors).flatten(-2).type_as(x)


def rotary_at(x: Tensor, positions: Tensor) -> Tensor:
    """Turns (B, H, n, d) by the rotary factors of positions (n,) or (B or 1, n)."""
    factors = rotary_factors(positions.flatten(), x.shape[-1]).unflatten(0, positions.shape)
    return apply_rotary(x, factors if positions.ndim == 1 else factors[:, None])


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Returns sines and cosines (U, dim) of (U,) positions (Vaswani et al. 2017)."""
    return torch.view_as_real(rotary_factors(positions, dim)).flatten(-2)


def attend(query: Tensor, key: Tensor, value: Tensor, real: Tensor | None) -> Tensor:
    """Lets queries (B, H, Q, d) attend to S keys and values; returns (B, Q, H * d).

    The mask is broadcastable to (B, 1, Q, S). It is True where a query may attend, or a float to
    add to the scores, as in torch.
    """
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
    return y.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention with H heads, and with rotary positions if they are given."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"width {dim} does not divide by twice the number of heads ({heads})")
        self.dim, self.heads = dim, heads
        self.input = Linear(dim, 3 * dim)
        self.output = Linear(dim, dim)
        xavier(self.input, parts=3)
        xavier(self.output)

    def split(self, x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Computes queries, keys and values, each (B, H, S, d)."""
        query, key, value = (
            self.input(x).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        )
        if factors is not None:
            query, key = apply_rotary(query, factors), apply_rotary(key, factors)
        return query, key, value

    def forward(
        self, x: Tensor, factors: Tensor | None, real: Tensor | None, causal: bool
    ) -> Tensor:
        """Lets the positions of x (B, S, D) attend to each other.

        ``real`` is a boolean mask broadcastable to (B, 1, S, S).

        If ``causal`` is set and there is no mask, the kernel uses its own causal path.
        """
        query, key, value = self.split(x, factors)
        if causal and real is None:
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            return self.output(y.transpose(1, 2).flatten(2))
        return self.output(attend(query, key, value, real))

    def step(self, x: Tensor, factors: Tensor | None, cache: Tensor, real: Tensor | None) -> Tensor:
        """Lets new positions x (B, Q, D) attend to a cache (B, 2, H, U + Q, d) of keys and values.

        Fills the last Q positions of the cache. ``real`` is a mask broadcastable to
        (B, 1, Q, U + Q); None if every query may attend to all positions.
        """
        query, key, value = self.split(x, factors)
        cache[:, 0, :, -x.shape[1] :] = key
        cache[:, 1, :, -x.shape[1] :] = value
        key, value = cache.to(query.dtype).unbind(1)
        return self.output(attend(query, key, value, real))

    def flops(self, time: int) -> int:
        """Returns one sequence's FLOPs; masked scores count, too, as in torch's counter."""
        return 8 * self.dim**2 * time + 4 * self.dim * time**2


class CrossAttention(nn.Module):
    """Attention of a decoder's positions to encoder frames, with H heads."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"width {dim} does not divide by the number of heads ({heads})")
        self.dim, self.heads = dim, heads
        self.query = Linear(dim, dim)
        self.memory = Linear(dim, 2 * dim)
        self.output = Linear(dim, dim)
        xavier(self.query)
        xavier(self.memory, parts=2)
        xavier(self.output)

    def remember(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Computes keys and values (B, H, S, d) of encoder frames, once per utterance."""
        memory = self.memory(encoded).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)
        key, value = memory.chunk(2, dim=1)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, real: Tensor | None) -> Tensor:
        """Lets x (B, Q, D) attend to keys and values; the mask broadcasts to (B, 1, Q, S)."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.output(attend(query, key, value, real))

    def flops(self, time: int, queries: int) -> int:
        """Returns one utterance's FLOPs: ``time`` encoder frames, ``queries`` positions."""
        return 4 * self.dim**2 * (time + queries) + 4 * self.dim * time * queries


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear. ReLU is the cheapest activation on a CPU, even recomputed."""

    def __init__(self, dim: int, *, inner: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.inner, self.dropout = dim, inner, dropout
        self.expand = Linear(dim, inner)
        self.reduce = Linear(inner, dim)
        xavier(self.expand, self.reduce)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the module to x (..., D)."""
        return self.reduce(dropout(F.relu(self.expand(x)), self.dropout, self.training))

    def flops(self, time: int) -> int:
        """Returns the FLOPs of ``time`` positions."""
        return 4 * self.dim * self.inner * time


class TokenOutput(nn.Module):
    """A linear layer that scores all tokens except BLANK."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        if vocabulary < 3:
            raise ValueError(f"a vocabulary of {vocabulary}; BLANK, EOS and one token are needed")
        self.width, self.vocabulary = width, vocabulary
        self.output = Linear(width, vocabulary - 1)
        xavier(self.output)
        self.output.parts = 0

    def forward(self, x: Tensor) -> Tensor:
        """Computes float32 log-probabilities (..., V) of x (..., width); BLANK has -inf."""
        log_probs = self.output(x).float().log_softmax(-1)
        return F.pad(log_probs, (BLANK + 1, 0), value=-torch.inf)

    def of(self, x: Tensor, targets: Tensor) -> Tensor:
        """Computes float32 log-probabilities (B, U) of the targets; BLANK has 0."""
        wanted = (targets - (BLANK + 1)).clamp(min=0)[..., None]  # (B, U, 1)
        scores = self.output(x).float().log_softmax(-1).gather(-1, wanted)[..., 0]
        return scores.masked_fill(targets == BLANK, 0.0)

    def flops(self, time: int) -> int:
        """Returns the FLOPs of ``time`` positions."""
        return 2 * self.width * (self.vocabulary - 1) * time


def inputs(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Returns decoder inputs (B, U + 1): EOS, then the tokens, then BLANK as padding."""
    tokens = tokens.masked_fill(~mask(token_lengths, tokens.shape[1]), BLANK)
    return F.pad(tokens, (1, 0), value=EOS)


def targets(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Returns decoder targets (B, U + 1): the tokens, then EOS, then BLANK as padding."""
    tokens = F.pad(tokens.masked_fill(~mask(token_lengths, tokens.shape[1]), BLANK), (0, 1))
    return tokens.scatter(1, token_lengths[:, None], EOS)


def initialise(recurrence: nn.LSTM | nn.GRU, forget_bias: float) -> None:
    """Sets orthogonal recurrent weights per gate, Xavier input weights, and the forget bias.

    All other biases are 0. torch adds two biases per gate, of which the first gets ``forget_bias``
    (Jozefowicz et al. 2015). The order of gates is input, forget, cell, output in an LSTM and
    reset, update, new in a GRU, whose update gate keeps the state if it is 1.
    """
    cells = recurrence.hidden_size
    for name, parameter in recurrence.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                nn.init.constant_(parameter.data[cells : 2 * cells], forget_bias)
            continue
        for gate in parameter.data.split(cells):
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_uniform_(gate)


def flatten_weights(recurrence: nn.LSTM | nn.GRU) -> None:
    """Moves the weights of a copied module into one block, so that cuDNN does not warn."""
    if len({weight.untyped_storage().data_ptr() for weight in recurrence.parameters()}) > 1:
        recurrence.flatten_parameters()


def lstm_start(lstm: nn.LSTM, rows: int) -> Cache:
    """Returns N rows of the state before a token: ``hidden`` and ``cell`` (N, layers, width)."""
    zeros = lstm.all_weights[0][0].new_zeros(rows, lstm.num_layers, lstm.hidden_size)
    return {"hidden": zeros, "cell": zeros}


def lstm_step(lstm: nn.LSTM, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
    """Runs all layers for one step x (N, inputs); returns (N, width) and the next state.

    torch's cell is used, because the kernel for whole sequences takes twice its time per step.
    """
    states = []
    for layer, weights in enumerate(lstm.all_weights):
        before = cache["hidden"][:, layer], cache["cell"][:, layer]
        x, cell = torch.lstm_cell(x, before, *weights)
        states.append((x, cell))
    hidden, cell = (torch.stack(state, dim=1) for state in zip(*states, strict=True))
    return x, {"hidden": hidden, "cell": cell}
