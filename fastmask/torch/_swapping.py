"""Which modules ``accelerate`` finds, why it leaves some of them, and the classes that it gives to the others.

Such a class stands between a module's own class and the one of ``torch.nn`` behind it, so that all methods and
``isinstance`` of both stay, and ``super().forward`` of a subclass finds the kernels.
"""

from __future__ import annotations

import copyreg
import inspect
import types
import warnings
from typing import Any

import torch
from torch import nn

from fastmask.torch._ways import INSTEAD
from fastmask.torch.recurrent import GRU, LSTM, RNN, Recurrent

_OF_AO = {"GRU", "GRUCell", "LSTM", "LSTMCell", "RNNCell"}
# What forward of torch.nn calls, and the kernels do not.
_HOOKS = (
    "check_forward_args", "check_hidden_size", "check_input", "get_expected_cell_size", "get_expected_hidden_size",
    "permute_hidden",
)  # fmt: skip


class Accelerated(nn.Module):
    """A module while it is swapped."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "qconfig":
            kind = type(self).__name__
            warnings.warn(f"qconfig: {kind} on fastmask's kernels is not quantised; {INSTEAD}", stacklevel=2)
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles and copies name the original class; this one may have been made while the program ran."""
        reduced = super().__reduce_ex__(max(protocol, 2))
        original = original_class(self)
        if original is not None and reduced[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _new, (original,), *reduced[2:]
        return reduced


_KINDS = (nn.LSTM, nn.GRU, nn.RNN)
_classes: dict[type[Any], type[Any]] = {}
_originals: dict[type[Any], type[Any]] = {}


def _derive(original: type[Any], bases: tuple[type[Any], ...]) -> None:
    names = {"__module__": __name__, "__doc__": original.__doc__}
    made = types.new_class(original.__name__, bases, exec_body=lambda namespace: namespace.update(names))
    _classes[original], _originals[made] = made, original


for _kind, _ours in zip(_KINDS, (LSTM, GRU, RNN), strict=True):
    _derive(_kind, (Accelerated, _ours, _kind))


def base_class(module: nn.Module) -> type[Any]:
    """The class of ``torch.nn`` that a module is an instance of."""
    return next(kind for kind in _KINDS if isinstance(module, kind))


def accelerated_class(original: type[Any]) -> type[Any]:
    """The class of modules of a class, ``torch.nn.LSTM``, ``GRU``, ``RNN`` or a subclass, while they are swapped."""
    if original not in _classes:
        _derive(original, (original, next(_classes[kind] for kind in _KINDS if issubclass(original, kind))))
    return _classes[original]


def original_class(module: nn.Module) -> Any:
    """The class that a swapped module had before; None of any other module."""
    return _originals.get(type(module))


def _new(original: type[Any]) -> Any:
    """A module without content, as pickles begin."""
    kind: Any = accelerated_class(original)
    return kind.__new__(kind)


def recurrent_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All recurrent modules of a model by name, whether the kernels can run them or not."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return [(name, module) for name, module in model.named_modules() if _is_recurrent(module)]


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or _is_quantised(module) or _is_scripted(module)


def _is_quantised(module: nn.Module) -> bool:
    return any(kind.__module__.startswith("torch.ao.nn.") and kind.__name__ in _OF_AO for kind in type(module).__mro__)


def _is_scripted(module: nn.Module) -> bool:
    if not isinstance(module, torch.jit.ScriptModule):
        return False
    return any(name.startswith("weight_hh") for name, _ in module.named_parameters(recurse=False))


def reason_to_leave(module: nn.Module) -> str | None:
    """Why a recurrent module cannot be swapped, or None."""
    kind = type(module).__name__
    if isinstance(module, Recurrent):
        return "is of fastmask already"
    if _is_scripted(module):
        return f"is TorchScript's {module.original_name}"
    if _is_quantised(module):
        return f"is torch.ao's {kind}"
    if isinstance(module, nn.RNNCellBase):
        return f"is {kind}, one step of a loop in other code"
    if not isinstance(module, _KINDS):
        return f"is {kind}, not a torch.nn.LSTM, GRU or RNN"
    if nn.utils.parametrize.is_parametrized(module):
        return "is parametrized"
    return _reason_of_class(module) or _reason_of_weights(module)


def _reason_of_class(module: nn.RNNBase) -> str | None:
    kind, base = type(module), base_class(module)
    if "forward" in vars(module):
        return "has a forward of its own"
    if kind.forward is not base.forward and not _calls_super(kind.forward):
        return f"is {kind.__name__}, whose forward does not call super().forward"
    for name in _HOOKS:
        if getattr(kind, name, None) is not getattr(base, name, None):
            return f"is {kind.__name__}, with a {name} of its own"
    try:
        accelerated_class(kind)
    except Exception as error:  # What metaclasses and __init_subclass__ of others raise.
        return f"is {kind.__name__}, of which no class can be derived: {error}"
    return None


def _calls_super(function: Any) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and "super" in code.co_names


def _reason_of_weights(module: nn.RNNBase) -> str | None:
    if module.proj_size:
        return f"has proj_size={module.proj_size}, and the kernels have no projections"
    for name, parameter in module.named_parameters():
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}, not on the CPU"
        if parameter.dtype not in (torch.float32, torch.float64):
            return f"{name} is {parameter.dtype}, not float32 or float64"
    return None
