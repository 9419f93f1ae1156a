"""The package itself: what importing it does, and what it says where it cannot work."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastmask as fm


def run_python(code, **environment):
    wanted = {name: value for name, value in os.environ.items() if name != "FASTMASK_ISA"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wanted)


def test_import_is_light():
    code = "import sys, fastmask; print([m for m in ('numpy', 'tqdm') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_an_instruction_set_is_checked_at_import():
    code = "try:\n import fastmask\nexcept ImportError as error:\n print(error)"
    for name, message in (("sse2", "FASTMASK_ISA='sse2' is not an instruction set"), ("baseline", "")):
        assert message in run_python(code, FASTMASK_ISA=name).stdout
        assert bool(message) == bool(run_python(code, FASTMASK_ISA=name).stdout)


def test_an_unbuilt_checkout_says_what_to_do(tmp_path):
    source = Path(fm.__file__).parent
    shutil.copytree(source, tmp_path / "fastmask", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
try:
    import fastmask
except ImportError as error:
    print(error)
"""
    assert "run `pip install -e .`" in run_python(code).stdout


def test_version():
    assert fm.__version__ == importlib.metadata.version("fastmask")


def test_public_names():
    code = "import fastmask as fm; print(all(hasattr(fm, name) for name in fm.__all__))"
    assert run_python(code).stdout.strip() == "True"
    with pytest.raises(AttributeError, match="no attribute 'Sequentail'"):
        fm.Sequentail  # noqa: B018
    assert "Sequential" in dir(fm)
