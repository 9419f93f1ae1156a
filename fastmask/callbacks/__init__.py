"""Objects that `fit`, `evaluate` and `predict` tell what happens."""

from typing import TYPE_CHECKING

from fastmask.callbacks.backup import BackupAndRestore
from fastmask.callbacks.base import Callback, CallbackList, History
from fastmask.callbacks.monitors import (
    EarlyStopping,
    ModelCheckpoint,
    MonitorCallback,
    ReduceLROnPlateau,
)
from fastmask.callbacks.progress import ProgressBar
from fastmask.callbacks.tools import (
    CSVLogger,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)
from fastmask.core.objects import missing

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "MonitorCallback",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]


if not TYPE_CHECKING:
    __getattr__ = missing(__name__)
