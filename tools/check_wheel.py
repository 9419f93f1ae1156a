"""Install a wheel with every Python at hand and run the tests on it, outside the checkout.

    python tools/check_wheel.py dist/fastmask-0.1.0-cp311-abi3-linux_x86_64.whl [pytest arguments]

Each Python from 3.11 to 3.13 that is on PATH or under pyenv gets an environment of its own, into which nothing
is compiled. Every Python and every instruction set of the machine has at least one run of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
PROBE = "import sys, ensurepip; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    wheel, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    pythons = find_pythons()
    if not pythons:
        sys.exit(f"none of Python {', '.join(VERSIONS)} was found")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tests = copy_tests(folder / "outside")
        installed = [install(wheel, python, folder / version) for version, python in pythons.items()]
        sets = output(installed[0], "from fastmask import kernels; print(*kernels.available())", cwd=tests).split()
        print(f"instruction sets: {', '.join(sets)}", flush=True)
        count = max(len(sets), len(installed))
        for python, isa in islice(zip(cycle(installed), cycle(reversed(sets)), strict=False), count):
            print(f"\n== Python {python.parent.parent.name}, {isa}", flush=True)
            run([python, "-m", "pytest", *arguments], cwd=tests, env=os.environ | {"FASTMASK_ISA": isa})


def find_pythons() -> dict[str, Path]:
    """The first working CPython of each version; says which were tried."""
    found: dict[str, Path] = {}
    for version in VERSIONS:
        for python in candidates(version):
            if probe(python) == f"cpython {version}":
                found[version] = python
                break
        print(f"Python {version}: {found.get(version, 'not found')}", flush=True)
    return found


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of a version may be: first on PATH, then among pyenv's, the newest first."""
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    releases = pyenv.glob(f"versions/{version}.*/bin/python{version}")
    yield from sorted(releases, key=lambda path: release_number(path.parent.parent.name), reverse=True)


def release_number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def probe(python: Path) -> str:
    """What a Python says it is; nothing if it is none or cannot make environments."""
    try:
        return output(python, PROBE)
    except (OSError, subprocess.CalledProcessError):
        return ""


def install(wheel: Path, python: Path, environment: Path) -> Path:
    """Install the wheel with what its tests need; return the environment's Python."""
    run([python, "-m", "venv", environment])
    inside = environment / "bin" / "python"
    run([inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"{wheel}[test]"])
    return inside


def copy_tests(folder: Path) -> Path:
    """Copy the tests and what they read to a folder that has no package in it."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", folder / "docs")
    for path in (ROOT / "pyproject.toml", *ROOT.glob("*.md")):
        shutil.copy(path, folder)
    return folder


def output(python: Path, code: str, cwd: Path | None = None) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout.strip()


def run(command: list[Path | str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; end with its status if it fails."""
    status = subprocess.run([str(part) for part in command], cwd=cwd, env=env).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
