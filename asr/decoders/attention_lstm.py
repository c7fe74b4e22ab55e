"""Listen, Attend and Spell with location-aware attention, trained jointly with CTC."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.batch import mask
from asr.decoders.cross_entropy import CrossEntropyHead, check_ctc_weight, inputs
from asr.decoders.ctc import CTCHead
from asr.decoders.decoder import Decoder, Loss, State
from asr.layers import flatten, initialise

Cache = dict[str, Tensor]


class AttentionLSTM(Decoder):
    """An LSTM that reads the encoder through one soft alignment per token.

    Chan et al. 2016 with the attention of Chorowski et al. 2015 (convolution over the previous
    alignment, additive energies) and input feeding (Luong et al. 2015). Layers above the first
    do not feed the attention (as in GNMT, Wu et al. 2016), so they run over all tokens at once.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        width: int,
        layers: int = 1,
        attention: int = 128,
        location_channels: int = 10,
        location_kernel: int = 51,
        ctc_weight: float = 0.3,
        label_smoothing: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        """Builds the decoder.

        Args:
            dim: width D of the encoder's frames.
            vocabulary: tokens V, BLANK included.
            width: of embeddings and LSTM states.
            layers: LSTM layers.
            attention: width of the additive energies.
            location_channels: channels of the convolution over the previous alignment.
            location_kernel: encoder frames it sees, odd; 51 are the 2 s of Chorowski et al.
            ctc_weight: share of the CTC term in the loss; 0 leaves out the CTC head.
            label_smoothing: probability taken from the target, in training.
            dropout: probability, on embeddings and before the output layer.

        Raises:
            ValueError: an even kernel, or a share that is not in [0, 1).
        """
        super().__init__()
        check_ctc_weight(ctc_weight)
        self.dim, self.vocabulary, self.width = dim, vocabulary, width
        self.ctc_weight, self.dropout = ctc_weight, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        # The gates' products, apart: the embeddings' for all tokens at once, the rest per token.
        self.token_gates = nn.Linear(width, 4 * width)
        self.state_gates = nn.Linear(dim + width, 4 * width, bias=False)
        self.attention = LocationAttention(
            dim, width, attention, channels=location_channels, kernel=location_kernel
        )
        self.upper = (
            nn.LSTM(width + dim, width, layers - 1, batch_first=True) if layers > 1 else None
        )
        self.readout = nn.Linear(width + dim, width)
        self.head = CrossEntropyHead(width, vocabulary, label_smoothing=label_smoothing)
        self.ctc = CTCHead(dim, vocabulary) if ctc_weight else None
        self._initialise()

    def _initialise(self) -> None:
        """As an LSTM's: orthogonal recurrent weights per gate, forget bias 1."""
        width = self.width
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        for weight in self.token_gates.weight.data.chunk(4):
            nn.init.xavier_uniform_(weight)
        for weight in self.state_gates.weight.data.chunk(4):
            nn.init.xavier_uniform_(weight[:, : self.dim])
            nn.init.orthogonal_(weight[:, self.dim :])
        nn.init.zeros_(self.token_gates.bias)
        nn.init.ones_(self.token_gates.bias[width : 2 * width])
        if self.upper is not None:
            initialise(self.upper, 1.0)

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``; terms ``attention`` and, with a weight, ``ctc``."""
        terms, infeasible = {}, lengths.new_zeros(())
        y = self._teach(encoded, lengths, inputs(tokens, token_lengths))
        terms["attention"] = self.head.loss(y, tokens, token_lengths, 1 - self.ctc_weight)
        if self.ctc is not None:
            terms["ctc"], infeasible = self.ctc.loss(
                encoded, lengths, tokens, token_lengths, self.ctc_weight
            )
        return Loss(terms, infeasible)

    def _teach(self, encoded: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """(B, S, D), (B,), (B, U) given tokens -> (B, U, width) before the output layer."""
        state = self.start(encoded, lengths)
        memory, cache = state
        gates = self._token_gates(tokens).unbind(1)
        outputs = []
        for token in gates:
            output, cache = self._advance(token, memory, cache)
            outputs.append(output)
        x = torch.stack(outputs, dim=1)  # (B, U, width + D)
        if self.upper is not None:
            flatten(self.upper)
            y, _ = self.upper(x)
            x = torch.cat([y, x[..., self.width :]], dim=-1)
        return self._readout(x)

    def _token_gates(self, tokens: Tensor) -> Tensor:
        """(...,) -> (..., 4 * width): the tokens' part of the gates."""
        x = F.dropout(self.embedding(tokens), self.dropout, self.training)
        return self.token_gates(x)

    def _readout(self, x: Tensor) -> Tensor:
        """(..., width + D) LSTM output and context -> (..., width)."""
        return F.dropout(torch.tanh(self.readout(x)), self.dropout, self.training)

    def _advance(
        self, token: Tensor, memory: dict[str, Tensor], cache: Cache
    ) -> tuple[Tensor, Cache]:
        """(R, 4 * width) gates of a token, R = B * K -> (R, width + D), next cache."""
        before = torch.cat([cache["context"], cache["hidden"]], dim=1)
        gates = token + self.state_gates(before)
        hidden, cell = lstm_cell(gates, cache["cell"])
        context, alignment = self.attention(hidden, cache["alignment"], memory)
        output = torch.cat([hidden, context], dim=1)
        return output, {
            "hidden": hidden,
            "cell": cell,
            "context": context,
            "alignment": alignment,
        }

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """(B, S, D), (B,) -> zero states, and the encoder's keys; see ``Decoder.start``."""
        batch, time, _ = encoded.shape
        memory = {
            "encoded": encoded,
            "keys": self.attention.key(encoded),
            "real": mask(lengths.clamp(min=1), time),
        }
        cache = {
            "hidden": encoded.new_zeros(batch, self.width),
            "cell": encoded.new_zeros(batch, self.width),
            "context": encoded.new_zeros(batch, self.dim),
            "alignment": encoded.new_zeros(batch, time),
        }
        if self.upper is not None:
            zeros = encoded.new_zeros(batch, self.upper.num_layers, self.width)
            cache |= {"upper_hidden": zeros, "upper_cell": zeros}
        return State(memory, cache)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """(B*K,) -> (B*K, V), next state; see ``Decoder.step``."""
        memory, cache = state
        x, after = self._advance(self._token_gates(tokens), memory, cache)
        if self.upper is not None:
            before = tuple(
                cache[name].transpose(0, 1).contiguous() for name in ("upper_hidden", "upper_cell")
            )
            y, (hidden, cell) = self.upper(x[:, None], before)
            after["upper_hidden"], after["upper_cell"] = (
                hidden.transpose(0, 1),
                cell.transpose(0, 1),
            )
            x = torch.cat([y[:, 0], x[:, self.width :]], dim=1)
        return self.head(self._readout(x)), State(memory, after)

    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """(B, S, D) -> (B, S, V), or None without a CTC head."""
        return None if self.ctc is None else self.ctc(encoded)

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """Products of gates, attention and output layers; see ``Decoder.flops``."""
        width, dim = self.width, self.dim
        per_token = 8 * width * (2 * width + dim) + 2 * width * (width + dim)
        if self.upper is not None:
            per_token += 8 * width * (width + dim + width)
            per_token += (self.upper.num_layers - 1) * 16 * width**2
        total = 0
        for time, tokens in zip(lengths, token_lengths, strict=True):
            steps = tokens + 1
            total += steps * per_token + self.attention.flops(time, steps) + self.head.flops(steps)
            if self.ctc is not None:
                total += self.ctc.flops(time)
        return total


