"""The rules of science: torch 2.11, aten/src/ATen/native/cudnn/RNN.cpp."""

import pytest
import torch

from asr.kernels.cudnn_rules import GPU, Call, algorithm, whole_rows

FAST = Call(torch.float16, inputs=512, cells=512, batch=64)
H100 = GPU()


@pytest.mark.parametrize(
    "call",
    [
        FAST,
        FAST._replace(cells=1024),
        FAST._replace(inputs=128),
        FAST._replace(batch=8),
        FAST._replace(batch=128),
    ],
)
def test_a_call_that_meets_every_condition_gets_the_persistent_kernel(call):
    for backward in (False, True):
        assert algorithm(call, H100, backward=backward) == ("persistent", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.bfloat16}, "bf16 is not fp16"),
        ({"dtype": torch.float32}, "float32 is not fp16"),
        ({"cells": 1152}, "the number of cells, 1152, is not a multiple of 128 up to 1024"),
        ({"cells": 320}, "the number of cells, 320, is not a multiple of 128 up to 1024"),
        ({"inputs": 500}, "the input width 500 is not a multiple of 128"),
        ({"batch": 60}, "the batch size 60 is not a multiple of 8 up to 128"),
        ({"batch": 136}, "the batch size 136 is not a multiple of 8 up to 128"),
    ],
)
def test_any_unmet_condition_selects_the_standard_kernel_and_is_named(changes, reason):
    choice = algorithm(FAST._replace(**changes), H100)
    assert choice == ("standard", reason)
    assert str(choice) == f"cuDNN standard, because {reason}"


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (GPU((8, 0), 108), "persistent"),  # A100
        (GPU((8, 0), 56), "standard"),  # A30
        (GPU((8, 6), 104), "standard"),  # RTX A6000... more than 98 and yet not
        (GPU((8, 9), 142), "persistent"),  # L40
        (GPU((7, 5), 72), "standard"),
    ],
)
def test_the_kernel_depends_on_the_gpu(gpu, expected):
    assert algorithm(FAST, gpu).algorithm == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_small_kernel_is_limited_to_fewer_cells_in_the_backward_pass(dtype):
    for cells, backward, expected in (
        (192, False, True), (193, False, False), (128, True, True), (129, True, False),
    ):  # fmt: skip
        call = Call(dtype, inputs=80, cells=cells, batch=5)
        small = algorithm(call, H100, backward=backward).algorithm == "persistent small"
        assert small == expected
    double = call._replace(cells=64, dtype=torch.float64)
    assert algorithm(double, H100).algorithm == "standard"


def test_whole_rows_rounds_up_to_a_multiple_of_eight():
    assert [whole_rows(n) for n in (1, 7, 8, 9, 128)] == [8, 8, 8, 16, 128]
