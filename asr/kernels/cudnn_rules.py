"""Predicts which algorithm of cuDNN torch uses for a recurrent layer."""

from typing import NamedTuple

import torch

ROWS = 8  # the persistent kernel takes batches of a multiple of these
MOST_ROWS = 128
NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "float32",
    torch.float64: "float64",
}


class GPU(NamedTuple):
    """What the choice depends on of a graphics processor; that of an H100 where none is given."""

    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132

    @classmethod
    def of(cls, device: torch.device) -> "GPU":
        """What the driver says of a device."""
        about = torch.cuda.get_device_properties(device)
        return cls((about.major, about.minor), about.multi_processor_count)


class Call(NamedTuple):
    """One direction of one ``nn.LSTM`` or ``nn.GRU`` layer over a padded batch.

    Attributes:
        dtype: of input and weights.
        inputs: width of a frame.
        cells: hidden units.
        batch: utterances.
    """

    dtype: torch.dtype
    inputs: int
    cells: int
    batch: int


class Choice(NamedTuple):
    """An algorithm, and why it is not a faster one; empty where it is the fastest.

    Attributes:
        algorithm: ``standard``, ``persistent`` (the recurrent weights stay in registers from frame
            to frame; Diamos et al. 2016, "Persistent RNNs") or ``persistent small``.
        reason: what rules out the persistent ones.
    """

    algorithm: str
    reason: str = ""

    def __str__(self) -> str:
        return f"cuDNN {self.algorithm}" + (f", because {self.reason}" if self.reason else "")


def algorithm(call: Call, gpu: GPU = GPU(), *, backward: bool = False) -> Choice:  # noqa: B008
    """What torch 2.11 asks cuDNN for, of a forward or a backward pass.

    After ``get_algo`` and ``use_rnn_persist_small_h`` of aten/src/ATen/native/cudnn/RNN.cpp, from
    compute capability 8.0 on; older processors are said to take the standard one.
    """
    if call.dtype != torch.float64 and call.cells <= (128 if backward else 192):
        return Choice("persistent small")
    for holds, reason in (
        (call.dtype == torch.float16, f"{NAMES.get(call.dtype, call.dtype)} is not fp16"),
        (
            call.cells <= 1024 and call.cells % 128 == 0,
            f"{call.cells} cells are not a multiple of 128 up to 1024",
        ),
        (call.inputs % 128 == 0, f"an input of {call.inputs} is not a multiple of 128"),
        (gpu.capability >= (8, 0), "compute capability {}.{} is below 8.0".format(*gpu.capability)),
        (gpu.capability != (8, 6), "of compute capability 8.6"),
        (gpu.multiprocessors >= 98, f"{gpu.multiprocessors} multiprocessors are fewer than 98"),
        (
            call.batch % ROWS == 0 and call.batch <= MOST_ROWS,
            f"a batch of {call.batch} is not a multiple of {ROWS} up to {MOST_ROWS}",
        ),
    ):
        if not holds:
            return Choice("standard", reason)
    return Choice("persistent")


def whole_rows(batch: int) -> int:
    """The next multiple of ROWS: utterances are independent, so that more of them are free."""
    return -(-batch // ROWS) * ROWS
