"""Objects that `fit`, `evaluate` and `predict` tell what happens."""

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

__all__ = [
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
