"""Writes ARPA files, for tests of the reader."""

import gzip
import math

import numpy as np

LOG_ZERO = -99.0  # how a probability of 0 is written
LOG_10 = math.log(10)


def write(path, orders, pieces):
    """Writes orders of ``Grams``; gzip if the name ends in ``.gz``."""
    words = ["<s>", "</s>", "<unk>", *pieces[3:]]
    text = "".join(_lines(orders, words)).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def _lines(orders, words):
    yield "\\data\\\n"
    for n, grams in enumerate(orders, 1):
        yield f"ngram {n}={len(grams.token)}\n"
    texts = [""]
    for n, grams in enumerate(orders, 1):
        yield f"\n\\{n}-grams:\n"
        rows = zip(grams.context.tolist(), grams.token.tolist(), strict=True)
        texts = [f"{texts[context]} {words[token]}".lstrip(" ") for context, token in rows]
        log_probs = np.maximum(grams.log_prob / LOG_10, LOG_ZERO).tolist()
        if n == len(orders):
            for log_prob, text in zip(log_probs, texts, strict=True):
                yield f"{log_prob:.8g}\t{text}\n"
            continue
        log_backoffs = (grams.log_backoff / LOG_10).tolist()
        for log_prob, text, log_backoff in zip(log_probs, texts, log_backoffs, strict=True):
            yield f"{log_prob:.8g}\t{text}\t{log_backoff:.8g}\n"
    yield "\n\\end\\\n"
