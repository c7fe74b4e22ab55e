"""An encoder that stacks layers of several encoders, for instance recurrence and attention."""

from typing import Any

from asr.config.strict_yaml import read_component
from asr.encoders.block import Block
from asr.encoders.stack import Stack
from asr.encoders.stacks import STACKS


class Hybrid(Stack):
    """Subsampling, then the layers of each part in order, then a norm.

    Two LSTM layers under attention (Zeyer et al. 2019 found them better than positions added to
    frames) are two parts; attention after every second recurrent layer is two parts, repeated.
    Causal if all parts are; it streams as they do.

    Args:
        dim: width D of every part.
        parts: encoders from bottom to top, each as class_path and init_args without dim, channels
            and subsampling. Their layers are used without their subsampling and last norm.
        repeat: number of times that the parts are stacked; each copy has weights of its own.
    """

    remedy = "make every part causal"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        parts: list[dict[str, Any]],
        repeat: int = 1,
        channels: int = 32,
        subsampling: int = 4,
    ) -> None:
        if not parts or repeat < 1:
            raise ValueError(f"{len(parts)} parts, {repeat} times: give at least one part, once")
        blocks: list[Block] = []
        for _ in range(repeat):
            for index, part in enumerate(parts):
                blocks += part_blocks(part, f"parts[{index}]", dim)
        super().__init__(num_mels, blocks, dim=dim, channels=channels, subsampling=subsampling)


def part_blocks(part: dict[str, Any], path: str, dim: int) -> list[Block]:
    """The blocks of an encoder given as in a recipe."""
    # Parts come from model files as well: only what is shipped, so that none can run code.
    if not isinstance(part, dict) or part.get("class_path") not in STACKS:
        name = part.get("class_path") if isinstance(part, dict) else part
        raise ValueError(f"{path}.class_path {name!r}: take one of {', '.join(STACKS)}")
    given = part.get("init_args") or {}
    if own := {"dim", "channels", "subsampling"} & set(given):
        raise ValueError(f"{path}.{min(own)}: a part takes it from the Hybrid; leave it out")
    tree = {**part, "init_args": {**given, "dim": dim, "channels": 1}}
    encoder = read_component(STACKS, tree, path, positional=1, allow_code=False)(1)
    parts = {name.split(".")[0] for name, _ in encoder.named_parameters()}
    if beyond := parts - {"subsampling", "layers", "norm"}:
        raise ValueError(
            f"{path}: {min(beyond)} belongs to a whole {part['class_path']}; leave it out"
        )
    return list(encoder.layers)
