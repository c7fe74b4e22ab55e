"""Builds the models of asr and SpeechBrain that a benchmark compares: same sizes, same batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder
from speechbrain.decoders.seq2seq import (
    S2SRNNBeamSearcher,
    S2SRNNGreedySearcher,
    S2STransformerBeamSearcher,
    S2STransformerGreedySearcher,
)
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.nnet.embedding import Embedding
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.losses import ctc_loss, kldiv_loss, nll_loss
from speechbrain.nnet.RNN import LSTM, AttentionalRNNDecoder
from torch import Tensor, nn

from asr import decoders, encoders
from asr.audio.features import LogMel
from asr.batch import BLANK, EOS
from asr.decoders.decoder import AttentionDecoder, Decoder, Loss, State
from asr.encoders.encoder import Encoder
from asr.search import Beam, Greedy

NUM_MELS, CHANNELS, VOCABULARY = 80, 32, 500
LSTM_DIM, LSTM_LAYERS = 384, 3  # recipes/encoders/lstm-small.yaml
RNN_WIDTH, LOCATION_CHANNELS, LOCATION_KERNEL = 256, 10, 51
DIM, LAYERS, HEADS, DECODER_LAYERS = 192, 6, 4, 3  # recipes/encoders/transformer-small.yaml
DROPOUT, SMOOTHING, CTC_WEIGHT, BEAM = 0.1, 0.1, 0.3, 8
START = 2  # SpeechBrain's beam search wants a start that is neither blank nor end
CERTAIN = 1e4  # a logit that decides


@dataclass(frozen=True)
class Input:
    """One padded batch; lengths in frames for us, as shares of the longest for SpeechBrain."""

    features: Tensor  # (B, T, F) log-mel
    frames: Tensor  # (B,)
    tokens: Tensor  # (B, U), BLANK beyond an utterance's
    token_lengths: Tensor  # (B,)

    def to(self, device: str) -> "Input":
        """The same on a device."""
        tensors = (self.features, self.frames, self.tokens, self.token_lengths)
        return Input(*(tensor.to(device) for tensor in tensors))

    @property
    def audio_seconds(self) -> float:
        """Seconds without padding."""
        return 0.01 * int(self.frames.sum())

    @property
    def share(self) -> Tensor:
        """(B,) lengths as shares of the longest."""
        return self.frames / self.frames.max()


def draw(seed: int, batch: int = 16) -> Input:
    """Log-mel of noise of 5 to 10 s and 4.5 random tokens a second."""
    generator = torch.Generator().manual_seed(seed)
    seconds = 5 + 5 * torch.rand(batch, generator=generator)
    seconds[0] = 10.0
    samples = (16000 * seconds).long()
    waves = 0.1 * torch.randn(batch, int(samples.max()), generator=generator)
    extract = LogMel(num_mels=NUM_MELS)
    extract.fit(waves)
    features, frames = extract(waves, samples)
    token_lengths = (4.5 * seconds).long()
    tokens = torch.randint(3, VOCABULARY, (batch, int(token_lengths.max())), generator=generator)
    padding = torch.arange(tokens.shape[1]) >= token_lengths[:, None]
    return Input(features, frames, tokens.masked_fill(padding, BLANK), token_lengths)


def dictate(logits: Tensor, ended: Tensor) -> Tensor:
    """(R, V), (R,) -> the same, but that EOS is certain where ended and excluded elsewhere."""
    logits = logits.clone()
    logits[..., EOS] = torch.where(ended, CERTAIN, -CERTAIN)
    return logits


class Ours(nn.Module):
    """An encoder and a decoder of this project."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def loss(self, x: Input) -> Tensor:
        """The loss of a batch, ()."""
        return self.decoder.loss(*self.encode(x), x.tokens, x.token_lengths).total()

    def encode(self, x: Input) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,)."""
        return self.encoder(x.features, x.frames)

    def transcribe(self, x: Input, beam: int, ctc_weight: float) -> list[list[int]]:
        """The best hypotheses, each of as many tokens as the batch's."""
        find = Greedy(ctc_weight=ctc_weight)
        if beam > 1:
            find = Beam(beam=beam, ctc_weight=ctc_weight)
        found = find(Dictated(self.decoder, x.token_lengths), *self.encode(x))
        return [list(hypotheses[0].tokens) for hypotheses in found]


