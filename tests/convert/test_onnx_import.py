"""Where the package onnx is not installed, and what comes without it."""

import sys

import pytest

import fastmask as fm


def test_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    for read in (fm.convert.from_onnx, fm.models.load_model):
        with pytest.raises(ImportError, match=r'install it with `pip install "fastmask\[onnx\]"`'):
            read(path)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        fm.models.load_model(tmp_path / "m.onnx")


def test_other_names_are_an_error():
    with pytest.raises(AttributeError, match=r"module 'fastmask\.convert' has no attribute 'from_nothing'"):
        fm.convert.from_nothing  # noqa: B018
