"""A GPU that is not there: tensors that lie on the CPU, say that they do not, and are checked.

Inside ``pretended()`` whatever is made on or sent to ``cuda`` computes on the CPU, and every kernel
that it asks for, forward and backward, is held against what a GPU would refuse:

- operands on two devices, but for numbers of no dimension and positions to index with;
- kernels that torch has not for CUDA, and types that they do not take there.

Whoever reads a value or a number of elements on the host (``item``, ``tolist``, ``bool``, ``cpu``,
``nonzero``) has a GPU waited for: ``Pretence.waits`` counts that.
"""

import contextlib
import functools
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_iter, tree_map

CUDA = torch.device("cuda", 0)
READS = {
    getattr(torch.Tensor, name)
    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
}
GENERATOR = torch.Generator
SIZED = {torch.nonzero, torch.Tensor.nonzero}
# Kernels of a CPU that stand for others of a GPU: torch chooses them for what lies on a CPU.
STAND_INS = ("mkldnn", "_flash_attention_for_cpu", "_ctc_loss", "_scaled_dot_product")
# By the tables that torch 2.11 tests itself with (``OpInfo.dtypes`` and ``dtypesIfCUDA``).
INTEGERS = {torch.uint8, torch.int16, torch.int32, torch.int64}
PRODUCTS = {f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm", "mv", "convolution")}
INDEXING = ("aten::index", "aten::index_put", "aten::_index_put_impl", "aten::_unsafe_index")
MOVING = ("aten::copy_", "aten::_to_copy", "aten::_has_compatible_shallow_copy_type")
SHAPING = ("aten::transpose_", "aten::t_", "aten::squeeze_", "aten::unsqueeze_")


class RefusedError(AssertionError):
    """A GPU would not do it."""


class Pretended(torch.Tensor):
    """A tensor on a GPU, to all that ask in Python; ``held`` is where it really is."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            requires_grad=False,
        )

    def __init__(self, held):
        self.held = held

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def untyped_storage(self):
        """That of what is computed with."""
        return self.held.untyped_storage()

    def __repr__(self, *, tensor_contents=None):
        return f"Pretended({self.held})"

    def __deepcopy__(self, memo):
        copy = Pretended(self.held.clone())
        copy.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        return memo.setdefault(id(self), copy)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        check(func, args, kwargs)
        results = func(*tree_map(real, args), **tree_map(real, kwargs))
        if func.name().split(".")[0] in SHAPING:  # of this tensor's own sizes, too
            python = torch._C.DispatchKeySet(torch._C.DispatchKey.Python)
            with torch._C._ExcludeDispatchKeyGuard(python):
                func(*args, **kwargs)
        given = {id(x.held): x for x in tree_iter((args, kwargs)) if isinstance(x, Pretended)}
        # A view in inference mode of what was made outside is no inference tensor.
        outside = any(not x.is_inference() for x in given.values())
        with torch.inference_mode(False) if outside else contextlib.nullcontext():
            return tree_map(lambda x: pretended_of(x, given), results)


def real(x):
    """What is computed with."""
    return x.held if isinstance(x, Pretended) else x


def pretended_of(x, given=()):
    """A result; what an operator changed in place is what it was given."""
    if not isinstance(x, torch.Tensor) or isinstance(x, Pretended):
        return x
    # A wrapper knows nothing of a conjugation or a sign that is still to be done.
    return given[id(x)] if id(x) in given else Pretended(x.resolve_conj().resolve_neg())


def check(func, args, kwargs):
    """Raises ``RefusedError`` where a GPU would."""
    name, overload = func.name().split(".")[0], func.name()
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    if name not in MOVING:
        asked = tensors[:1] if name in INDEXING and isinstance(tensors[0], Pretended) else tensors
        elsewhere = [x for x in asked if not isinstance(x, Pretended) and x.ndim]
        # Where a part has no gradient torch makes zeros, by its own notion of the device.
        made = name == "aten::cat" and torch._C._current_graph_task_id() >= 0
        if elsewhere and not made:
            raise RefusedError(f"{overload}: of {len(tensors)} tensors {len(elsewhere)} on the CPU")
    if any(part in name for part in STAND_INS):
        return
    if not has_kernel(overload):
        raise RefusedError(f"{overload}: no kernel for CUDA")
    first = next((x for x in tensors if isinstance(x, Pretended)), None)
    if first is not None and first.dtype in refused_types(name, args):
        raise RefusedError(f"{overload}: not for {first.dtype} on CUDA")


@functools.cache
def has_kernel(overload):
    """Whether an operator has a kernel for CUDA, or is made of others."""
    keys = ("CUDA", "CompositeImplicitAutograd", "CompositeExplicitAutograd")
    keys += ("CompositeExplicitAutogradNonFunctional",)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has(overload, key) for key in keys)


def refused_types(name, args):
    """The types that an operator takes on a CPU and not on CUDA."""
    if name in PRODUCTS:
        return INTEGERS
    reduced = name in ("aten::scatter_reduce", "aten::scatter_reduce_") and "sum" not in args
    return {torch.bool} if reduced else ()


class Pretence(TorchFunctionMode):
    """Sends to the pretended GPU what is made for it, and counts what is read from it.

    Attributes:
        waits: how often the host read a value.
    """

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to or func is torch.Tensor.cuda:
            return self.moved(func, args, kwargs)
        if func in READS and isinstance(args[0], Pretended):
            self.waits += 1
            return func(args[0].held.detach(), *args[1:], **kwargs)
        if func in SIZED and isinstance(args[0], Pretended):
            self.waits += 1
        if func is torch.Tensor.new_tensor and isinstance(args[0], Pretended):
            return Pretended(func(args[0].held, *args[1:], **kwargs))
        if on_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
            made = func(*tree_map(real, args), **kwargs)
            return Pretended(made)
        return func(*args, **kwargs)

    def moved(self, func, args, kwargs):
        """``Tensor.to`` and ``Tensor.cuda``."""
        x, *others = args
        devices = [*others, *kwargs.values()] if func is torch.Tensor.to else [CUDA]
        wanted = [getattr(d, "device", d) for d in devices]
        to_cuda = any(map(on_cuda, wanted))
        to_cpu = any(isinstance(d, str | torch.device) and not on_cuda(d) for d in wanted)
        dtypes = [getattr(d, "dtype", d) for d in devices]
        dtype = next((d for d in dtypes if isinstance(d, torch.dtype)), x.dtype)
        if isinstance(x, Pretended) and to_cpu:
            self.waits += 1
            return x.held.detach().to(dtype)
        if not isinstance(x, Pretended) and to_cuda:
            copy = Pretended(x.detach().to(dtype).clone())
            return copy.requires_grad_() if x.requires_grad and x.is_leaf else copy
        return x.to(dtype) if x.dtype != dtype else x


def on_cuda(device):
    """Whether a device is the GPU; None and what is no device are not."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def generator(device="cpu"):
    """Draws on the CPU for every device."""
    return GENERATOR()


@contextlib.contextmanager
def pretended():
    """A ``Pretence`` for the code inside."""
    replaced = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            torch.backends.cudnn.flags(enabled=False),
            mock.patch.object(torch.cuda, "synchronize"),
            mock.patch.object(torch, "Generator", generator),
            torch.autograd.set_multithreading_enabled(False),
            Pretence() as pretence,
        ):
            yield pretence
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaced)
