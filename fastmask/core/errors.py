"""Errors that tell more than their message: of unreadable files, and of ids out of range."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import ENOMEM
from pathlib import Path
from types import ModuleType

REMEDY = (
    "docs/keras_support.md lists what there is; such a model can stay in Keras, where "
    "fastmask.keras.accelerate(model) makes its recurrent layers fast"
)


class FileFormatError(ValueError):
    """A file is malformed, or holds what fastmask has no counterpart of; the message says what."""


class IdError(IndexError):
    """An id is out of range.

    Parameters
    ----------
    message : str
    place : sequence of int, optional
        Its row, and where it stands there; empty if that is not known.
    data : str, default "the batch"
        What it is a row of.
    """

    def __init__(self, message: str, place: Sequence[int] = (), data: str = "the batch") -> None:
        self.message, self.place = message, tuple(map(int, place))
        position = ", ".join(map(str, self.place[1:]))
        super().__init__(f"{message} in row {self.place[0]} of {data}, position {position}" if position else message)


def require_h5py() -> ModuleType:
    """Return h5py.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('Keras files need h5py: install it with `pip install "fastmask[keras]"`') from error
    module: ModuleType = h5py
    return module


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a `FileFormatError` that names it.

    Only memory that is short says nothing about the file: MemoryError stays.
    """
    try:
        yield
    except MemoryError:
        raise
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        if error.errno == ENOMEM:
            raise MemoryError(f"{path}: {error}") from error
        raise FileFormatError(f"{path}: {type(error).__name__}: {error}") from error
    except Exception as error:  # zip, HDF5 and layers fail in many ways on malformed files
        raise FileFormatError(f"{path}: {type(error).__name__}: {error}") from error
