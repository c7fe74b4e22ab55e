"""Predicts which algorithm of cuDNN torch uses for a recurrent layer."""

from typing import NamedTuple

import torch

ROWS = 8  # the persistent kernel needs a batch size that is a multiple of this
MOST_ROWS = 128
NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "float32",
    torch.float64: "float64",
}


class GPU(NamedTuple):
    """The properties of a GPU that the choice depends on; the defaults are those of an H100."""

    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132

    @classmethod
    def of(cls, device: torch.device) -> "GPU":
        """The properties that the driver reports for a device."""
        about = torch.cuda.get_device_properties(device)
        return cls((about.major, about.minor), about.multi_processor_count)


class Call(NamedTuple):
    """One direction of one ``nn.LSTM`` or ``nn.GRU`` layer over a padded batch.

    Attributes:
        dtype: data type of the input and the weights.
        inputs: width of an input frame.
        cells: number of hidden units.
        batch: number of utterances.
    """

    dtype: torch.dtype
    inputs: int
    cells: int
    batch: int


class Choice(NamedTuple):
    """The chosen algorithm, and the reason why a faster one cannot be used.

    Attributes:
        algorithm: ``standard``, ``persistent`` (the recurrent weights stay in registers from frame
            to frame; Diamos et al. 2016, "Persistent RNNs") or ``persistent small``.
        reason: what rules out the persistent algorithms; empty if nothing does.
    """

    algorithm: str
    reason: str = ""

    def __str__(self) -> str:
        return f"cuDNN {self.algorithm}" + (f", because {self.reason}" if self.reason else "")


def algorithm(call: Call, gpu: GPU = GPU(), *, backward: bool = False) -> Choice:  # noqa: B008
    """The cuDNN algorithm that torch 2.11 requests for a forward or a backward pass.

    Follows ``get_algo`` and ``use_rnn_persist_small_h`` of aten/src/ATen/native/cudnn/RNN.cpp for
    compute capability 8.0 and above; older GPUs are reported as using the standard algorithm.
    """
    if call.dtype != torch.float64 and call.cells <= (128 if backward else 192):
        return Choice("persistent small")
    for holds, reason in (
        (call.dtype == torch.float16, f"{NAMES.get(call.dtype, call.dtype)} is not fp16"),
        (
            call.cells <= 1024 and call.cells % 128 == 0,
            f"the number of cells, {call.cells}, is not a multiple of 128 up to 1024",
        ),
        (call.inputs % 128 == 0, f"the input width {call.inputs} is not a multiple of 128"),
        (gpu.capability >= (8, 0), "compute capability {}.{} is below 8.0".format(*gpu.capability)),
        (gpu.capability != (8, 6), "torch excludes compute capability 8.6"),
        (gpu.multiprocessors >= 98, f"{gpu.multiprocessors} multiprocessors are less than 98"),
        (
            call.batch % ROWS == 0 and call.batch <= MOST_ROWS,
            f"the batch size {call.batch} is not a multiple of {ROWS} up to {MOST_ROWS}",
        ),
    ):
        if not holds:
            return Choice("standard", reason)
    return Choice("persistent")


def whole_rows(batch: int) -> int:
    """Rounds a batch size up to a multiple of ROWS; extra rows do not change the others."""
    return -(-batch // ROWS) * ROWS
