"""``accelerate``: the recurrent modules of a model, in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from fastmask.torch._kept import forget_programs, keep_programs
from fastmask.torch._swapping import (
    Accelerated,
    accelerated_class,
    base_class,
    original_class,
    reason_to_leave,
    recurrent_modules,
)
from fastmask.torch.recurrent import Recurrent

__all__ = ["Report", "accelerate", "freeze", "restore", "unfreeze"]


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
    names, and get a class that derives from their own and from the one of :mod:`fastmask.torch`. So an optimizer built
    before, a module used in several places, and a model that is itself a ``torch.nn.LSTM`` keep working, state dicts
    keep their keys, and ``isinstance`` keeps its answers.

    Subclasses are swapped where they have ``forward`` of ``torch.nn``, or call it by ``super().forward``.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Report
        What was swapped, and which recurrent modules were left and why: those with ``proj_size``, with parameters of
        another dtype than float32 and float64 or on another device than the CPU, parametrized, scripted and quantised
        ones, cells, and subclasses that compute in their own way.
    """
    report = Report()
    for name, module in recurrent_modules(model):
        reason = reason_to_leave(module)
        if reason is None:
            reason = _change_class(module, accelerated_class(type(module)))
        if reason is not None:
            report.left.append((name, reason))
            continue
        original = original_class(module)
        report.swapped.append((name, f"{_name(original)} -> fastmask.torch.{base_class(module).__name__}"))
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
    for name, module in recurrent_modules(model):
        original = original_class(module)
        if original is None:
            swapped = isinstance(module, Accelerated)
            reason = "has had its class changed since" if swapped else "was not swapped by accelerate"
            report.left.append((name, reason))
            continue
        forget_programs(module)
        _change_class(module, original)
        report.swapped.append((name, f"fastmask.torch.{base_class(module).__name__} -> {_name(original)}"))
    return report


def _change_class(module: torch.nn.Module, kind: type[Any]) -> str | None:
    """Why a module cannot have another class, or None once it has."""
    try:
        object.__setattr__(module, "__class__", kind)
    except TypeError as error:
        return f"cannot have another class: {error}"
    return None


def _name(kind: type[Any]) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name.replace("torch.nn.modules.rnn.", "torch.nn.")


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
    found = [(name, module) for name, module in recurrent_modules(model) if isinstance(module, Recurrent)]
    for _, module in found:
        keep_programs(module, frozen=frozen)
    return [name for name, _ in found]
