"""The chunked scan against the recurrence; the contract is in test_encoders.py."""

import sys
import types

import pytest
import torch

from asr.encoders import StateSpace, state_space
from asr.encoders.state_space import SCAN_CHUNK, chunked_scan, selective_scan


def loop(u, sizes, decay, b, c, state):
    """The recurrence, frame by frame."""
    outputs = []
    for t in range(u.shape[1]):
        kept = (sizes[:, t] * decay).exp()[..., None, None]
        new = (sizes[:, t, :, None] * u[:, t])[..., None] * b[:, t, None, None]
        state = kept * state + new
        outputs.append((state * c[:, t, None, None]).sum(-1))
    return torch.stack(outputs, 1), state


def inputs(time, dtype=torch.float64):
    torch.manual_seed(0)
    return (
        torch.randn(2, time, 3, 4, dtype=dtype),
        torch.rand(2, time, 3, dtype=dtype),
        -torch.rand(3, dtype=dtype) * 2,
        torch.randn(2, time, 5, dtype=dtype),
        torch.randn(2, time, 5, dtype=dtype),
        torch.randn(2, 3, 4, 5, dtype=dtype),
    )


@pytest.mark.parametrize("time", [1, 5, SCAN_CHUNK, SCAN_CHUNK + 1, 1000])
def test_the_scan_equals_the_recurrence_in_values_and_gradients(time):
    values = [x.requires_grad_() for x in inputs(time)]
    results = []
    for run in (chunked_scan, loop):
        y, state = run(*values)
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        gradients = torch.autograd.grad((y * weights).sum() + state.square().sum(), values)
        results.append([y, state, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_single_precision_is_close_over_a_thousand_frames():
    values = inputs(1000)
    exact, _ = loop(*values)
    y, _ = chunked_scan(*(x.float() for x in values))
    assert (y.double() - exact).abs().max() < 1e-4 * exact.abs().max()


@torch.no_grad()
def test_continuing_from_a_state_equals_one_scan():
    u, sizes, decay, b, c, state = inputs(100)
    whole, last = chunked_scan(u, sizes, decay, b, c, state)
    first, state = chunked_scan(
        *(x[:, :37] for x in (u, sizes)), decay, b[:, :37], c[:, :37], state
    )
    then, state = chunked_scan(*(x[:, 37:] for x in (u, sizes)), decay, b[:, 37:], c[:, 37:], state)
    torch.testing.assert_close(torch.cat([first, then], 1), whole)
    torch.testing.assert_close(state, last)


@torch.no_grad()
def test_strong_decays_do_not_overflow():
    u, sizes, _, b, c, state = inputs(130, torch.float32)
    y, last = chunked_scan(u, 50 * sizes, torch.full((3,), -16.0), b, c, state)
    assert y.isfinite().all()
    assert last.isfinite().all()


def kernel(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None,
           seq_idx=None, cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float("inf")),
           return_final_states=False, return_varlen_states=False):  # fmt: skip
    """The signature of mamba_chunk_scan_combined, by the loop."""
    assert B.shape[2] == C.shape[2] == 1  # groups
    y, last = loop(x, dt, A, B[:, :, 0], C[:, :, 0], initial_states)
    return (y, last) if return_final_states else y


@torch.no_grad()
def test_the_fused_kernel_gets_its_arguments_in_the_layout_that_it_expects(monkeypatch):
    module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = kernel
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert state_space.fused() is kernel
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    values = inputs(70)
    for one, other in zip(selective_scan(*values), chunked_scan(*values), strict=True):
        torch.testing.assert_close(one, other)


def test_a_fused_kernel_that_does_not_load_is_an_error(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "mamba_ssm":
                raise ImportError("undefined symbol")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match="undefined symbol"):
        state_space.fused()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@torch.no_grad()
def test_the_fused_kernel_equals_the_chunked_scan():
    pytest.importorskip("mamba_ssm")
    values = [x.float().cuda() for x in inputs(300)]
    for one, other in zip(selective_scan(*values), chunked_scan(*values), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_channels_that_do_not_divide_into_heads_are_refused():
    with pytest.raises(ValueError, match="heads 8: 2 \\* dim 42"):
        StateSpace(8, dim=42, layers=1)