class LocationAttention(nn.Module):
    """energy(s) = v . tanh(key(s) + query + U (F * previous alignment)(s)), then a softmax."""

    def __init__(self, dim: int, width: int, attention: int, *, channels: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"location_kernel {kernel} is even; an odd one is centred")
        self.dim, self.width, self.inner = dim, width, attention
        self.channels, self.kernel = channels, kernel
        self.key = nn.Linear(dim, attention)
        self.query = nn.Linear(width, attention, bias=False)
        self.location = nn.Conv1d(1, channels, kernel, padding=kernel // 2, bias=False)
        self.place = nn.Parameter(torch.empty(channels, attention))
        self.energy = nn.Linear(attention, 1, bias=False)
        for weight in (self.key.weight, self.query.weight, self.place, self.energy.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.key.bias)

    def forward(
        self, hidden: Tensor, alignment: Tensor, memory: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B*K, width), previous alignment (B*K, S) -> context (B*K, D), alignment (B*K, S)."""
        encoded, keys, real = memory["encoded"], memory["keys"], memory["real"]
        batch, time = real.shape
        rows = len(hidden)
        places = self.location(alignment[:, None]).transpose(1, 2)  # (B*K, S, C)
        x = torch.baddbmm(
            self.query(hidden)[:, None], places, self.place.expand(rows, -1, -1)
        )  # (B*K, S, A)
        x = torch.tanh(x.view(batch, -1, time, self.inner) + keys[:, None])
        energies = self.energy(x)[..., 0].float()  # (B, K, S)
        weights = energies.masked_fill(~real[:, None], -torch.inf).softmax(-1).type_as(encoded)
        context = torch.bmm(weights, encoded)  # (B, K, D)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def flops(self, time: int, steps: int) -> int:
        """FLOPs of one utterance: keys once, the rest per step."""
        per_frame = 2 * self.channels * (self.kernel + self.inner) + 2 * self.inner + 2 * self.dim
        keys = 2 * self.dim * self.inner * time
        return keys + steps * (2 * self.width * self.inner + per_frame * time)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """(R, 4 * width) in torch's order input, forget, cell, output; (R, width) -> hidden, cell."""
    first, forget, new, output = gates.chunk(4, dim=1)
    cell = torch.addcmul(forget.sigmoid() * cell, first.sigmoid(), new.tanh())
    return output.sigmoid() * cell.tanh(), cell
