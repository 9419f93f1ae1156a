"""A backup of a training, from which it goes on after an interruption."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from fastmask import random
from fastmask.callbacks import resuming
from fastmask.callbacks.base import Callback, Logs, check_save_freq
from fastmask.core.paths import path_text
from fastmask.saving import FileFormatError, npz
from fastmask.saving.order import require_built


class BackupAndRestore(Callback):
    """Stores what a training needs to go on; the next `fit` goes on from there, with the same bits.

    The same script, run again after it was killed, ends with the weights, the optimizer's state and
    the history that it would have ended with.

    Parameters
    ----------
    backup_dir : str or path
        A folder for this training alone; it is made.
    save_freq : "epoch" or int, default "epoch"
        Store after every epoch, or after so many batches, also in the middle of an epoch.
    double_checkpoint : bool, default False
        Whether the backup before the last is kept, and used where the last cannot be read.
    delete_checkpoint : bool, default True
        Whether the backup is removed when the training has ended.

    Raises
    ------
    ValueError
        If an argument does not fit; when training begins, if the model is not built, or the backup is
        that of another kind of model, optimizer or data.
    FileFormatError
        When training begins, if the backup is damaged and there is no other. Model, callbacks and random
        generators are then as before, as with a ValueError.

    Notes
    -----
    Stored are the weights, the optimizer's state, epoch and step, the generators behind shuffling and
    dropout (and those of NumPy and Python, which `utils.set_random_seed` seeds, too), the states of
    stateful layers, the means of the epoch so far, and the `state_dict` of the other callbacks, which
    are all told of an epoch or a batch before it is stored. The file, ``latest.npz``, is replaced
    only by a complete one.

    To find its place in the middle of an epoch, `fit` takes the batches before it once more from an
    iterable, without training on them: they must come again. Data in memory is not gone through.
    """

    comes_last: ClassVar[bool] = True
    _stored = ("batches",)

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        self.backup_dir = Path(path_text("backup_dir", backup_dir))
        if self.backup_dir.is_file():
            raise NotADirectoryError(f"backup_dir: expected a folder, got the file {str(self.backup_dir)!r}")
        check_save_freq(save_freq)
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self.latest, self.previous = (self.backup_dir / f"{name}.npz" for name in ("latest", "previous"))
        self.batches = 0
        self.interrupted: dict[str, Any] | None = None
        self.before: dict[str, Any] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Go back to the last backup if there is one."""
        require_built(self.model)
        self.batches, self.interrupted, self.before = 0, None, None
        state = self._read()
        if state is None:
            return
        with self._well_formed():
            resuming.check(self.model, state)
        if state["step"]:
            self.interrupted, self.before = state, deepcopy(resuming.get_state(self.model))
            self._set(state)
        else:
            self._go_to_its_place(state)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Undo what callbacks did at the start of an epoch that began before the backup."""
        state, before = self.interrupted, self.before
        self.interrupted = self.before = None
        if state is None or before is None:
            return
        try:
            self._go_to_its_place(state)
        except BaseException:
            resuming.set_state(self.model, before)
            raise

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Store if it is time for it by the number of batches."""
        if isinstance(self.save_freq, int):
            self.batches += 1
            if self.batches >= self.save_freq:
                self.batches = 0
                self._write()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Store if it is time for it by the number of epochs."""
        if self.save_freq == "epoch":
            self._write()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Remove the backup if asked to."""
        self.interrupted = self.before = None
        if self.delete_checkpoint:
            self.latest.unlink(missing_ok=True)
            self.previous.unlink(missing_ok=True)
            with suppress(OSError):  # it holds files that are not ours
                self.backup_dir.rmdir()

    def _write(self) -> None:
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        fresh = self.backup_dir / "next.npz" if self.double_checkpoint else self.latest
        npz.write(fresh, resuming.get_state(self.model))
        if self.double_checkpoint:
            if self.latest.exists():
                os.replace(self.latest, self.previous)
            os.replace(fresh, self.latest)

    def _read(self) -> dict[str, Any] | None:
        """Return the last backup that can be read, None if there is none."""
        for leftover in self.backup_dir.glob(".*.npz.*"):  # of processes killed while writing
            leftover.unlink(missing_ok=True)
        paths = [path for path in (self.latest, self.previous) if path.exists()]
        for number, path in enumerate(paths, 1):
            try:
                found: dict[str, Any] = npz.read(path)
                return found
            except (FileFormatError, OSError) as error:
                if number == len(paths):
                    raise
                warnings.warn(f"{path.name} cannot be read, going on from {paths[number].name}: {error}", stacklevel=2)
        return None

    def _go_to_its_place(self, state: dict[str, Any]) -> None:
        """Go back to a state, and to its place in the data."""
        before = random.get_state()
        try:
            resuming.wind_forward(self.model, state)
            self._set(state)
        except BaseException:
            random.set_state(before)
            raise

    def _set(self, state: dict[str, Any]) -> None:
        with self._well_formed():
            resuming.set_state(self.model, state)

    @contextmanager
    def _well_formed(self) -> Iterator[None]:
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise FileFormatError(f"{self.backup_dir}: the backup is malformed: {error!r}") from error
