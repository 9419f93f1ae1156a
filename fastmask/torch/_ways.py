"""What a call is to run on: decided in one place, which every entry point passes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

INSTEAD = (
    "fastmask.torch.restore(model) puts the layers of torch.nn back that accelerate(model) swapped; state dicts of "
    "fastmask.torch's own classes load into those of torch.nn"
)
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch
_USUAL = {Tensor, torch.nn.Parameter, type(None)}
TRACERS = "torch.jit.trace, and torch.onnx.export by it,"


class Way(Enum):
    """What runs a call.

    KERNELS: the kernels, on the memory of the tensors, below autograd functions.
    OPERATORS: the kernels, as custom operators that compilers, recorders and fake tensors see.
    PLAIN: PyTorch's own operators one by one, for transforms that look into all that happens.
    """

    KERNELS = 1
    OPERATORS = 2
    PLAIN = 3


def way(tensors: Collection[Any]) -> Way:
    """What is to run a call that reads these tensors; None among them is passed over.

    Raises
    ------
    RuntimeError
        Where the call is recorded by something that would keep its results as constants.
    """
    if torch.jit.is_tracing():
        refuse(TRACERS)
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return Way.PLAIN
    if torch.compiler.is_compiling():
        return Way.OPERATORS
    # The second is make_fx(pre_dispatch=True), which keeps a stack of its own.
    watched = torch._C._len_torch_dispatch_stack() or torch._C._dispatch_tls_is_dispatch_key_included(_PRE_DISPATCH)
    if watched:
        return Way.OPERATORS
    if _USUAL.issuperset(map(type, tensors)) or all(map(_has_memory, tensors)):
        return Way.KERNELS
    return Way.OPERATORS


def differentiate_plainly(gradients: Sequence[Tensor | None]) -> bool:
    """Whether a backward pass that got these is to be recorded itself, or runs within a transform."""
    if torch.is_grad_enabled() or way(gradients) is Way.PLAIN:
        return True
    # What torch.autograd.grad(is_grads_batched=True) makes of them is no transform of torch.func.
    return any(d is not None and torch._C._functorch.is_legacy_batchedtensor(d) for d in gradients)


def check_no_tangents() -> None:
    """RuntimeError within ``torch.autograd.forward_ad.dual_level``, where a custom operator would drop tangents."""
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            "torch.autograd.forward_ad: expected no dual level around recorded calls of fastmask's kernels, which have "
            f"no forward derivative; call the module itself; {INSTEAD}"
        )


def _has_memory(tensor: Any) -> bool:
    """Whether this is no tensor, or one that PyTorch's kernels work on without the help of a class of Python."""
    kind = type(tensor)
    if kind is Tensor or kind is torch.nn.Parameter:
        return True
    if kind is torch.fx.Proxy:
        refuse("torch.fx.symbolic_trace")
    return not isinstance(tensor, Tensor) or kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def refuse(recorder: str) -> NoReturn:
    """RuntimeError: what records this call has no operators for the kernels."""
    raise RuntimeError(
        f"{recorder} cannot record a call of fastmask's kernels: its results would become constants; {INSTEAD}"
    )


def values_of(name: str, tensor: Tensor) -> NDArray[Any]:
    """The values of a mask, of lengths, ids or sizes, which decide what is computed.

    Raises
    ------
    RuntimeError
        Where the tensor has no values now, as within torch.vmap over it, or they are not to become constants.
    """
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if wrapped or get_proxy_mode() is not None or not _has_memory(tensor):
        raise RuntimeError(
            f"{name}: expected values that can be read, got a tensor without any, as torch.vmap over it and recorders "
            f"of calls make them; {INSTEAD}"
        )
    with torch._C._DisableFuncTorch():
        array: NDArray[Any] = tensor.resolve_neg().numpy()
    return array


class Unscriptable(torch.nn.Module):
    """A module that refuses TorchScript, which would not see the kernels."""

    def __prepare_scriptable__(self) -> NoReturn:
        """What torch.jit.script calls first."""
        refuse("torch.jit.script")

    def _slow_forward(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """What torch.jit.trace calls in place of ``forward``; the ONNX exporter adds arguments that nobody gave."""
        refuse(TRACERS)
