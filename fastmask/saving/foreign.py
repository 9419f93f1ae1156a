"""Files of other libraries: what they are, and what to do with them."""

import zipfile
from contextlib import suppress
from pathlib import Path

from fastmask.core.errors import FileFormatError

_OWN_START = b"\x89HDF\r\n\x1a\n"
_ONNX = "a model of ONNX", "load_model reads it under a name that ends in .onnx"
_TORCH = (
    "a file of PyTorch",
    "fastmask.convert.from_torch makes a model of the module, and set_torch_weights takes its state_dict",
)
_SAFETENSORS = "weights in the format of safetensors", "make the model, and load_weights of it reads them"
_TFLITE = "a model of TensorFlow Lite", "save the Keras model that it was made from into a .keras file"
_NUMPY = "arrays of NumPy", "load them with numpy.load and copy them with set_weights"
_ENDINGS = {
    ".onnx": _ONNX,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": _SAFETENSORS,
    ".tflite": _TFLITE,
    ".npz": _NUMPY,
    ".npy": _NUMPY,
}


def refuse(path: Path) -> None:
    """Raise FileFormatError if a file is one of another library, by its content or else by its name."""
    with path.open("rb") as file:
        start = file.read(16)
    found = _by_content(path, start)
    if found is not None:
        what, remedy = found
        raise FileFormatError(f"expected a file of Keras, got {what}: {remedy}")


def _by_content(path: Path, start: bytes) -> tuple[str, str] | None:
    if start.startswith(_OWN_START):
        return None
    if start.startswith(b"PK"):
        return _archive(path)
    if start.startswith(b"\x93NUMPY"):
        return _NUMPY
    if start[4:8] == b"TFL3":
        return _TFLITE
    # A pickle of protocol 2 or later, as torch.save wrote before it wrote archives.
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _TORCH
    # The length of a header of JSON in 8 bytes, then the header.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return _SAFETENSORS
    # In the order of its fields: the version of the format, then the name of the producer or another field of bytes.
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a") and 0 < start[1] < 32:
        return _ONNX
    return _ENDINGS.get(path.suffix.lower())


def _archive(path: Path) -> tuple[str, str] | None:
    """Return what a zip archive is, None for one of Keras or of nobody known."""
    names: list[str] = []
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if "config.json" in names:
        return None
    if any(name.endswith("data.pkl") or name.endswith("/version") for name in names):
        return _TORCH
    return _NUMPY if names and all(name.endswith(".npy") for name in names) else _ENDINGS.get(path.suffix.lower())
