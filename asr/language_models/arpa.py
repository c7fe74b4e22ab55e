"""ARPA files: back-off n-gram models as text, as KenLM, SRILM and others write them.

Words are the pieces of a tokenizer (see ``Tokenizer.pieces``), which were separated by spaces in
the text that the model was estimated from. Logarithms in the file are to the base 10.
"""

import gzip
import logging
import math
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.batch import EOS, UNKNOWN
from asr.language_models.backoff import START, Grams, find_keys

logger = logging.getLogger(__name__)

LOG_10 = math.log(10)
COUNT_LINE = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")  # n-grams of an order


@dataclass
class OrderSection:
    """Holds the n-grams of one order in the order of the file; logarithms have base 10."""

    tokens: "array[int]" = field(default_factory=lambda: array("q"))  # n per row
    log_probs: "array[float]" = field(default_factory=lambda: array("d"))
    log_backoffs: "array[float]" = field(default_factory=lambda: array("d"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    foreign: int = 0  # number of n-grams that were left out because a word is not a token


def read_arpa(path: Path, pieces: Sequence[str], order: int) -> list[Grams]:
    """The n-grams of an ARPA file, orders 1 and up; gzip if the name ends in ``.gz``.

    Tokens without a unigram share the probability of <unk> equally with it, so that probabilities
    still sum to 1 (unless the model predicts <unk> in longer n-grams too). N-grams with words that
    are not tokens are left out. Both cases are counted and logged as warnings.

    Args:
        path: the file.
        pieces: spelling of each token id.
        order: length of the longest n-grams that the file must have.

    Raises:
        ValueError: the file does not exist or is of another order; a line is broken or misplaced;
            an n-gram occurs twice or lacks its context; </s>, most tokens, or some tokens and <unk>
            are missing.
    """
    return _orders(path, {word: token for token, word in enumerate(_words(pieces))}, order)


def read_word_arpa(path: Path, order: int) -> tuple[list[str], list[Grams]]:
    """Reads the words of an ARPA file, of ids from UNKNOWN + 1 up, and its n-grams.

    Any words may be in the file; the other conditions are those of ``read_arpa``.
    """
    ids = _Growing({b"<s>": START, b"</s>": EOS, b"<unk>": UNKNOWN, b"<UNK>": UNKNOWN})
    special = len(ids)
    orders = _orders(path, ids, order)
    try:
        return [word.decode() for word in list(ids)[special:]], orders
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); convert it") from None


class _Growing(dict[bytes, int]):
    """Ids of words; a new word gets the next one. <unk> has two spellings."""

    def __missing__(self, word: bytes) -> int:
        return self.setdefault(word, len(self) - 1)


def _orders(path: Path, ids: dict[bytes, int], order: int) -> list[Grams]:
    """Reads the n-grams of a file, whose words have these ids; see ``read_arpa``."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give an n-gram model in ARPA format")
    ids.setdefault(b"<UNK>", UNKNOWN)  # older tools write it in capitals
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            sections = _parse(path, file, ids)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from None
    if len(sections) != order:
        raise ValueError(
            f"order is {order}, but {path} is of order {len(sections)}: "
            f"set order to {len(sections)}"
        )
    foreign = [section.foreign for section in sections]
    if any(foreign):
        logger.warning(
            "%s: left out %s n-grams of orders 1 to %d, which have words that are not tokens; "
            "probabilities sum to less than 1",
            *(path, ", ".join(map(str, foreign)), len(foreign)),
        )
    words = {token: word.decode(errors="replace") for word, token in ids.items()}
    orders = [_unigrams(path, sections[0], words)]
    keys = [orders[0].token]
    for n, section in enumerate(sections[1:], 2):
        orders.append(_longer(path, section, n, keys, len(words)))
        keys.append(orders[-1].context * len(words) + orders[-1].token)
    return orders


def _words(pieces: Sequence[str]) -> list[bytes]:
    """The word of each token in the file."""
    words = [b"<s>", b"</s>", b"<unk>", *(piece.encode() for piece in pieces[UNKNOWN + 1 :])]
    seen: dict[bytes, int] = {}
    for token, word in enumerate(words):
        if len(word.split()) != 1 or len(word.strip()) != len(word):
            raise ValueError(
                f"token {token} is {word.decode()!r}: an ARPA file cannot hold white space; "
                "normalise the texts"
            )
        if seen.setdefault(word, token) != token:
            raise ValueError(
                f"tokens {seen[word]} and {token} are both spelt {word.decode()!r}: an ARPA file "
                "cannot tell them apart; normalise the texts"
            )
    return words


def _parse(path: Path, file: Iterable[bytes], ids: dict[bytes, int]) -> list[OrderSection]:
    """The sections of an open file."""
    lines = ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())
    for _, line in lines:
        if line == b"\\data\\":
            break
    else:
        raise ValueError(f"{path} has no line \\data\\; give an n-gram model in ARPA format")
    sizes: list[int] = []
    for number, line in lines:
        if not line.startswith(b"ngram"):
            break
        size = COUNT_LINE.fullmatch(line)
        if size is None or int(size[1]) != len(sizes) + 1:
            raise _broken(path, number, f"expected ngram {len(sizes) + 1}=COUNT", line)
        sizes.append(int(size[2]))
    else:
        raise ValueError(f"{path} ends before its n-grams; copy it again")
    if not sizes:
        raise _broken(path, number, "expected ngram 1=COUNT", line)
    sections = []
    for n, count in enumerate(sizes, 1):
        if line != b"\\%d-grams:" % n:
            raise _broken(path, number, f"expected \\{n}-grams:", line)
        sections.append(_section(path, lines, n, count, ids))
        number, line = next(lines, (0, b""))
        if not number:
            raise ValueError(f"{path} ends after its {n}-grams without \\end\\; copy it again")
    if line != b"\\end\\":
        raise _broken(path, number, f"expected \\end\\ after {count} {n}-grams", line)
    return sections


def _section(
    path: Path, lines: Iterator[tuple[int, bytes]], n: int, size: int, ids: dict[bytes, int]
) -> OrderSection:
    """The next ``size`` lines: probability, n words, and perhaps a back-off weight."""
    section = OrderSection()
    read = 0
    for read, (number, line) in zip(range(1, size + 1), lines, strict=False):  # noqa: B007
        words = line.split()
        try:
            log_prob = float(words[0])
            log_backoff = float(words[n + 1]) if len(words) == n + 2 else 0.0
        except ValueError:
            log_prob = math.nan
        if not (log_prob <= 0 and log_backoff < math.inf and n + 1 <= len(words) <= n + 2):
            raise _broken(
                path, number, f"expected a log-probability, {n} words, perhaps a back-off", line
            )
        try:
            row = [ids[word] for word in words[1 : n + 1]]
        except KeyError:
            section.foreign += 1
            continue
        if n > 1 and (START in row[1:] or EOS in row[:-1]):
            raise _broken(path, number, "<s> can only be the first word, </s> the last", line)
        section.tokens.extend(row)
        section.log_probs.append(log_prob)
        section.log_backoffs.append(log_backoff)
        section.lines.append(number)
    if read < size:
        raise ValueError(f"{path} ends after {read} of {size} {n}-grams; copy it again")
    return section


def _broken(path: Path, number: int, expected: str, line: bytes) -> ValueError:
    found = line.decode(errors="replace")
    return ValueError(f"{path}, line {number}: {expected}, not {found:.80}; write the file again")


def _unigrams(path: Path, section: OrderSection, words: Mapping[int, str]) -> Grams:
    """All V tokens in the order of their ids; missing tokens share the probability of <unk>."""
    V = len(words)
    every = np.arange(V)
    tokens = np.frombuffer(section.tokens, np.int64)
    _sorted(path, section, tokens)
    log_prob, log_backoff = np.full(V, -math.inf), np.zeros(V)
    log_prob[tokens] = np.frombuffer(section.log_probs) * LOG_10
    log_prob[START] = -math.inf
    log_backoff[tokens] = np.frombuffer(section.log_backoffs) * LOG_10
    if EOS not in tokens:
        raise ValueError(f"{path} has no </s>: estimate it from text with a sentence per line")
    missing = np.setdiff1d(every[UNKNOWN + 1 :], tokens)
    if len(missing):
        lacks = f"{len(missing)} of {V} tokens, {words[int(missing[0])]!r} the first"
        if UNKNOWN not in tokens or 2 * len(missing) > V - UNKNOWN - 1:
            raise ValueError(
                f"{path} lacks {lacks}{'' if UNKNOWN in tokens else ', and <unk>'}: estimate it, "
                "with <unk>, from text that this tokenizer has cut into pieces; if its words are "
                "whole words, read it with class_path: WordNGram"
            )
        logger.warning("%s lacks %s: they share the probability of <unk>", path, lacks)
        log_prob[[UNKNOWN, *missing]] = log_prob[UNKNOWN] - math.log(1 + len(missing))
    return Grams(np.zeros_like(every), every, log_prob, log_backoff)


def _longer(path: Path, section: OrderSection, n: int, shorter: list[np.ndarray], V: int) -> Grams:
    """The n-grams of order n > 1; ``shorter`` are the keys of orders 1 to n - 1."""
    tokens = np.frombuffer(section.tokens, np.int64).reshape(-1, n)  # (G, n)
    context = tokens[:, 0]
    for place in range(1, n - 1):
        context, found = find_keys(shorter[place], context * V + tokens[:, place])
        if not found.all():
            number = section.lines[int(np.argmin(found))]
            raise ValueError(
                f"{path}, line {number}: the first {place + 1} words of this n-gram are not an "
                "n-gram of the file; write the file again"
            )
    order = _sorted(path, section, context * V + tokens[:, -1])
    return Grams(
        context[order],
        tokens[order, -1],
        np.frombuffer(section.log_probs)[order] * LOG_10,
        np.frombuffer(section.log_backoffs)[order] * LOG_10,
    )


def _sorted(path: Path, section: OrderSection, keys: np.ndarray) -> np.ndarray:
    """The order that sorts the keys (G,); raises ValueError if two keys are equal."""
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(again):
        number = section.lines[int(order[again[0] + 1])]
        raise ValueError(f"{path}, line {number}: this n-gram occurs twice; write the file again")
    return order
