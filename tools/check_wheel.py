"""Install a wheel with every Python at hand and run the tests on it, outside the checkout.

    python tools/check_wheel.py dist/fastmask-0.1.0-cp311-abi3-linux_x86_64.whl [pytest arguments]

Each Python from 3.11 to 3.13 that is on PATH or under pyenv gets an environment of its own, with the newest NumPy there
is, and the first one of them another with the oldest NumPy that is supported. Nothing is compiled, and no compiler is
found. Every environment and every instruction set of the machine has at least one run of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
OLDEST_NUMPY = "numpy==1.26.0"
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}
PROBE = "import sys, ensurepip; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
INSTRUCTION_SETS = "from fastmask import kernels; print(*kernels.available())"


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    wheel, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    failed = 0
    pythons = find_pythons()
    if not pythons:
        sys.exit(f"none of Python {', '.join(VERSIONS)} was found")
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        tests = copy_tests(folder / "outside")
        wanted = [(folder / version, python, "numpy") for version, python in pythons.items()]
        wanted.append((folder / "oldest-numpy", next(iter(pythons.values())), OLDEST_NUMPY))
        installed = list(pool.map(partial(install, wheel), wanted))
        sets = output([installed[0], "-c", INSTRUCTION_SETS], tests).split()
        print(f"instruction sets: {', '.join(sets)}", flush=True)
        runs = list(islice(zip(cycle(installed), cycle(reversed(sets)), strict=False), max(len(sets), len(installed))))
        for (python, isa), (status, text) in zip(runs, pool.map(partial(test, tests, arguments), runs), strict=True):
            print(f"\n== {python.parent.parent.name}, {isa}\n{text}", flush=True)
            failed += status != 0
    sys.exit(failed)


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
        return subprocess.run([python, "-c", PROBE], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def install(wheel: Path, wanted: tuple[Path, Path, str]) -> Path:
    """Make an environment with the wheel, what its tests need and a NumPy; return its Python."""
    environment, python, numpy = wanted
    output([python, "-m", "venv", environment])
    inside = environment / "bin" / "python"
    output([inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"{wheel}[test]", numpy])
    print(f"{environment.name}: NumPy {output([inside, '-c', 'import numpy; print(numpy.__version__)'])}", flush=True)
    return inside


def copy_tests(folder: Path) -> Path:
    """Copy the tests and what they read to a folder that has no package in it."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "pyproject.toml", *ROOT.glob("*.md")):
        shutil.copy(path, folder)
    return folder


def test(folder: Path, arguments: list[str], run: tuple[Path, str]) -> tuple[int, str]:
    """Run the tests with a Python and an instruction set; return the status and what they print."""
    python, isa = run
    command: list[Path | str] = [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | NO_COMPILER | {"FASTMASK_ISA": isa}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


def output(command: list[Path | str], folder: Path | None = None) -> str:
    environment = os.environ | NO_COMPILER
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