class Dictated(AttentionDecoder):
    """A decoder whose hypotheses end after a given number of tokens, neither before nor later."""

    def __init__(self, decoder: Decoder, due: Tensor) -> None:
        super().__init__()
        self.decoder, self.due = decoder, due

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``."""
        return self.decoder.loss(encoded, lengths, tokens, token_lengths)

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """See ``AttentionDecoder.start``."""
        memory, cache = self.decoder.start(encoded, lengths)
        return State(memory | {"due": self.due}, cache | {"spoken": torch.zeros_like(self.due)})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See ``AttentionDecoder.step``."""
        log_probs, (memory, cache) = self.decoder.step(tokens, state)
        spoken, due = state.cache["spoken"], state.memory["due"]
        ended = spoken >= due.repeat_interleave(len(spoken) // len(due))
        log_probs = dictate(log_probs, ended).log_softmax(-1)
        return log_probs, State(memory, cache | {"spoken": spoken + 1})

    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """See ``Decoder.ctc_log_probs``."""
        return self.decoder.ctc_log_probs(encoded)

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """See ``Decoder.flops``."""
        return self.decoder.flops(lengths, token_lengths)


def our_lstm() -> Ours:
    """The LSTM encoder with the LSTM decoder."""
    encoder = encoders.LSTM(
        NUM_MELS, dim=LSTM_DIM, layers=LSTM_LAYERS, dropout=DROPOUT, channels=CHANNELS
    )
    decoder = decoders.AttentionLSTM(
        LSTM_DIM,
        VOCABULARY,
        width=RNN_WIDTH,
        attention=LSTM_DIM,
        location_channels=LOCATION_CHANNELS,
        location_kernel=LOCATION_KERNEL,
        ctc_weight=CTC_WEIGHT,
        label_smoothing=SMOOTHING,
        dropout=DROPOUT,
    )
    return Ours(encoder, decoder)


def our_transformer() -> Ours:
    """The Transformer encoder with the Transformer decoder."""
    encoder = encoders.Transformer(
        NUM_MELS, dim=DIM, layers=LAYERS, heads=HEADS, dropout=DROPOUT, channels=CHANNELS
    )
    decoder = decoders.Transformer(
        DIM,
        VOCABULARY,
        width=DIM,
        layers=DECODER_LAYERS,
        heads=HEADS,
        ctc_weight=CTC_WEIGHT,
        label_smoothing=SMOOTHING,
        dropout=DROPOUT,
    )
    return Ours(encoder, decoder)


class DictatedLinear(nn.Module):
    """SpeechBrain's output layer with the ends of ``Dictated``; called once per step."""

    def __init__(self, linear: Linear, due: Tensor) -> None:
        super().__init__()
        self.linear, self.due, self.spoken = linear, due, 0

    @property
    def w(self) -> nn.Linear:
        """Where SpeechBrain's searches look up the size of the vocabulary."""
        return self.linear.w

    def forward(self, x: Tensor) -> Tensor:
        """(R, D), or (R, U, D) of which only the last position counts -> (..., V)."""
        ended = (self.spoken >= self.due).repeat_interleave(len(x) // len(self.due))
        self.spoken += 1
        return dictate(self.linear(x), ended.view(-1, *[1] * (x.dim() - 2)))


class Theirs(nn.Module):
    """What SpeechBrain's two models have in common: front end, output layers, losses, search."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        # The front end of their Transformer recipes, with our channels and activation and without
        # their norms and dropout: what is left is what ours computes.
        self.front = ConvolutionFrontEnd(
            input_shape=(None, None, NUM_MELS),
            num_blocks=2,
            num_layers_per_block=1,
            out_channels=[CHANNELS, CHANNELS],
            kernel_sizes=[3, 3],
            strides=[2, 2],
            residuals=[False, False],
            activation=nn.ReLU,
            norm=None,
            dropout=0.0,
        )
        self.ctc_linear = Linear(input_size=dim, n_neurons=VOCABULARY)
        self.output = Linear(input_size=width, n_neurons=VOCABULARY)

    def joined(self, attention: Tensor, encoded: Tensor, x: Input, reduction: str) -> Tensor:
        """The attention decoder's loss with that of CTC, ()."""
        log_probs = self.ctc_linear(encoded).log_softmax(-1)
        shares = x.token_lengths / x.tokens.shape[1]
        ctc = ctc_loss(log_probs, x.tokens, x.share, shares, BLANK, reduction=reduction)
        return (1 - CTC_WEIGHT) * attention + CTC_WEIGHT * ctc

    def options(self, beam: int, ctc_weight: float, full: bool) -> dict:
        """Arguments of a search; its greedy one knows no CTC."""
        common = {
            "bos_index": START,
            "eos_index": EOS,
            "min_decode_ratio": 0.0,
            "max_decode_ratio": 1.0,
        }
        if not ctc_weight:
            return common
        ctc = [CTCScorer(self.ctc_linear, blank_index=BLANK, eos_index=EOS)]
        scorer = ScorerBuilder(
            weights={"ctc": ctc_weight},
            full_scorers=ctc if full else [],
            partial_scorers=[] if full else ctc,
        )
        return common | {"beam_size": beam, "scorer": scorer, "using_eos_threshold": False}


class TheirLSTM(Theirs):
    """SpeechBrain's stacked LSTM and its attentional decoder with LSTM cells.

    ``packed``: whether the encoder is given lengths. CRDNN, which their recipes use, gives none;
    then results depend on the padding, and torch's faster kernel can be used.
    """

    def __init__(self, packed: bool = False) -> None:
        super().__init__(LSTM_DIM, RNN_WIDTH)
        self.packed = packed
        self.project = Linear(
            input_shape=(None, None, NUM_MELS // 4, CHANNELS), n_neurons=LSTM_DIM, combine_dims=True
        )
        self.encoder = LSTM(
            hidden_size=LSTM_DIM // 2,
            input_size=LSTM_DIM,
            num_layers=LSTM_LAYERS,
            dropout=DROPOUT,
            bidirectional=True,
        )
        self.embedding = Embedding(num_embeddings=VOCABULARY, embedding_dim=RNN_WIDTH)
        self.decoder = AttentionalRNNDecoder(
            rnn_type="lstm",
            attn_type="location",
            hidden_size=RNN_WIDTH,
            attn_dim=LSTM_DIM,
            num_layers=1,
            enc_dim=LSTM_DIM,
            input_size=RNN_WIDTH,
            channels=LOCATION_CHANNELS,
            kernel_size=LOCATION_KERNEL // 2,  # to either side
            dropout=DROPOUT,
        )

    def encode(self, x: Input) -> Tensor:
        """(B, T, F) -> (B, S, D)."""
        y = self.project(self.front(x.features))
        return self.encoder(y, lengths=x.share if self.packed else None)[0]

    def loss(self, x: Input) -> Tensor:
        """The loss of a batch as in their recipe train_BPE_1000.yaml."""
        encoded = self.encode(x)
        y, _ = self.decoder(self.embedding(taught(x)), encoded, x.share)
        log_probs = self.output(y).log_softmax(-1)
        shares = (x.token_lengths + 1) / log_probs.shape[1]
        attention = nll_loss(log_probs, wanted(x), length=shares, label_smoothing=SMOOTHING)
        return self.joined(attention, encoded, x, "mean")

    def transcribe(
        self, x: Input, beam: int, ctc_weight: float, full: bool = False
    ) -> list[list[int]]:
        """The best hypotheses, each of as many tokens as the batch's."""
        search = S2SRNNBeamSearcher if ctc_weight else S2SRNNGreedySearcher
        output = DictatedLinear(self.output, x.token_lengths)
        options = self.options(beam, ctc_weight, full)
        find = search(embedding=self.embedding, decoder=self.decoder, linear=output, **options)
        return find(self.encode(x), x.share)[0]


class TheirTransformer(Theirs):
    """SpeechBrain's Transformer: pre-norm, with rotary positions in the encoder as in ours.

    ``attention_dropout``: theirs drops attention weights too, which ours does not, and torch's
    fused attention on CPU cannot; without, for a comparison of the same work.
    """

    def __init__(self, attention_dropout: bool = True, attention: str = "RoPEMHA") -> None:
        super().__init__(DIM, DIM)
        self.model = TransformerASR(
            tgt_vocab=VOCABULARY,
            input_size=CHANNELS * NUM_MELS // 4,
            d_model=DIM,
            nhead=HEADS,
            num_encoder_layers=LAYERS,
            num_decoder_layers=DECODER_LAYERS,
            d_ffn=4 * DIM,
            dropout=DROPOUT,
            activation=nn.ReLU,
            normalize_before=True,
            attention_type=attention,
            causal=False,
        )
        if not attention_dropout:
            for layer in self.model.encoder.layers:
                layer.self_att.dropout = 0.0
            for layer in self.model.decoder.layers:
                layer.self_attn.att.dropout = layer.multihead_attn.att.dropout = 0.0

    def encode(self, x: Input) -> Tensor:
        """(B, T, F) -> (B, S, D)."""
        return self.model.encode(self.front(x.features), x.share)

    def loss(self, x: Input) -> Tensor:
        """The loss of a batch as in their recipe transformer.yaml."""
        encoded, y = self.model(self.front(x.features), taught(x), x.share, pad_idx=BLANK)
        log_probs = self.output(y).log_softmax(-1)
        attention = kldiv_loss(
            log_probs, wanted(x), label_smoothing=SMOOTHING, pad_idx=BLANK, reduction="batchmean"
        )
        return self.joined(attention, encoded, x, "batchmean")

    def transcribe(
        self, x: Input, beam: int, ctc_weight: float, full: bool = False
    ) -> list[list[int]]:
        """The best hypotheses, each of as many tokens as the batch's."""
        search = S2STransformerBeamSearcher if ctc_weight else S2STransformerGreedySearcher
        modules = [self.model, DictatedLinear(self.output, x.token_lengths)]
        find = search(modules=modules, **self.options(beam, ctc_weight, full))
        return find(self.encode(x), x.share)[0]


def taught(x: Input) -> Tensor:
    """(B, U + 1): the start, then the tokens."""
    return torch.nn.functional.pad(x.tokens, (1, 0), value=START)


def wanted(x: Input) -> Tensor:
    """(B, U + 1): the tokens, then EOS."""
    tokens = torch.nn.functional.pad(x.tokens, (0, 1), value=BLANK)
    return tokens.scatter(1, x.token_lengths[:, None], EOS)
