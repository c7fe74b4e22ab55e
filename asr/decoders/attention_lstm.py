"""Listen, Attend and Spell with location-aware attention, trained jointly with CTC."""

import torch
from torch import Tensor, nn

from asr.batch import mask
from asr.decoders.cross_entropy import CrossEntropyHead
from asr.decoders.ctc import CTCHead, JointCTC
from asr.decoders.decoder import AttentionDecoder, State
from asr.decoders.location_attention import LocationAttention
from asr.kernels.linear import Linear, xavier
from asr.layers import dropout, flatten_weights, initialise, inputs, lstm_start, lstm_step
from asr.loss import Term


class AttentionLSTM(JointCTC, AttentionDecoder):
    """An LSTM that reads the encoder through one soft alignment per token.

    Chan et al. 2016 with the attention of Chorowski et al. 2015 (convolution over the previous
    alignment, additive energies) and input feeding (Luong et al. 2015). Layers above the first
    do not feed the attention (as in GNMT, Wu et al. 2016), so they run over all tokens at once.

    Args:
        width: width of the embeddings and the LSTM states.
        layers: number of LSTM layers.
        attention: width of the layer that computes the additive attention energies.
        location_channels: number of channels of the convolution over the previous alignment.
        location_kernel: number of encoder frames that this convolution sees; it must be odd. 51
            frames span 2 s, as in Chorowski et al.
        label_smoothing: probability moved from the target to the other tokens in training.
        dropout: dropout probability, on embeddings and before the output layer.
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
        super().__init__(dim, vocabulary, ctc_weight)
        self.width, self.dropout = width, dropout
        self.embedding = nn.Embedding(vocabulary, width)
        # The tokens' part of the gates is a separate layer, computed for all tokens at once.
        self.token_gates = Linear(width, 4 * width)
        self.attention = LocationAttention(
            dim, width, attention, channels=location_channels, kernel=location_kernel
        )
        self.upper = (
            nn.LSTM(width + dim, width, layers - 1, batch_first=True) if layers > 1 else None
        )
        self.readout = Linear(width + dim, width)
        self.head = CrossEntropyHead(width, vocabulary, label_smoothing=label_smoothing)
        self.ctc = CTCHead(dim, vocabulary) if ctc_weight else None
        self._initialise()

    def _initialise(self) -> None:
        """Initialises the gates as in an LSTM: orthogonal recurrent weights, forget bias 1."""
        width = self.width
        xavier(self.readout)
        xavier(self.token_gates, parts=4)
        nn.init.ones_(self.token_gates.bias[width : 2 * width])
        if self.upper is not None:
            initialise(self.upper, 1.0)

    def own_terms(
        self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> dict[str, Term]:
        """See ``JointCTC.own_terms``; the term is ``attention``."""
        y = self._teach(encoded, lengths, inputs(tokens, token_lengths))
        weight = 1 - self.ctc_weight
        return {"attention": self.head.loss(y, lengths, tokens, token_lengths, weight)}

    def _teach(self, encoded: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Runs all steps for given (B, U) tokens; returns (B, U, width) before the output layer."""
        memory = self._memory(encoded, lengths)
        x = self.attention.unroll(self._token_gates(tokens), memory)  # (B, U, width + D)
        if self.upper is not None:
            flatten_weights(self.upper)
            # Autocast would use float16 on a GPU, whose gradients would need to be scaled.
            with torch.autocast(x.device.type, enabled=False):
                y, _ = self.upper(x.float())
            x = torch.cat([y, x[..., self.width :]], dim=-1)
        return self._readout(x)

    def _token_gates(self, tokens: Tensor) -> Tensor:
        """Computes the part (..., 4 * width) of the gates that depends on the tokens."""
        x = dropout(self.embedding(tokens), self.dropout, self.training)
        return self.token_gates(x)

    def _readout(self, x: Tensor) -> Tensor:
        """Maps the LSTM output and the context, (..., width + D), to (..., width)."""
        return dropout(torch.tanh(self.readout(x)), self.dropout, self.training)

    def _memory(self, encoded: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Returns the frames, keys and mask of valid frames, which all steps share."""
        return self.attention.remember(encoded, mask(lengths.clamp(min=1), encoded.shape[1]))

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """Returns zero states and the keys of the encoder; see ``AttentionDecoder.start``."""
        cache = self.attention.initial_cache(encoded)
        if self.upper is not None:
            upper = lstm_start(self.upper, len(encoded))
            cache |= {f"upper_{name}": value for name, value in upper.items()}
        return State(self._memory(encoded, lengths), cache)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores the next token; see ``AttentionDecoder.step``."""
        memory, cache = state
        after = self.attention(self._token_gates(tokens), memory, cache)
        x = after["output"]
        if self.upper is not None:
            before = {name: cache[f"upper_{name}"] for name in ("hidden", "cell")}
            with torch.autocast(x.device.type, enabled=False):  # as in training
                y, upper = lstm_step(self.upper, x.float(), before)
            after |= {f"upper_{name}": value for name, value in upper.items()}
            x = torch.cat([y, x[:, self.width :]], dim=1)
        return self.head(self._readout(x)), State(memory, after)

    def own_flops(self, time: int, tokens: int) -> int:
        """Returns the FLOPs of the gates, the attention and the output layer.

        ``JointCTC.own_flops`` describes the arguments.
        """
        width, dim, steps = self.width, self.dim, tokens + 1
        per_token = 8 * width * width + 2 * width * (width + dim)
        if self.upper is not None:
            per_token += 8 * width * (width + dim + width)
            per_token += (self.upper.num_layers - 1) * 16 * width**2
        return steps * per_token + self.attention.flops(time, steps) + self.head.flops(steps)
