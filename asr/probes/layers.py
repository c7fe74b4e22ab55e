"""Finds the encoders and layers that probes time, and makes a training pass of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asr.config import shipped, strict_yaml
from asr.encoders import ENCODERS, Block, Encoder, Frames
from asr.loss import collected, weighted

NUM_MELS = 80
ONE_WAY = {"bidirectional": False}


def recipes(given: Sequence[str]) -> dict[str, strict_yaml.Component]:
    """Returns the encoders of ``--encoders`` by name; by default those of all small recipes.

    Raises:
        ValueError: no recipe has such a name, two have the same, or one is invalid.
    """
    small = [name for name in shipped.names("encoders") if name.endswith("-small")]
    found: dict[str, strict_yaml.Component] = {}
    for path in [shipped.find(text, "encoders") for text in given or small]:
        if path.stem in found:
            raise ValueError(f"--encoders: two named {path.stem}; rename a recipe file")
        tree = strict_yaml.load_file(path)
        found[path.stem] = strict_yaml.read_component(ENCODERS, tree, str(path), 1)
    return found


def layer(name: str, dim: int, **options: Any) -> Block:
    """Makes a block of an encoder, without dropout."""
    encoder: Any = ENCODERS[name](8, dim=dim, layers=1, channels=1, dropout=0.0, **options)
    return encoder.layers[-1]


def full(x: Tensor) -> Tensor:
    """Returns lengths (B,) for x (B, T, ...) without padding."""
    return torch.full(x.shape[:1], x.shape[1], device=x.device)


def whole(module: Block | Encoder, x: Tensor) -> Tensor:
    """Applies a block to frames, or an encoder to features, (B, T, ...) without padding."""
    return module(Frames(x, full(x))).x if isinstance(module, Block) else module(x, full(x))[0]


def training(module: Block | Encoder, x: Tensor) -> Callable[[], None]:
    """A function that runs forward and backward, with auxiliary losses, and clears gradients."""

    def step() -> None:
        try:
            with collected() as terms:
                y = whole(module, x)
            tensors = [y, *([weighted(terms)] if any(t.weight for t in terms.values()) else [])]
            torch.autograd.backward(tensors, [torch.ones_like(t) for t in tensors])
        finally:  # also if the device is out of memory
            module.zero_grad(set_to_none=True)
            x.grad = None

    return step
