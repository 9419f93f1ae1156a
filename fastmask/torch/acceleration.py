"""``accelerate``: the recurrent modules of a model, in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fastmask.torch._kept import forget_programs, keep_programs
from fastmask.torch.recurrent import GRU, LSTM, RNN, Recurrent

__all__ = ["Report", "accelerate", "freeze", "restore", "unfreeze"]

_TWINS: dict[type[torch.nn.Module], type[Recurrent]] = {
    torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN,
}  # fmt: skip
_ORIGINALS = {twin: original for original, twin in _TWINS.items()}
_MARK = "_fastmask_accelerated"


@dataclass
class Report:
    """What :func:`accelerate` or :func:`restore` did.

    Attributes
    ----------
    swapped : list of (name, str)
        Modules that changed, by their name in the model (``""`` is the model itself), and what they are now.
    left : list of (name, str)
        Recurrent modules that did not, and why.
    """

    swapped: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} swapped, {len(self.left)} left"]
        lines += [f"  swapped  {name or '(the model)'}: {what}" for name, what in self.swapped]
        lines += [f"  left     {name or '(the model)'}: {why}" for name, why in self.left]
        return "\n".join(lines)


def accelerate(model: torch.nn.Module) -> Report:
    """Let every ``torch.nn.LSTM``, ``GRU`` and ``RNN`` of a model run on fastmask's kernels.

    The modules themselves change, in place: they stay the same objects with the same parameters, buffers, hooks and
    names, and get the class of :mod:`fastmask.torch` that goes with theirs. So an optimizer built before, a
    module used in several places, and a model that is itself a ``torch.nn.LSTM`` keep working, and state dicts
    keep their keys.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Report
        What was swapped, and what was left and why. Left are modules with ``proj_size``, with parameters of another
        dtype than float32 and float64 or on another device than the CPU, parametrized ones, and subclasses.
    """
    report = Report()
    for name, module in _recurrent_modules(model):
        if isinstance(module, Recurrent):
            report.left.append((name, "is of fastmask already"))
            continue
        reason = _reason_to_leave(module)
        if reason is not None:
            report.left.append((name, reason))
            continue
        twin = _TWINS[type(module)]
        module.__class__ = twin
        setattr(module, _MARK, True)
        report.swapped.append((name, f"torch.nn.{twin.__name__} -> fastmask.torch.{twin.__name__}"))
    return report


def restore(model: torch.nn.Module) -> Report:
    """Undo :func:`accelerate`; modules that were made as fastmask's stay.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Report
    """
    report = Report()
    for name, module in _recurrent_modules(model):
        if not getattr(module, _MARK, False):
            report.left.append((name, "was not swapped by accelerate"))
            continue
        original = _ORIGINALS[type(module)]
        delattr(module, _MARK)
        forget_programs(module)
        module.__class__ = original
        report.swapped.append((name, f"fastmask.torch.{original.__name__} -> torch.nn.{original.__name__}"))
    return report


def freeze(model: torch.nn.Module) -> list[str]:
    """Promise that the weights of fastmask's recurrent modules in a model stay as they are.

    Without this each call that records no gradient compares all weights with those that it has packed before, since
    PyTorch does not tell of every change. A frozen module does not look: it runs on the weights of its first such
    call, whatever becomes of them, until :func:`unfreeze`. Calls that record gradients use the weights as they are
    then. Copies and pickles of a frozen module are not frozen.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of str
        Names of the frozen modules in the model; ``""`` is the model itself.

    Raises
    ------
    TypeError
        If `model` is no module.
    """
    return _set_frozen(model, True)


def unfreeze(model: torch.nn.Module) -> list[str]:
    """Undo :func:`freeze`: each call sees the weights as they are then.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of str
        Names of fastmask's recurrent modules in the model.

    Raises
    ------
    TypeError
        If `model` is no module.
    """
    return _set_frozen(model, False)


def _set_frozen(model: torch.nn.Module, frozen: bool) -> list[str]:
    found = [(name, module) for name, module in _recurrent_modules(model) if isinstance(module, Recurrent)]
    for _, module in found:
        keep_programs(module, frozen=frozen)
    return [name for name, _ in found]


def _recurrent_modules(model: torch.nn.Module) -> list[tuple[str, torch.nn.RNNBase]]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.RNNBase)]


def _reason_to_leave(module: torch.nn.Module) -> str | None:
    """Why a recurrent module cannot be swapped, or None."""
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "is parametrized"
    if type(module) not in _TWINS:
        return f"is a {type(module).__name__}, not exactly torch.nn.LSTM, GRU or RNN"
    if getattr(module, "proj_size", 0):
        return f"has proj_size={module.proj_size}, and there are no projections"
    for name, parameter in module.named_parameters():
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}, not on the CPU"
        if parameter.dtype not in (torch.float32, torch.float64):
            return f"{name} is {parameter.dtype}, not float32 or float64"
    return None
