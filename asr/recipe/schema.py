"""The schema of a recipe: everything that a published number depends on."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from asr.audio.features import Augmentation, FeatureOptions
from asr.config import plugins
from asr.config.plugins import Spec
from asr.config.strict_yaml import Component, component
from asr.data.sentences import TextOptions
from asr.data.utterances import DataOptions
from asr.decoders import DECODERS
from asr.encoders import ENCODERS
from asr.kernels.muon import Muon
from asr.language_models import LANGUAGE_MODELS
from asr.search import SEARCHES
from asr.text.tokenizers import TOKENIZERS


def check_bounds(section: str, **bounds: tuple[float | None, float, float]) -> None:
    """Checks that values lie within [low, high]; None stands for a key that is not set.

    Raises:
        ValueError: a value is out of bounds; the message names the key and its bounds.
    """
    for name, (value, low, high) in bounds.items():
        if value is not None and not low <= value <= high:
            top = f" to {high:g}" if high < math.inf else " or more"
            raise ValueError(f"{section}.{name} {value}: expects {low:g}{top}")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """An optimiser with an anytime schedule, which does not depend on the length of the run.

    A cooldown ends the schedule where the budget ends (warmup-stable-decay: Hu et al. 2024,
    "MiniCPM"; Haegele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training
    durations").

    Args:
        algorithm: adamw, or muon, which orthogonalises the updates of hidden layers' matrices and
            leaves the other weights to AdamW. It needs fewer updates and more time for each, so
            larger batches suit it.
        lr: peak learning rate, reached at the end of the warm-up. muon needs a larger one than
            adamw: 6e-3 was better than 2e-3 and 12e-3 with batches of 120 s of read English.
        warmup_updates: number of updates over which the learning rate rises linearly from 0.
        warmup_share: share of the budget for the warm-up, in place of warmup_updates, so that short
            and long runs can have the same value; 0 turns it off. The budget counts from the first
            update here, so that the start of the process takes nothing from the warm-up.
        decay: schedule after the warm-up: inverse_sqrt (proportional to 1 / sqrt(update), or with
            warmup_share to 1 / sqrt(share spent)) or constant.
        cooldown: share of the budget, at its end, over which the learning rate also falls linearly
            to 0; 0 turns it off. If the budget has several limits, the one that is reached first
            counts.
        weight_decay: decoupled weight decay, applied to matrices and filters only.
        betas: decay rates of AdamW's first and second moments.
        clip_norm: largest norm of the gradients; larger gradients are scaled down to it.
        ema_decay: decay per update of the moving average of the weights. This average is validated
            and saved, in place of the weights.
        average_last: number N of validations, the last one included. The last validation then
            evaluates the average of the weights at these N validations, in place of the moving
            average; 0 turns it off.
    """

    algorithm: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    warmup_updates: int = 500
    warmup_share: float = 0.0
    decay: Literal["inverse_sqrt", "constant"] = "inverse_sqrt"
    cooldown: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    average_last: int = 0

    def __post_init__(self) -> None:
        check_bounds(
            "optimizer",
            lr=(self.lr, 1e-12, 1e3),
            warmup_updates=(self.warmup_updates, 0, math.inf),
            warmup_share=(self.warmup_share, 0, 1),
            weight_decay=(self.weight_decay, 0, 1e3),
            clip_norm=(self.clip_norm, 1e-12, math.inf),
            ema_decay=(self.ema_decay, 0, 1),
            cooldown=(self.cooldown, 0, 1),
            average_last=(self.average_last, 0, math.inf),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas {list(self.betas)}: expects two shares below 1")

    def build(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Makes the optimiser of all trained parameters; vectors have no weight decay.

        The model is or will be on ``device``; on a GPU an update of AdamW takes one kernel per
        group of parameters.
        """
        fused = True if device.type == "cuda" else None  # None: torch chooses
        if self.algorithm == "muon":
            return Muon(model, self.weight_decay, lr=self.lr, betas=self.betas, fused=fused)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)

    def rate(self, update: int, spent: float = 0.0, begun: float = 0.0) -> float:
        """Returns the learning rate of an update.

        Args:
            update: number of the update, counted from 1.
            spent: share of the budget that was spent before the update.
            begun: share of the budget that was spent before the first update.
        """
        left = max(0.0, 1 - spent)
        lr = self.lr * (left / self.cooldown if left < self.cooldown else 1.0)
        at, end = float(update), float(max(1, self.warmup_updates))
        if self.warmup_share:
            at, end = (spent - begun) / max(1e-9, 1 - begun), self.warmup_share
        if at < end:
            return lr * at / end
        return lr * (math.sqrt(end / at) if self.decay == "inverse_sqrt" else 1.0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of a run, which stops as soon as it reaches one of the limits that are set.

    Args:
        device_hours: number of devices times hours since the start of the process, over all
            sessions of the run; loading and validation count too. On a CPU the devices are the
            cores that the run holds (processes times threads), so these are core-hours.
        cpu_hours: hours of CPU time that the run got, over all its processes, threads and sessions.
            Time in which another program has the core counts as core-hours, but not as CPU-hours.
            Programs that share caches or a core's hardware threads (SMT) with the run raise its CPU
            time.
        updates: number of optimiser steps.
        audio_hours: hours of audio trained on; audio that is repeated counts each time.
    """

    device_hours: float | None = None
    cpu_hours: float | None = None
    updates: int | None = None
    audio_hours: float | None = None

    def __post_init__(self) -> None:
        if self.device_hours is self.cpu_hours is self.updates is self.audio_hours is None:
            raise ValueError("budget: set device_hours, cpu_hours, updates or audio_hours")
        check_bounds(
            "budget",
            device_hours=(self.device_hours, 0, math.inf),
            cpu_hours=(self.cpu_hours, 0, math.inf),
            updates=(self.updates, 0, math.inf),
            audio_hours=(self.audio_hours, 0, math.inf),
        )


@dataclass(frozen=True, kw_only=True)
class TextValidationOptions:
    """When the moving average of a language model is validated.

    Args:
        every_updates: number of updates between two validations.
        at_shares: shares of the budget at which it is validated as well, such as [0.25, 0.5].
    """

    every_updates: int = 500
    at_shares: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_bounds("validation", every_updates=(self.every_updates, 1, math.inf))
        for share in self.at_shares:
            check_bounds("validation", at_shares=(share, 0, 1))


@dataclass(frozen=True, kw_only=True)
class ValidationOptions(TextValidationOptions):
    """When and how the moving average is validated.

    Args:
        every_updates: number of updates between two validations.
        at_shares: shares of the budget at which it is validated as well, such as [0.25, 0.5]. A
            study sets the shares of its smaller budgets.
        search: how hypotheses are found while training.
        metric: error rate that chooses the best model. auto: cer if the texts have no spaces,
            otherwise wer. If two models tie, the other error rate decides. If they tie again, the
            earlier model stays the best.
    """

    search: Component = component(SEARCHES, default="Greedy")
    metric: Literal["auto", "wer", "cer"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Lightning's names for where and how the loop runs.

    Args:
        accelerator: hardware to train on; auto is the GPU if there is one.
        devices: number of GPUs on each machine; on a CPU, number of processes. They share each
            batch. auto: one GPU; on a CPU, one process per core, with one thread each.
            OMP_NUM_THREADS gives each process more threads, and so more cores.
        num_nodes: number of machines.
        strategy: Lightning strategy: auto or ddp. Other strategies of Lightning are accepted, but
            untested.
        precision: number format: 32-true (float32) or bf16-mixed. bf16-mixed does not apply to the
            recurrent layers of encoders (see recurrent_precision). Both compute losses in float32.
        recurrent_precision: precision of the recurrent layers of encoders: float32, bf16 or fp16.
            fp16 scales its own gradients, and only fp16 reaches cuDNN's persistent kernel. That
            kernel needs an A100 or newer, dim and cells (per direction) in multiples of 128, at
            most 1024 cells, and batches of at most 128 utterances. The log names the kernel that is
            used.
        compile: mode of torch.compile for the blocks of the encoder and the layers of the decoder:
            default, reduce-overhead (CUDA graphs) or max-autotune; eager and aot_eager only trace.
            Batches are padded to a few shapes. Recurrent layers stay with cuDNN. null: no compiler.
        allow_tf32: whether a GPU may round the factors of float32 matrix products, recurrent layers
            and attention to TF32.
        log_every_n_steps: number of updates between two lines of the ledger and the logs.
        checkpoint_every_seconds: seconds of training between two checkpoints; a crash can lose this
            much training.
        keep_checkpoints_every: number of updates between two states that are kept in the folder
            ``kept`` of the run; 0 keeps none. ``asr train RUN --cooldown 0.2 --from UPDATE``
            branches a run off a kept state.
        accumulate_grad_batches: number of batches per device in one update. Their losses are
            averaged over all their tokens.
        loggers: loggers of Lightning (TensorBoard, CSV, Wandb) or your own, each as a class name or
            as {class_path, init_args}. CSV files are written to the folder logs even without a
            logger.
        callbacks: callbacks of Lightning or your own, in the same form as loggers. They can monitor
            validation_loss and validation_wer (for a language model, validation_loss and
            validation_perplexity).
        profiler: profiler of Lightning (Simple, Advanced, PyTorch) or your own, in the same form as
            a logger. It writes to the folder logs.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    recurrent_precision: Literal["float32", "bf16", "fp16"] = "float32"
    compile: Literal["default", "reduce-overhead", "max-autotune", "eager", "aot_eager"] | None = (
        None
    )
    allow_tf32: bool = True
    log_every_n_steps: int = 50
    checkpoint_every_seconds: float = 60.0
    keep_checkpoints_every: int = 0
    accumulate_grad_batches: int = 1
    loggers: list[Spec] = field(default_factory=lambda: ["TensorBoard"])
    callbacks: list[Spec] = field(default_factory=list)
    profiler: Spec | None = None

    def __post_init__(self) -> None:
        check_bounds(
            "trainer",
            devices=(self.num_devices, 1, math.inf),
            num_nodes=(self.num_nodes, 1, math.inf),
            log_every_n_steps=(self.log_every_n_steps, 1, math.inf),
            checkpoint_every_seconds=(self.checkpoint_every_seconds, 0, math.inf),
            keep_checkpoints_every=(self.keep_checkpoints_every, 0, math.inf),
            accumulate_grad_batches=(self.accumulate_grad_batches, 1, math.inf),
        )
        for spec in self.loggers:
            if spec != "TensorBoard":  # a look-up of this default would load Lightning
                plugins.find("Logger", spec, "trainer.loggers")
        for spec in self.callbacks:
            plugins.find("Callback", spec, "trainer.callbacks")
        if self.profiler is not None:
            plugins.find("Profiler", self.profiler, "trainer.profiler")

    @property
    def num_devices(self) -> int:
        """Returns the number of devices on each machine that the recipe asks for; auto is 1."""
        return 1 if self.devices == "auto" else self.devices


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a published number depends on.

    Args:
        seed: random seed of weights, batches, augmentation and dropout.
    """

    data: DataOptions
    budget: Budget
    encoder: Component = component(ENCODERS, positional=1, recipes="encoders")
    decoder: Component = component(DECODERS, positional=2, recipes="decoders")
    search: Component = component(SEARCHES, default="Beam")
    tokenizer: Component = component(TOKENIZERS, positional=1, default="Characters")
    features: FeatureOptions = field(default_factory=FeatureOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe:
    """Everything that the figures of a language model depend on.

    Args:
        tokenizer_of: run folder or model folder of the speech model whose tokens the language model
            shares.
        seed: random seed of weights, batches and dropout.
    """

    text: TextOptions
    tokenizer_of: str
    budget: Budget
    language_model: Component = component(LANGUAGE_MODELS, positional=1)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    validation: TextValidationOptions = field(default_factory=TextValidationOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    seed: int = 1

    def __post_init__(self) -> None:
        if self.budget.audio_hours is not None:
            raise ValueError(
                "budget.audio_hours: text has none; set updates, device_hours or cpu_hours"
            )
        for key, idle in (("compile", None), ("recurrent_precision", "float32")):
            if (value := getattr(self.trainer, key)) != idle:
                raise ValueError(
                    f"trainer.{key} {value}: a language model does not read it; leave it out"
                )
        processes = self.trainer.num_devices * self.trainer.num_nodes
        if processes > 1 and self.counts:
            raise ValueError(
                f"trainer.devices, trainer.num_nodes: one process counts n-grams, not {processes}"
            )

    @property
    def counts(self) -> bool:
        """Returns whether the model counts the text with ``fit`` and has no gradients."""
        return hasattr(self.language_model.kind, "fit")
