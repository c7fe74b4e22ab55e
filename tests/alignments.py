"""CTC by hand: all alignments one by one, and the recursion of Graves frame by frame."""

import itertools
import math

import numpy as np
import torch

from asr.batch import BLANK


def collapse(path):
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def alignments(log_probs):
    """(S, V) -> every label sequence and its probability, by enumerating paths."""
    totals = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        score = sum(float(log_probs[t, label]) for t, label in enumerate(path))
        totals[collapse(path)] = totals.get(collapse(path), 0.0) + math.exp(score)
    return totals


def log(probability):
    return math.log(probability) if probability > 0 else -math.inf


def random_log_probs(*shape, seed=0, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(*shape, generator=generator)).log_softmax(-1)


def sequential(log_probs, labels):
    """Graves' recursion, frame by frame: log-probability of the prefix and of it alone."""
    S = len(log_probs)
    label_before, blank_before = np.full(S + 1, -np.inf), np.zeros(S + 1)
    blank_before[1:] = np.cumsum(log_probs[:, BLANK])
    for position, label in enumerate(labels):
        repeat = position > 0 and labels[position - 1] == label
        ended, silent, starts = np.full(S + 1, -np.inf), np.full(S + 1, -np.inf), -np.inf
        for t in range(1, S + 1):
            arrived = blank_before[t - 1]
            if not repeat:
                arrived = np.logaddexp(arrived, label_before[t - 1])
            starts = np.logaddexp(starts, arrived + log_probs[t - 1, label])
            ended[t] = np.logaddexp(ended[t - 1], arrived) + log_probs[t - 1, label]
            silent[t] = np.logaddexp(silent[t - 1], ended[t - 1]) + log_probs[t - 1, BLANK]
        label_before, blank_before = ended, silent
    return starts, np.logaddexp(label_before[-1], blank_before[-1])
