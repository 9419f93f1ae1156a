"""What has been measured, line by line in a file of JSON, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import fastmask
from bench.peers.libraries import LIBRARIES
from bench.peers.shapes import Case

Record = dict[str, Any]


class Results:
    """Records of one machine, one state of fastmask and one set of versions; others in the file are not looked at."""

    def __init__(self, path: Path, machine: dict[str, Any], fresh: bool = False) -> None:
        self.path, self.machine = path, machine
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.records = {record["key"]: record for record in read(path) if record["machine"] == self.machine}

    def __contains__(self, key: str) -> bool:
        return key in self.records

    def add(self, section: str, key: str, **values: Any) -> Record:
        """Append a record to the file at once."""
        record = {"section": section, "key": key, "machine": self.machine, **values}
        with self.path.open("a+b") as file:
            file.write(self._line_end(file) + json.dumps(record).encode() + b"\n")
        self.records[key] = record
        return record

    def _line_end(self, file: BinaryIO) -> bytes:
        """What ends a last line that was cut off."""
        if not file.tell():
            return b""
        file.seek(-1, os.SEEK_END)
        return b"" if file.read() == b"\n" else b"\n"


def key_of(section: str, case: Case | str, *more: str) -> str:
    what = case if isinstance(case, str) else json.dumps(asdict(case), sort_keys=True)
    return " ".join([section, what, *more])


def read(path: Path) -> Iterator[Record]:
    """The records of a file; a last line that was cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def describe_machine() -> dict[str, Any]:
    """The machine, the versions, and a digest of fastmask as it is installed."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "isa": fastmask.kernels.instruction_set(),
        "python": platform.python_version(),
        "versions": versions(),
        "fastmask": digest(),
    }


def cpu_model() -> str:
    """The CPU's own name, with family, model and stepping where a hypervisor hides the name."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    numbers = ", ".join(f"{name} {fields[name]}" for name in ("cpu family", "model", "stepping") if name in fields)
    return f"{fields.get('model name', platform.machine())} ({numbers})"


def versions() -> dict[str, str]:
    names = sorted({name for entry in LIBRARIES.values() for name in entry.packages} - {"fastmask"})
    return {"fastmask": fastmask.__version__} | {name: metadata.version(name) for name in names}


def digest() -> str:
    """Of all Python files and compiled modules of fastmask."""
    total = hashlib.sha256()
    folder = Path(fastmask.__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".so")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
