import pytest
import torch

from asr.metering.device_memory import enough_memory


def test_running_out_of_memory_is_one_line_with_the_remedy_and_other_errors_pass():
    with enough_memory(torch.device("cuda:1"), "lower this, which is 3"):
        kept = 7
    assert kept == 7
    with (
        pytest.raises(ValueError, match=r"^out of memory on cuda:1: lower this, which is 3$"),
        enough_memory(torch.device("cuda:1"), "lower this, which is 3"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    other = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as raised, enough_memory(torch.device("cuda"), "lower this"):
        raise other
    assert raised.value is other
