"""Back-off n-gram language models: estimated from text, or read from an ARPA file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.batch import EOS, Cache, mask
from asr.language_models import arpa as arpa_file
from asr.language_models.backoff import Automaton, automaton, uniform_unigrams
from asr.language_models.kneser_ney import estimate
from asr.language_models.language_model import LanguageModel


class NGram(LanguageModel):
    """An n-gram model with interpolated modified Kneser-Ney smoothing.

    All tokens are equally likely until ``fit`` is called or the tables are loaded. The tables are
    buffers in ``state_dict`` (see ``Automaton``); ``load_state_dict`` accepts them at any size. The
    state of a row is the number of its context: the longest suffix of its tokens, of at most
    ``order`` - 1 tokens, that the model has. Probabilities over all tokens but BLANK sum to 1.

    Args:
        order: length n of the longest n-grams; a prediction depends on n - 1 tokens.
        prune: n-grams of order 3 and above are left out if they occur at most this number of times.
        arpa: file in ARPA format, which is read instead of estimating n-grams from text; its words
            must be pieces of the tokenizer.
    """

    keys: Tensor
    log_probabilities: Tensor
    targets: Tensor
    starts: Tensor
    log_backoffs: Tensor
    suffixes: Tensor

    def __init__(self, vocabulary: int, *, order: int = 5, prune: int = 0, arpa: str | None = None):
        super().__init__()
        if order < 1:
            raise ValueError(f"order is {order}: it must be at least 1")
        if prune < 0:
            raise ValueError(f"prune is {prune}: it must be 0 or more")
        self.vocabulary, self.order, self.prune, self.arpa = vocabulary, order, prune, arpa
        for name, table in _tables(automaton([uniform_unigrams(vocabulary)])).items():
            self.register_buffer(name, table)
        self.register_load_state_dict_pre_hook(_make_room)

    def fit(self, sentences: Iterable[Sequence[int]], pieces: Sequence[str]) -> None:
        """Estimates the tables from sentences of token ids, or reads the file ``arpa``.

        Args:
            sentences: ids from UNKNOWN up, without EOS; not used if there is a file.
            pieces: spelling of each id, see ``Tokenizer.pieces``.

        Raises:
            ValueError: there are no sentences, or an id is not a token; the file is missing or
                damaged, or has another order or tokenizer.
        """
        if self.arpa is None:
            orders = estimate(sentences, self.vocabulary, self.order, self.prune)
        else:
            orders = arpa_file.read_arpa(Path(self.arpa), pieces)
            if len(orders) != self.order:
                raise ValueError(
                    f"order is {self.order}, but {self.arpa} is of order {len(orders)}: "
                    f"set order to {len(orders)}"
                )
        for name, table in _tables(automaton(orders)).items():
            setattr(self, name, table.to(self.keys.device))

    def start(self, rows: int) -> Cache:
        """The state of N rows with the empty context."""
        return {"context": torch.zeros(rows, dtype=torch.int64, device=self.keys.device)}

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See ``LanguageModel.step``."""
        context = self._read(tokens, cache["context"])[1]  # (N,)
        return self._predict(context), {"context": context}

    def log_probs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Looks up only these tokens; see ``LanguageModel.log_probs``."""
        B, U = tokens.shape
        real = mask(lengths, U)  # (B, U)
        text = tokens.masked_fill(~real, EOS)
        text = nn.functional.pad(text, (1, 1), value=EOS)  # (B, U + 2)
        context = self.start(B)["context"]
        _, context = self._read(text[:, 0], context)
        scores = []
        for place in range(1, U + 2):
            score, context = self._read(text[:, place], context)  # (B,)
            scores.append(score)
        return torch.stack(scores, 1).masked_fill(~mask(lengths + 1, U + 1), 0.0)  # (B, U + 1)

    def flops(self, lengths: list[int]) -> int:
        """Returns 0, because probabilities are looked up and added, not multiplied."""
        return 0

    def _chain(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns contexts (n, N) from the longest to the empty one, and summed back-offs (n, N).

        A shorter chain repeats the empty context at its end.
        """
        contexts = [context]
        for _ in range(self.order - 1):
            contexts.append(self.suffixes[contexts[-1]].long())
        chain = torch.stack(contexts)  # (n, N)
        paid = self.log_backoffs[chain[:-1]].cumsum(0)  # (n - 1, N)
        return chain, nn.functional.pad(paid, (0, 0, 1, 0))

    def _read(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities (N,) of tokens after contexts, and the next contexts (N,)."""
        chain, paid = self._chain(context)  # (n, N)
        wanted = chain * self.vocabulary + tokens  # (n, N)
        arc = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)  # (n, N)
        found = self.keys[arc] == wanted
        level = found.byte().argmax(0, keepdim=True)  # (1, N) the longest n-gram
        arc, paid = arc.gather(0, level)[0], paid.gather(0, level)[0]  # (N,)
        return paid + self.log_probabilities[arc], self.targets[arc].long()

    def _predict(self, context: Tensor) -> Tensor:
        """Returns log-probabilities (N, V) of the next token after (N,) contexts."""
        V = self.vocabulary
        chain, paid = self._chain(context)  # (n, N)
        log_probs = self.log_probabilities[:V] + paid[-1, :, None]  # (N, V) of the empty context
        flat = log_probs.view(-1)
        rows = torch.arange(len(context), device=context.device) * V  # (N,)
        # Goes from short to long contexts, so that longer n-grams overwrite shorter ones.
        for contexts, spent in zip(chain[:-1].flip(0), paid[:-1].flip(0), strict=True):
            begin = self.starts[contexts]  # (N,)
            size = (self.starts[contexts + 1] - begin).masked_fill(contexts == 0, 0)  # (N,)
            offset = size.cumsum(0) - size
            places = torch.stack([begin - offset, rows - contexts * V]).repeat_interleave(size, 1)
            arc = places[0] + torch.arange(places.shape[1], device=context.device)  # (R,)
            spent = spent.repeat_interleave(size)  # (R,)
            flat[self.keys[arc] + places[1]] = self.log_probabilities[arc] + spent
        return log_probs


def _tables(table: Automaton) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in vars(table).items()}


def _make_room(
    module: nn.Module,
    state: Mapping[str, Any],
    prefix: str,
    metadata: object,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Resizes the buffers before loading to the sizes of the stored tables."""
    for name, buffer in list(module.named_buffers()):
        if prefix + name in state:
            setattr(module, name, buffer.new_empty(state[prefix + name].shape))
    starts = state.get(f"{prefix}starts")
    if starts is not None and starts[1] != module.vocabulary:
        errors.append(f"n-grams have {starts[1]} tokens, the vocabulary has {module.vocabulary}")
