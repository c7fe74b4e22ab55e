"""The LightningModule of speech recognisers."""

import dataclasses
import functools
import itertools
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from asr.audio.features import Augmentation
from asr.batch import Batch
from asr.config import strict_yaml
from asr.encoders.recurrent import recurrent_kernel, set_recurrent_precision
from asr.loss import Loss
from asr.model import SpeechModel, build_model, load_model, save_model
from asr.recipe.schema import Recipe
from asr.recognition.validate import Validation, try_search
from asr.text.scoring import ranked, telling_metric
from asr.training.compiled import Shape, Shapes, begin_step, compile_regions
from asr.training.machine import kernel_precision
from asr.training.ranks import from_rank_zero, summed
from asr.training.task import ORDER, Task, seed

log = logging.getLogger(__name__)

EXAMPLES = 3  # number of validation utterances that the log shows
SAMPLE_SECONDS = 1000.0  # of audio, by whose mean and deviation features are normalised
MULTIPLE_SECONDS = 0.64  # batches on a GPU are padded to a multiple of this duration


class SpeechModule(Task):
    """A speech recogniser with the recipe of its training.

    Every random number is a function of the seed and of the position of the batch in the stream, so
    that a resumed run does not need the state of a random generator. The augmentation of a row is
    the same for any number of ranks; dropout depends on the rank.

    Attributes:
        augmentation: augmentation of the waveforms and features.
        search: search of the validation.
        shapes: shapes to which batches are padded if the model is compiled; otherwise None.
        computed: size of the last batch, including padding.
    """

    model: SpeechModel

    def __init__(self, recipe: Recipe, model: SpeechModel | None = None) -> None:
        """Makes the module; without a model, the Trainer builds one after it has set up the data.

        Args:
            recipe: recipe of the training.
            model: trained model to continue with.
        """
        super().__init__(recipe)
        self.recipe: Recipe = recipe
        self.augmentation = recipe.augmentation
        self.search = recipe.validation.search()
        self.shapes: Shapes | None = None
        self.computed = Shape(0, 0, 0)
        self._frames = torch.zeros(0)
        self._dropouts: list[tuple[Any, str, float]] = []  # while dropout is off
        if model is not None:
            self.model, self.search = model.train(), model.search

    @classmethod
    def load(cls, path: str | Path) -> "SpeechModule":
        """Loads a model folder, or the best model of a run folder, with its training recipe.

        Validation uses the search that is saved with the model, like ``asr evaluate``.

        Raises:
            ValueError: there is no model, or it was saved without its training recipe.
        """
        model = load_model(path)
        if "recipe" not in model.summary:
            raise ValueError(f"{path} does not say how it was trained; give a run of asr train")
        return cls(strict_yaml.read(Recipe, model.summary["recipe"]), model)

    def configure_model(self) -> None:
        """Builds the model, the same on every rank."""
        texts, metric = self.data.source.validation.texts, self.recipe.validation.metric
        self.progress.metric = telling_metric(texts) if metric == "auto" else metric
        if "model" in self._modules:
            return
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        model = build_model(
            recipe.features,
            recipe.encoder,
            recipe.decoder,
            recipe.search,
            self.data.tokenizer,
            self.data.corpus["normaliser"],
        )
        set_recurrent_precision(model.modules(), recipe.trainer.recurrent_precision)
        if not self.data.resumed:
            model.features.fit(self.data.source.sample(SAMPLE_SECONDS))
        model.eval()
        for search in (self.search, model.search):
            try_search(search, model)
        self.model = model.train()

    def on_fit_start(self) -> None:
        """Compiles the model if the recipe says so, and tries the longest batch."""
        model, recipe = self.model, self.recipe
        if recipe.trainer.compile is not None:
            self.shapes = self._compiled(recipe.trainer.compile)
        self.recurrent_kernel = recurrent_kernel(model.modules(), model.device)
        # On a CPU in float32, the default, there is only one kernel, so nothing is logged.
        chosen = model.device.type == "cuda" or recipe.trainer.recurrent_precision != "float32"
        if self.recurrent_kernel is not None and chosen:
            log.info("recurrent kernel: %s", self.recurrent_kernel)
        self._encoder_flops = functools.cache(lambda frames: model.encoder.flops([frames]))
        self._decoder_flops = functools.cache(lambda s, u: model.decoder.flops([s], [u]))
        # A batch is longest at the slowest speed.
        given = self.augmentation
        self.augmentation = dataclasses.replace(given, speed=[min(given.speed)])
        super().on_fit_start()
        self.augmentation = given
        if given.from_share:
            self.augmentation = Augmentation()
            self.silence_dropout()

    def silence_dropout(self) -> None:
        """Turns dropout off until ``regularise`` is called."""
        self._dropouts = [
            (part, name, getattr(part, name))
            for part in self.model.modules()
            for name in (["p"] if isinstance(part, _DropoutNd) else ["dropout"])
            if isinstance(getattr(part, name, None), float)
        ]
        for part, name, _ in self._dropouts:
            setattr(part, name, 0.0)

    def _compiled(self, mode: str) -> Shapes:
        """Compiles the model; returns the shapes to which its batches are padded."""
        train = self.data.source.train
        shapes = Shapes(
            train.sizes,
            [len(train.tokens(index)) for index in range(len(train))],
            self.recipe.data.max_batch_seconds,
            self.recipe.augmentation.speed,
            self.model.features.hop_seconds,
            self.trainer.world_size,
        )
        regions = compile_regions(self.model, mode, shapes.all)
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes.all)
        log.info("torch.compile, %s: %d regions, filled up to one of %s", mode, len(regions), sizes)
        return shapes

    # --- training ---

    def loss(self, batch: Batch) -> Loss:
        """Computes the terms of the loss, with the augmentation and dropout of this batch."""
        number = (self.recipe.seed * 1_000_003 + self.data.position) * 2
        if self._dropouts and self.spent >= self.recipe.augmentation.from_share:
            self.regularise()
        model, augmentation, share = self.model, self.augmentation, self.data.share
        seed(number, model.device, self.global_rank)
        with torch.autocast(model.device.type, enabled=False):
            waves, lengths = augmentation.perturb(
                self._pad_to_multiple(batch.waves),
                batch.wave_lengths,
                self.recipe.features.sample_rate,
                number,
                share,
                batch.num_samples,
            )
        waves = self._pad_to_multiple(waves)
        longest = int(model.features.num_frames(torch.tensor(waves.shape[1])))
        filled = Shape(len(waves), longest, batch.tokens.shape[1])
        if self.shapes is not None:
            filled = self.shapes.of(*filled)
            begin_step(self.recipe.trainer.compile)
        loss, frames = model(
            waves,
            lengths,
            batch.tokens,
            batch.token_lengths,
            lambda x, frames: augmentation.spec_augment(x, frames, number + 1, share),
            self.shapes.pad if self.shapes is not None else None,
        )
        self.computed, self._frames = filled, frames
        return loss

    def regularise(self) -> None:
        """Turns augmentation and dropout on, once ``augmentation.from_share`` is spent."""
        self.augmentation = self.recipe.augmentation
        for part, name, probability in self._dropouts:
            setattr(part, name, probability)
        self._dropouts = []

    def _pad_to_multiple(self, waves: Tensor) -> Tensor:
        """Pads waves to one of a few lengths on a GPU: (B, N) -> (B, N').

        cuDNN plans its convolutions, of which the change of speed is one, for each length. Compiled
        models have few shapes anyway.
        """
        if not waves.is_cuda or self.shapes is not None:
            return waves
        step = round(MULTIPLE_SECONDS * self.recipe.features.sample_rate)
        return F.pad(waves, (0, -waves.shape[1] % step))

    def amounts(self, batch: Batch) -> dict[str, float]:
        """Returns audio and FLOPs of the last batch, without and with padding."""
        if self.data.share.idle:
            return {}
        frames, filled = self._frames, self.computed
        stride = self.model.encoder.stride

        def flops(t: int, u: int) -> int:
            return self._encoder_flops(t) + self._decoder_flops(-(-t // stride), u)

        return {
            "audio_seconds": sum(batch.num_samples) / self.recipe.features.sample_rate,
            "padded_seconds": filled.rows * filled.frames * self.model.features.hop_seconds,
            # The backward pass costs twice the forward pass.
            "train_flops": 3 * sum(map(flops, frames.tolist(), batch.token_lengths.tolist())),
            "padded_train_flops": 3 * filled.rows * flops(filled.frames, filled.tokens),
        }

    # --- validation ---

    def on_validation_epoch_start(self) -> None:
        """Begins the sums over the validation split."""
        self._validation = Validation(self.evaluated, self.search)

    def validate(self, batch: Batch) -> None:
        """Recognises a batch, and adds its errors to the sums."""
        self._validation.add(batch)

    def validation_metrics(self) -> dict[str, Any]:
        """Returns loss, WER, CER and other metrics."""
        weights = self.weights or from_rank_zero(self.trainer, self._validation.weights)
        return self._validation.metrics(weights, functools.partial(summed, self.trainer))

    def examples(self) -> list[tuple[str, str]]:
        """See ``Task.examples``."""
        pairs = zip(self._validation.references, self._validation.hypotheses, strict=True)
        return list(itertools.islice(pairs, EXAMPLES))

    def score(self) -> tuple[float, ...]:
        """Returns the error rates (as shares); the one that the metric names comes first."""
        return ranked(self.metrics, self.progress.metric)

    # --- what is written ---

    def facts(self, terms: dict[str, float]) -> dict[str, Any]:
        """See ``Task.facts``."""
        infeasible = int(self.progress.infeasible)
        return {**super().facts(terms), "infeasible_utterances": infeasible}

    def about(self) -> dict[str, Any]:
        """See ``Task.about``."""
        splits = self.data.corpus["splits"]
        return {
            "parameters": self.model.num_parameters(),
            "recurrent_kernel": self.recurrent_kernel,
            "validation_metric": self.progress.metric,
            "corpus": {
                "name": self.data.corpus["name"],
                "path": self.recipe.data.corpus,
                "rows_sha256": self.data.rows_sha256,
                "utterances": {name: split["utterances"] for name, split in splits.items()},
            },
        }

    def resume_invariants(self) -> dict[str, Any]:
        """See ``Task.resume_invariants``."""
        options, device = self.recipe.trainer, self.trainer.strategy.root_device
        recurrent = options.recurrent_precision
        return {
            "data": self.data.rows_sha256,
            ORDER: self.data.source.order,
            "device": device.type,
            "precision": kernel_precision(options, device)
            + (f", recurrent {recurrent}" if recurrent != "float32" else ""),
        }

    def save_model(self, folder: Path, summary: dict[str, Any]) -> None:
        """See ``Task.save_model``."""
        corpus = self.data.corpus
        summary = {
            "corpus": {key: corpus[key] for key in ("name", "synthetic", "normaliser")},
            "longest_utterance_seconds": max(self.data.source.train.sizes),
            **summary,
        }
        save_model(self.evaluated, folder, summary)
