"""Measures the effective context of trained models: how far back encoders look.

Each output frame of the encoder sees a limited part of the past (``truncated_context``) and the
whole future, and the decoder says what that costs. The **effective context** is the shortest
tried whose loss is at most 1.01 times that of the whole past (Khandelwal et al. 2018). Beside it
stands how fast gradients fade (``gradient_decay``). This is what was learnt from short
utterances, not what an encoder could hold: that is ``asr claims horizon``.
"""

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio.audio_file import decode
from asr.data.batches import bucket
from asr.data.utterances import read_corpus, read_rows
from asr.model import SpeechModel, corpus_of, load_model
from asr.probes.context import ContextPoint, Effective
from asr.probes.gradient_decay import Decay, Floats, judge, sight, squared_gradients
from asr.probes.instrument import facts
from asr.probes.length_measure import described, scores
from asr.probes.probe import Measured
from asr.probes.truncated_context import chunk_frames, encode, whole_chunks
from asr.recognition.recognise import Encoded, search_frames
from asr.search import Beam, Greedy, Search
from asr.statistics.bootstrap import bootstrap_interval
from asr.text.normalisers import normaliser
from asr.text.scoring import align, pooled

log = logging.getLogger(__name__)

BOUND = 1.01  # largest loss relative to the whole past, as in Khandelwal et al. 2018


@dataclass(frozen=True)
class Plan:
    """The measurements that the probe makes with each model."""

    split: str  # split of the corpus
    seconds: tuple[float, ...]  # contexts to measure, besides the whole past
    utterances: int  # number drawn; all models of a corpus get the same utterances
    block: int  # number of encoder frames that share a run; 1: exact contexts
    gradients: int  # number of frames per utterance whose gradients are computed
    seed: int  # seed of the draws
    batch_seconds: float  # seconds of features in a batch, with padding


@dataclass(frozen=True)
class Sample:
    """Utterances drawn from a split: features (T, F), tokens (U,), texts and speakers."""

    features: list[Tensor]
    tokens: list[Tensor]
    texts: list[str]
    speakers: list[str]
    of: int


def draw(model: SpeechModel, corpus: str, plan: Plan) -> Sample:
    """The utterances of a plan, in the order of the split."""
    rows = read_rows(corpus, [plan.split])
    chosen = np.random.default_rng(plan.seed).permutation(len(rows))[: plan.utterances]
    picked = sorted(chosen.tolist())
    texts, speakers = rows["text"], rows["speaker_id"]
    features = []
    for index in picked:
        samples = decode(rows.encoded(index), model.features.sample_rate)
        wave = torch.from_numpy(samples)[None].to(model.device)  # (1, N)
        x, _ = model.features(wave, torch.tensor([wave.shape[1]], device=model.device))
        features.append(x[0])
    return Sample(
        features,
        [torch.tensor(model.tokenizer.encode(texts[i]), dtype=torch.int64) for i in picked],
        [texts[i] for i in picked],
        [str(speakers[i]) for i in picked],
        len(rows),
    )


def greedy(own: Search) -> Search:
    """Greedy search with the CTC weight of a model's own search, without a language model."""
    return Greedy(ctc_weight=own.ctc_weight if isinstance(own, Beam | Greedy) else None)


@torch.inference_mode()
def losses(model: SpeechModel, encoded: Sequence[Tensor], sample: Sample) -> Floats:
    """Computes the share (B,) of each utterance in the validation loss, which is their sum.

    The loss is that of the decoder in eval mode, teacher-forced and without label smoothing. It is
    the weighted sum of the means per token of its terms.
    """
    sums: dict[str, list[float]] = {}
    counts: dict[str, float] = {}
    for y, tokens in zip(encoded, sample.tokens, strict=True):
        sizes = torch.tensor([[len(y)], [len(tokens)]], device=y.device)
        loss = model.decoder.loss(y[None], sizes[0], tokens[None].to(y.device), sizes[1])
        for name, term in loss.terms.items():
            sums.setdefault(name, []).append(term.weight * float(term.sum))
            counts[name] = counts.get(name, 0.0) + float(term.count)
    return np.sum([np.array(sums[name]) / max(1.0, counts[name]) for name in sums], axis=0)


@torch.inference_mode()
def transcripts(model: SpeechModel, encoded: Sequence[Tensor], max_frames: int) -> list[str]:
    """Transcribes utterances by greedy search.

    Args:
        model: recogniser.
        encoded: encoder frames (S, D) of each utterance.
        max_frames: bound of the longest utterance times the number of utterances of a batch.
    """
    found: dict[int, str] = {}
    for batch in bucket([len(y) for y in encoded], max_frames):
        lengths = torch.tensor([len(encoded[i]) for i in batch], device=model.device)
        padded = pad_sequence([encoded[i] for i in batch], batch_first=True)  # (B, S, D)
        best = search_frames(model, Encoded(padded, lengths), search=greedy(model.search))
        found |= {i: model.text(one) for i, one in zip(batch, best, strict=True)}
    return [found[i] for i in range(len(encoded))]


