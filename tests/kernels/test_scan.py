import pytest
import torch
import torch.nn.functional as F

from asr.kernels.scan import Scan, scan, sequential


def inputs(time, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    log_a = F.logsigmoid(4 * torch.randn(2, time, 3, generator=generator, dtype=dtype))
    b = torch.randn(2, time, 3, generator=generator, dtype=dtype)
    return log_a, b, torch.randn(2, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("time", [1, 2, 3, 17, 64, 65, 4000])
def test_the_scan_equals_the_loop_in_values_and_gradients(time):
    log_a, b, initial = (x.requires_grad_() for x in inputs(time))
    exact = [x.detach().double().requires_grad_() for x in (log_a, b, initial)]
    y, z = scan(log_a, b, initial), sequential(*exact)
    torch.testing.assert_close(y.double(), z, rtol=1e-5, atol=1e-5)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((y * weights).sum(), (log_a, b, initial))
    theirs = torch.autograd.grad((z * weights).sum(), exact)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("time", [1, 2, 7, 9, 12])
def test_gradients_equal_finite_differences(time):
    arguments = [x.requires_grad_() for x in inputs(time, dtype=torch.float64)]
    assert torch.autograd.gradcheck(Scan.apply, arguments)


@pytest.mark.parametrize("kept", [-100.0, -1e-6, 0.0])
def test_the_scan_stays_exact_over_thousands_of_frames_for_any_forget_gate(kept):
    b = torch.ones(1, 4000, 1)
    y = scan(torch.full_like(b, kept), b)
    if kept == -100:
        assert y.sub(1).abs().max() < 1e-6
    else:  # the geometric series
        t = torch.arange(1, 4001, dtype=torch.float64)
        series = (
            t if kept == 0 else torch.expm1(kept * t) / torch.expm1(torch.tensor(kept).double())
        )
        torch.testing.assert_close(y[0, :, 0].double(), series, rtol=1e-5, atol=0)


def test_continuing_from_a_state_equals_one_scan():
    log_a, b, initial = inputs(50)
    whole = scan(log_a, b, initial)
    first = scan(log_a[:, :21], b[:, :21], initial)
    then = scan(log_a[:, 21:], b[:, 21:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, then], 1), whole)


def test_bfloat16_is_computed_in_float32():
    log_a, b, _ = inputs(300)
    y = scan(log_a.bfloat16(), b.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, scan(log_a.bfloat16().float(), b.bfloat16().float()))
