"""Measures how much batching speeds up a search on a CPU, and how the time per token grows.

    python benchmarks/search_throughput.py --threads 1

- Decoders: the weights are random, encoder frames have 384 dimensions, and the vocabulary has 500
  tokens. Decoders of one group have 5 M parameters. Decoders named "small" belong to models that
  have about 5 M parameters with their encoders (against_speechbrain.py). CTC has a weight of 0.3
  beside the attention decoders. Encoder frames are noise, and their computation is not timed.
- Batch: 16 utterances of 5 to 10 s have one frame per 40 ms. The search excludes the end of
  sentence until an utterance has 4.5 tokens per second, and forces the end of sentence then. An
  utterance alone therefore takes the same steps as in the batch, which is checked.
- Time: a round decodes one utterance after another, then all utterances in one call. The first
  round is not counted. The results are medians over rounds of wall time, and of the ratio within a
  round.
- Growth: the benchmark decodes one utterance of 40 s to 400 tokens. It takes the seconds from step
  to step as a median over rounds and fits a least-squares line. The line gives the time at an
  empty prefix and its slope.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from asr.batch import EOS
from asr.decoders import CTC, AttentionDecoder, AttentionLSTM, Decoder, State, Transformer
from asr.loss import Loss
from asr.metering.environment import environment
from asr.search import Beam

DIM, VOCABULARY, UTTERANCES, BEAM = 384, 500, 16, 8
FRAME_SECONDS, TOKENS_PER_SECOND = 0.04, 4.5
LONG_FRAMES, LONG_TOKENS = 1000, 400
CERTAIN = 1e4  # a log-probability that decides


class Dictated(AttentionDecoder):
    """A decoder whose hypotheses end after so many tokens per encoder frame, and its clock."""

    def __init__(self, decoder: AttentionDecoder, tokens_per_frame: float) -> None:
        super().__init__()
        self.decoder, self.tokens_per_frame = decoder, tokens_per_frame
        self.vocabulary = decoder.vocabulary
        self.started: list[float] = []  # when each step began

    def loss(self, encoded: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Loss:
        """See ``Decoder.loss``."""
        return self.decoder.loss(encoded, lengths, tokens, token_lengths)

    def start(self, encoded: Tensor, lengths: Tensor) -> State:
        """See ``AttentionDecoder.start``."""
        memory, cache = self.decoder.start(encoded, lengths)
        due = due_tokens(lengths, self.tokens_per_frame)
        return State(memory | {"due": due}, cache | {"spoken": torch.zeros_like(due)})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See ``AttentionDecoder.step``."""
        self.started.append(time.perf_counter())
        log_probs, (memory, cache) = self.decoder.step(tokens, state)
        spoken, due = state.cache["spoken"], state.memory["due"]
        ended = spoken >= due.repeat_interleave(len(spoken) // len(due))
        log_probs[:, EOS] = torch.where(ended, CERTAIN, -CERTAIN)
        return log_probs.log_softmax(-1), State(memory, cache | {"spoken": spoken + 1})

    def ctc_log_probs(self, encoded: Tensor) -> Tensor | None:
        """See ``Decoder.ctc_log_probs``."""
        return self.decoder.ctc_log_probs(encoded)

    def flops(self, lengths: Sequence[int], token_lengths: Sequence[int]) -> int:
        """See ``Decoder.flops``."""
        return self.decoder.flops(lengths, token_lengths)


def due_tokens(lengths: Tensor, tokens_per_frame: float) -> Tensor:
    """(B,) encoder frames -> (B,) tokens."""
    return (tokens_per_frame * lengths).long()


def decoders() -> dict[str, Decoder]:
    """By name, in eval mode."""
    found = {
        "Transformer": Transformer(DIM, VOCABULARY, width=304, layers=3, heads=4),
        "Transformer, small": Transformer(DIM, VOCABULARY, width=192, layers=3, heads=4),
        "AttentionLSTM": AttentionLSTM(DIM, VOCABULARY, width=576),
        "AttentionLSTM, small": AttentionLSTM(DIM, VOCABULARY, width=256),
        "CTC": CTC(DIM, VOCABULARY),
    }
    return {name: decoder.eval() for name, decoder in found.items()}


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """(B, S, D) frames of noise and (B,) lengths."""
    generator = torch.Generator().manual_seed(seed)
    seconds = 5 + 5 * torch.rand(UTTERANCES, generator=generator)
    lengths = (seconds / FRAME_SECONDS).long()
    return torch.randn(UTTERANCES, int(lengths.max()), DIM, generator=generator), lengths


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def batching(decoder: Decoder, beam: int, rounds: int, seed: int) -> tuple[float, float, float]:
    """Seconds one at a time and in a batch, and their ratio: medians over rounds."""
    encoded, lengths = draw(seed)
    search, rate = Beam(beam=beam), FRAME_SECONDS * TOKENS_PER_SECOND
    attention = isinstance(decoder, AttentionDecoder)
    asked = Dictated(decoder, rate) if isinstance(decoder, AttentionDecoder) else decoder

    def run(rows: slice) -> None:
        found = search(asked, encoded[rows, : int(lengths[rows].max())], lengths[rows])
        if attention:
            sizes = [len(hypotheses[0].tokens) for hypotheses in found]
            assert sizes == due_tokens(lengths[rows], rate).tolist(), sizes

    def alone() -> None:
        for row in range(UTTERANCES):
            run(slice(row, row + 1))

    seconds = [(timed(alone), timed(lambda: run(slice(None)))) for _ in range(rounds + 1)][1:]
    one, many = (statistics.median(column) for column in zip(*seconds, strict=True))
    return one, many, statistics.median(a / b for a, b in seconds)


@torch.no_grad()
def growth(decoder: AttentionDecoder, beam: int, rounds: int, seed: int) -> tuple[float, float]:
    """Seconds of a token after an empty prefix, and what each token of prefix adds to them."""
    generator = torch.Generator().manual_seed(seed)
    encoded = torch.randn(1, LONG_FRAMES, DIM, generator=generator)
    steps = []
    for _ in range(rounds + 1):
        asked = Dictated(decoder, LONG_TOKENS / LONG_FRAMES)
        Beam(beam=beam)(asked, encoded, torch.tensor([LONG_FRAMES]))
        steps.append(np.diff(asked.started))
    seconds = np.median(steps[1:], axis=0)
    slope, first = np.polyfit(np.arange(len(seconds)), seconds, 1)
    return float(first), float(slope)


def main() -> None:
    """Runs everything and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beam", type=int, default=BEAM)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    load, found = os.getloadavg()[0], decoders()
    print(f"Beam {options.beam} over {UTTERANCES} utterances, s:\n")
    print("| decoder | parameters, M | one at a time | in a batch | ratio |\n" + "| --- " * 5 + "|")
    for name, decoder in found.items():
        one, many, ratio = batching(decoder, options.beam, options.rounds, options.seed)
        size = sum(p.numel() for p in decoder.parameters()) / 1e6
        print(f"| {name} | {size:.2f} | {one:.2f} | {many:.2f} | **{ratio:.2f}** |", flush=True)
    print(f"\nA token of one utterance, from 0 to {LONG_TOKENS} tokens of prefix:\n")
    print("| decoder | beam | ms at 0 | % more per 100 tokens |\n" + "| --- " * 4 + "|")
    for name, decoder in found.items():
        if not isinstance(decoder, AttentionDecoder):
            continue
        for beam in (1, options.beam):
            first, slope = growth(decoder, beam, options.rounds, options.seed)
            change = 100 * 100 * slope / first
            print(f"| {name} | {beam} | {1e3 * first:.2f} | {change:+.1f} |", flush=True)
    machine = environment()
    print(
        f"\n{machine['cpu']}, {machine['cores']} cores, {options.threads} threads, load "
        f"{load:.1f} before; medians of {options.rounds} rounds, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