def contexts(model: SpeechModel, plan: Plan) -> list[int | None]:
    """Contexts of a plan in encoder frames, rounded up to whole chunks; None: the whole past."""
    chunk = chunk_frames(model.encoder)
    frames = {whole_chunks(s / model.frame_seconds, chunk) for s in plan.seconds}
    return [*sorted(frames), None]


def measure_contexts(
    run: str, model: SpeechModel, corpus: str, sample: Sample, plan: Plan
) -> list[ContextPoint]:
    """Measures one model at each context, from the shortest to the whole past."""
    normalise = normaliser(read_corpus(corpus)["normaliser"])
    max_frames = round(plan.batch_seconds / model.features.hop_seconds)
    longest = -(-max(map(len, sample.features)) // model.encoder.stride) - 1
    measured = []
    for context in contexts(model, plan):
        encoded = [
            encode(model.encoder, x, context, block=plan.block, max_frames=max_frames)
            for x in sample.features
        ]
        texts = [normalise(t) for t in transcripts(model, encoded, max_frames)]
        alignments, _ = align(sample.texts, texts)
        measured.append((context, losses(model, encoded, sample), alignments))
        label = "whole past" if context is None else f"{context * model.frame_seconds:.2f} s"
        log.info("%s, %s: loss %.4f", run, label, measured[-1][1].sum())
    whole = measured[-1][1]
    curve = []
    for context, loss, alignments in measured:
        if not pooled(alignments).words:
            raise ValueError(
                f"--utterances {plan.utterances}: those drawn from {plan.split} of {corpus} hold "
                "no word; draw more"
            )
        ratio = bootstrap_interval(loss, whole, sample.speakers)
        frames = longest if context is None else context
        curve.append(
            ContextPoint(
                **described(run, model),
                **scores(alignments, sample.speakers),
                context=frames * model.frame_seconds,
                frames=frames,
                whole=context is None,
                loss=float(loss.sum()),
                loss_ratio=float(loss.sum() / whole.sum()),
                ratio_low=ratio[0],
                ratio_high=ratio[1],
            )
        )
    return curve


def decay(model: SpeechModel, sample: Sample, plan: Plan) -> Decay:
    """r(k) over frames drawn from the later half of each utterance, where long lags are."""
    random, signs = np.random.default_rng([plan.seed, 1]), torch.Generator().manual_seed(plan.seed)
    found = Decay()
    for x in sample.features:
        frames = -(-len(x) // model.encoder.stride)
        chosen = random.integers(frames // 2, frames, plan.gradients).tolist()
        found.add(squared_gradients(model.encoder, x, chosen, signs), chosen)
    return found


def effective(
    curve: Sequence[ContextPoint], gradients: Decay, model: SpeechModel, sample: Sample
) -> Effective:
    """The shortest context that is enough, and the laws of the gradients.

    The interval holds the contexts that are enough by the lower and by the upper end of the 95 %
    interval of the ratio. None: nothing less than the whole past is enough.
    """
    r = gradients.curve()
    seen, judged = sight(r), judge(gradients, model.frame_seconds)
    laws = judged.fit if judged else None
    low, high = judged.interval if judged else (math.inf, math.inf)

    def enough(name: str) -> float | None:
        return next((p.context for p in curve if not p.whole and getattr(p, name) <= BOUND), None)

    context = enough("loss_ratio")
    longer = [p for p in curve if context is not None and p.context > context]
    return Effective(
        **described(curve[0].run, model),
        search=repr(greedy(model.search)),
        utterances=len(sample.texts),
        utterances_of=sample.of,
        frame_seconds=model.frame_seconds,
        chunk_seconds=model.frame_seconds * chunk_frames(model.encoder),
        loss=curve[-1].loss,
        wer=curve[-1].wer,
        context=context,
        context_low=enough("ratio_low"),
        context_high=enough("ratio_high"),
        again_above=[p.context for p in longer if p.loss_ratio > BOUND],
        half_life=laws.half_life if laws else None,
        half_life_low=low if math.isfinite(low) else None,
        half_life_high=high if math.isfinite(high) else None,
        exponent=laws.exponent if laws else None,
        aic_difference=laws.aic_difference if laws else None,
        law=laws.law if laws else "",
        agreement=judged.agreement if judged else None,
        sight=None if seen is None else seen * model.frame_seconds,
        draws=gradients.draws,
        gradient=r.tolist(),
    )


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Model by model.

    Raises:
        ValueError: no such model, corpus or split.
    """
    given = {"seconds": tuple(options.contexts), **vars(options)}
    plan = Plan(**{field.name: given[field.name] for field in fields(Plan)})
    machine, curves, runs = facts(device), [], []
    for folder in options.runs:
        model = load_model(folder, device)
        corpus = options.corpus or corpus_of(model, folder)
        sample = draw(model, corpus, plan)
        curve = measure_contexts(folder, model, corpus, sample, plan)
        curves += curve
        runs.append(asdict(effective(curve, decay(model, sample, plan), model, sample)))
        yield Measured(curves, machine, {"plan": asdict(plan), "runs": runs})
