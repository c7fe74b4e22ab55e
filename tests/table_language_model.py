"""A language model whose every probability depends on the whole history, read from a table."""

import torch

from asr.batch import BLANK, EOS
from asr.language_models.language_model import LanguageModel

PLACES = 32


def grow(fusion, rows, tokens):
    """Extends some of the rows by tokens; the others do not change."""
    every = torch.arange(len(fusion.log_probs))
    new = torch.zeros_like(every).scatter(0, rows, tokens)
    return fusion.grow(every, torch.isin(every, rows), new)


class TableLanguageModel(LanguageModel):
    """Logits are sums over positions of a random (PLACES, V, V) table: order and place matter."""

    def __init__(self, vocabulary, seed=0, sharpness=1.0, eos=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary = vocabulary
        self.table = sharpness * torch.randn(PLACES, vocabulary, vocabulary, generator=generator)
        self.bias = torch.zeros(vocabulary)
        self.bias[BLANK], self.bias[EOS] = -torch.inf, eos
        self.rows = []  # of every step, for counting work

    def start(self, rows):
        return {
            "tokens": torch.zeros(rows, 0, dtype=torch.long),
            "count": torch.zeros(rows, dtype=torch.long),
        }

    def step(self, tokens, cache):
        history, count = cache["tokens"], cache["count"]
        assert len(history) == len(count) == len(tokens)
        self.rows.append(len(tokens))
        if int(count.max()) == history.shape[1]:
            history = torch.cat([history, torch.zeros(len(history), 1, dtype=torch.long)], 1)
        else:
            history = history.clone()
        history[torch.arange(len(history)), count] = tokens
        logits = self.bias.expand(len(history), -1).clone()
        for row, size in enumerate((count + 1).tolist()):
            assert history[row, size:].eq(0).all()
            logits[row] += self.logits(history[row, :size].tolist())
        return logits.log_softmax(-1), {"tokens": history, "count": count + 1}

    def logits(self, history):
        return sum(self.table[place % PLACES, token] for place, token in enumerate(history))

    def score(self, tokens):
        """Of tokens without EOS at the start; written without a cache."""
        tokens, total = [EOS, *tokens], 0.0
        for size, token in enumerate(tokens[1:], 1):
            total += float((self.bias + self.logits(tokens[:size])).log_softmax(-1)[token])
        return total

    def log_probs(self, tokens, lengths):
        scores = torch.zeros(len(tokens), tokens.shape[1] + 1)
        for row, length in enumerate(lengths.tolist()):
            whole = [*tokens[row, :length].tolist(), EOS]
            for size in range(len(whole)):
                scores[row, size] = self.score(whole[: size + 1]) - self.score(whole[:size])
        return scores

    def flops(self, lengths):
        return sum(lengths)
