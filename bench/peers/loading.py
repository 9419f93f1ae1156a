"""What it costs to have a library: time and memory of its import, and its size on disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fastmask

# Title, statement, distribution, backend of Keras.
IMPORTS = [
    ("NumPy", "numpy", "numpy", ""),
    ("fastmask", "fastmask", "fastmask", ""),
    ("PyTorch", "torch", "torch", ""),
    ("Keras TensorFlow", "keras", "tensorflow-cpu", "tensorflow"),
    ("Keras JAX", "keras", "jax", "jax"),
    ("Keras torch", "keras", "torch", "torch"),
    ("ONNX Runtime", "onnxruntime", "onnxruntime", ""),
]
PROBE = """
from time import perf_counter
start = perf_counter()
import {module}
print(perf_counter() - start)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
TRIES = 5


def measure_imports() -> dict[str, dict[str, float]]:
    """Seconds (the least of several fresh processes, in turn) and peak bytes of each import, and bytes on disk."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(TRIES):
        for title, module, _, backend in IMPORTS:
            seconds, resident = import_once(module, backend)
            before = found.get(title, {"seconds": seconds})
            found[title] = {"seconds": min(seconds, before["seconds"]), "bytes": resident}
    for title, module, distribution, _ in IMPORTS:
        found[title]["installed"] = installed_bytes({module, distribution})
    return found


def import_once(module: str, backend: str) -> tuple[float, int]:
    """Seconds and peak bytes of a fresh process that imports a module."""
    settings = {"KERAS_BACKEND": backend} if backend else {}
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    seconds, kibibytes = done.stdout.split()[-2:]
    return float(seconds), 1024 * int(kibibytes)


def installed_bytes(distributions: set[str]) -> int:
    """The size of distributions and of all that they require, without bytecode."""
    seen: set[str] = set()
    waiting = [normal(name) for name in distributions]
    total = 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        total += own_bytes(name)
        waiting += requirements(name)
    return total


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> list[str]:
    """The distributions that one needs here, without its extras."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [normal(each.name) for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def own_bytes(name: str) -> int:
    """The size of the files of one distribution."""
    if name == "fastmask":
        # It may be installed from a checkout, with sources beside it that no wheel has.
        paths = [path for path in Path(fastmask.__file__).parent.rglob("*") if path.suffix in (".py", ".so", ".pyi")]
    else:
        files = metadata.files(name) or []
        paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.exists())
