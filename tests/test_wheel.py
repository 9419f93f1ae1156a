"""The installed package: what a wheel holds, and that it needs nothing else."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import PurePosixPath

import pytest

import fastmask
from fastmask import kernels

COMPILED = ("cpu", "memory", "packing", "waiting")


def run(code, cwd=None, **environment):
    """Run code in a fresh Python."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel():
    """The distribution; skips the test where the package is a checkout."""
    distribution = metadata.distribution("fastmask")
    in_place = '"editable": true' in (distribution.read_text("direct_url.json") or "")
    if in_place or distribution.read_text("WHEEL") is None:
        pytest.skip("the package is installed in place")
    return distribution


@pytest.fixture(scope="module")
def files(wheel):
    """Paths of the package's files, but for bytecode."""
    paths = [PurePosixPath(file) for file in wheel.files]
    return [path for path in paths if path.suffix != ".pyc" and not path.parts[0].endswith(".dist-info")]


def test_kinds_of_files(files):
    assert {path.parts[0] for path in files} == {"fastmask"}
    assert {path.suffix for path in files} == {".py", ".pyi", ".so", ".typed"}
    assert [str(path) for path in files if path.suffix == ".typed"] == ["fastmask/py.typed"]


def test_compiled_modules(files):
    modules = {path.name.partition(".")[0] for path in files if path.suffix == ".so"}
    isas = [name.replace("-", "_") for name in kernels.available()]
    assert modules >= {*COMPILED, *(f"{isa}_{dtype}" for isa in isas for dtype in ("float32", "float64"))}
    assert {path.stem for path in files if path.suffix == ".pyi"} == set(COMPILED)


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="no stable ABI without the GIL")
def test_stable_abi(wheel, files):
    tags = [line for line in wheel.read_text("WHEEL").splitlines() if line.startswith("Tag:")]
    assert [tag.split()[1].split("-")[:2] for tag in tags] == [["cp311", "abi3"]]
    assert all(path.name.endswith(".abi3.so") for path in files if path.suffix == ".so")


def test_metadata(wheel):
    assert wheel.version == fastmask.__version__
    assert wheel.metadata["License-Expression"] == "MIT"
    required = [line for line in wheel.requires if "extra" not in line]
    assert sorted(line.partition(">")[0] for line in required) == ["numpy", "tqdm"]


def test_import_in_an_empty_folder(wheel, tmp_path):
    found = run("import fastmask; print(fastmask.__file__)", cwd=tmp_path)
    assert found.stdout.strip() == str(wheel.locate_file("fastmask/__init__.py"))


def test_without_compiled_modules(tmp_path):
    (tmp_path / "fastmask" / "kernels").mkdir(parents=True)
    shutil.copy(fastmask.__file__, tmp_path / "fastmask")
    found = run("import fastmask", cwd=tmp_path)
    assert found.returncode == 1
    assert "pip install -e ." in found.stderr


@pytest.mark.parametrize("name", kernels.available())
def test_the_instruction_set_can_be_chosen(name):
    found = run("import fastmask; print(fastmask.kernels.instruction_set())", FASTMASK_ISA=name)
    assert found.stdout.strip() == name


def test_an_unknown_instruction_set():
    found = run("import fastmask.kernels", FASTMASK_ISA="sse9")
    assert found.returncode == 1
    assert "FASTMASK_ISA='sse9'" in found.stderr
