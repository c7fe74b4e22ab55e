"""A speech recogniser: features, encoder, decoder, search and tokenizer; build, save and load."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr import __version__
from asr.audio.features import FeatureOptions, LogMel
from asr.config.strict_yaml import Component, read, read_component, tree_of
from asr.decoders import DECODERS
from asr.decoders.decoder import Decoder
from asr.encoders import ENCODERS
from asr.encoders.encoder import Encoder
from asr.files import read_json
from asr.language_models import LANGUAGE_MODELS, LanguageModel, Mixture
from asr.language_models.folder import LANGUAGE_MODEL, load_language_model
from asr.loss import Loss, collected
from asr.model_folder import (
    FORMAT,
    WEIGHTS,
    find_folder,
    read_description,
    read_weights,
    write_folder,
)
from asr.search import SEARCHES, Hypothesis, Search
from asr.search.calibration import Calibration
from asr.text.tokenizers import Tokenizer, restore

log = logging.getLogger(__name__)

# Features (B, T, F), their lengths (B,), tokens (B, U), their lengths (B,).
Padded = tuple[Tensor, Tensor, Tensor, Tensor]

DESCRIPTION = "model.json"
SHIPPED = Path(__file__).parent / "models"


class SpeechModel(nn.Module):
    """A speech recogniser, which turns waveforms into hypotheses.

    Attributes:
        language_model: language model that the search uses if its ``lm_weight`` is not 0; a
            ``Mixture`` if there are several.
        calibration: calibration of the confidences of words; None if it has not been fitted.
        description: plain values from which ``load_model`` builds the same model again.
        summary: recipe, cost and error rates of its training; empty before training.
    """

    def __init__(
        self, features: LogMel, encoder: Encoder, decoder: Decoder, search: Search,
        tokenizer: Tokenizer, normaliser: str,
    ):  # fmt: skip
        super().__init__()
        self.features, self.encoder, self.decoder = features, encoder, decoder
        self.search, self.tokenizer, self.normaliser = search, tokenizer, normaliser
        self.language_model: LanguageModel | None = None
        self.calibration: Calibration | None = None
        self.description: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Returns the device of the weights."""
        return self.features.mean.device

    @property
    def frame_seconds(self) -> float:
        """Returns the seconds of audio per encoder frame."""
        return self.features.hop_seconds * self.encoder.stride

    def encode(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes (B, N) samples in [-1, 1], (B,) -> (B, S, D), (B,)."""
        return self.encoder(*self.features(waves, lengths))

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        spec_augment: Callable[[Tensor, Tensor], Tensor] | None = None,
        pad_to_shape: Callable[[Padded], Padded] | None = None,
    ) -> tuple[Loss, Tensor]:
        """Computes the loss of (B, U) tokens without EOS given samples (B, N).

        Returns the loss and the feature lengths (B,).


        ``spec_augment`` changes the features (B, T, F), (B,) -> (B, T, F) before the encoder.
        ``pad_to_shape`` enlarges features (B, T, F), (B,) and tokens (B, U), (B,) by padding and by
        rows without frames and tokens at the end, which do not change the loss.
        """
        x, frames = self.features(waves, lengths)
        if spec_augment is not None:
            x = spec_augment(x, frames)
        padded = x, frames, tokens, token_lengths
        if pad_to_shape is not None:
            padded = pad_to_shape(padded)
        x, padded_frames, tokens, token_lengths = padded
        with collected() as terms:
            encoded, encoded_lengths = self.encoder(x, padded_frames)
        loss = self.decoder.loss(encoded, encoded_lengths, tokens, token_lengths)
        infeasible = loss.infeasible - (len(x) - len(frames))
        return Loss(loss.terms | terms, infeasible), frames

    @torch.inference_mode()
    def recognise(self, waves: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Recognises samples (B, N): hypotheses per utterance, best first. Needs eval mode."""
        assert not self.training, "recognise() needs model.eval()"
        return self.decode(*self.encode(waves, lengths))

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Searches encoder frames (B, S, D); returns hypotheses per utterance, best first."""
        language_model = self.language_model if self.search.lm_weight else None
        return self.search(self.decoder, encoded, lengths, language_model)

    def text(self, hypothesis: Hypothesis) -> str:
        """Returns the transcript of a hypothesis."""
        return self.tokenizer.decode(list(hypothesis.tokens))

    def num_parameters(self) -> dict[str, int]:
        """Returns the number of trained parameters of each part."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def build_model(
    features: FeatureOptions,
    encoder: Component,
    decoder: Component,
    search: Component,
    tokenizer: Tokenizer,
    normaliser: str,
) -> SpeechModel:
    """Builds an untrained model from the components of a recipe."""
    front = LogMel(sample_rate=features.sample_rate, num_mels=features.num_mels)
    built = encoder(features.num_mels)
    model = SpeechModel(
        front,
        built,
        decoder(built.dim, tokenizer.vocabulary_size),
        search(),
        tokenizer,
        normaliser,
    )
    model.description = {
        "asr": __version__,
        "format": FORMAT,
        "features": tree_of(features),
        "encoder": tree_of(encoder),
        "decoder": tree_of(decoder),
        "search": tree_of(search),
        "tokenizer": tokenizer.state(),
        "normaliser": normaliser,
    }
    return model


def give_language_model(
    model: SpeechModel, paths: str | Path | Sequence[str | Path], allow_code: bool = False
) -> None:
    """Replaces the language models of a recogniser by the one at a path, or those at several.

    The search uses them if its ``lm_weight`` is not 0. They are saved with the model.

    Raises:
        ValueError: there is no language model, or it has other tokens than the speech model.
    """
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        trained = load_language_model(path, model.device, allow_code)
        if dict(trained.tokenizer.state()) != dict(model.tokenizer.state()):
            raise ValueError(
                f"{path} knows other tokens than the speech model; train it with tokenizer_of set "
                "to the speech model's folder"
            )
        found.append((trained.model, trained.component))
    _set_language_models(model, *zip(*found, strict=True))


def _set_language_models(
    model: SpeechModel, models: Sequence[LanguageModel], components: Sequence[Component]
) -> None:
    """Sets the language models and their description, which is a list if there are several."""
    trees = [component.tree() for component in components]
    model.language_model = models[0] if len(models) == 1 else Mixture(models)
    model.description["language_model"] = trees[0] if len(models) == 1 else trees


def give_calibration(model: SpeechModel, calibration: Calibration | None) -> None:
    """Sets the calibration, which is saved with the model; None uses uncalibrated confidences."""
    model.calibration = calibration
    model.description.pop("calibration", None)
    if calibration is not None:
        model.description["calibration"] = asdict(calibration)


def save_model(model: SpeechModel, folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes a model folder with a summary of the training; see ``write_folder``."""
    write_folder(folder / DESCRIPTION, model.description, model, summary)


def find_model(path: str | Path) -> Path:
    """Finds the model folder at a path, the best model of a run folder, or a shipped model.

    Raises:
        ValueError: there is no model.
    """
    path = Path(path)
    if not path.exists() and (SHIPPED / path).is_dir():
        path = SHIPPED / path
    if (folder := find_folder(path, DESCRIPTION)) is not None:
        return folder
    if not path.exists():
        shipped = sorted(folder.name for folder in SHIPPED.glob("*"))
        names = f", or name a shipped model: {', '.join(shipped)}" if shipped else ""
        raise ValueError(f"{path}: no such model or run folder; check the path{names}")
    if any((folder / LANGUAGE_MODEL).is_file() for folder in (path, path / "best")):
        raise ValueError(
            f"{path} is a language model, which helps a speech model to recognise; give that one's "
            f"run folder first, as in: asr tune-decoding RUN --language-model {path}"
        )
    raise ValueError(
        f"{path} holds no model ({DESCRIPTION} and {WEIGHTS}); give a run folder that has "
        "validated at least once, or a model folder"
    )


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    search: Any = None,
    allow_code: bool = False,
) -> SpeechModel:
    """Reads a model folder, or the best model of a run, ready to recognise.

    Args:
        path: run folder or model folder.
        device: device of the model.
        search: ``{class_path, init_args}`` in place of the search that was saved with the model.
        allow_code: whether classes that are not shipped may be imported; only for models you trust.

    Raises:
        ValueError: there is no model, or its files are damaged or do not fit together.
    """
    folder = find_model(path)
    given = None if search is None else read_component(SEARCHES, search, "search")
    if given is not None:
        given()  # reports mistakes in ``search`` before mistakes in the files

    def build(described: dict[str, Any]) -> SpeechModel:
        def part(table: Mapping[str, type], name: str, positional: int) -> Component:
            return read_component(table, described[name], name, positional, allow_code)

        model = build_model(
            read(FeatureOptions, described["features"], "features"),
            part(ENCODERS, "encoder", 1),
            part(DECODERS, "decoder", 2),
            given or part(SEARCHES, "search", 0),
            restore(described["tokenizer"]),
            described["normaliser"],
        )
        if "language_model" in described:
            trees = described["language_model"]
            components = [
                read_component(LANGUAGE_MODELS, tree, "language_model", 1, allow_code)
                for tree in (trees if isinstance(trees, list) else [trees])
            ]
            models = [component(model.tokenizer.vocabulary_size) for component in components]
            _set_language_models(model, models, components)
        if "calibration" in described:
            give_calibration(model, Calibration(**described["calibration"]))
        return model

    model = read_description(folder / DESCRIPTION, build)
    model.summary = read_weights(folder, model)
    return model.to(device).eval()


def corpus_of(model: SpeechModel, name: str) -> str:
    """Returns the path of the model's training corpus; ``name`` is its run or model folder.

    A relative path is relative to the working directory of the training or, if it does not exist
    there, to the current one.

    Raises:
        ValueError: the path is not known or does not exist.
    """
    corpus = model.summary.get("recipe", {}).get("data", {}).get("corpus")
    if corpus is None:
        raise ValueError(f"{name} does not say on which corpus it was trained; give --corpus")
    files = (folder / "environment.json" for folder in (Path(name), Path(name).parent))
    environment = next(filter(Path.is_file, files), None)
    started_in = read_json(environment).get("working_directory", "") if environment else ""
    here, there = Path(corpus), Path(started_in, corpus)
    if not there.exists():
        there = here
    if not there.exists():
        raise ValueError(f"{name} was trained on {corpus}, which is not here; give --corpus")
    if here.exists() and here.samefile(there):
        return str(corpus)
    if here.exists():
        log.warning("%s: its corpus is %s; --corpus %s takes the one here", name, there, here)
    return str(there)
