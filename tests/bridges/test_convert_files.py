"""Files of weights between PyTorch and fastmask."""

import pickle

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")


def module():
    torch.manual_seed(0)
    return torch.nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)


def stack():
    return fm.Sequential([
        fm.Input((None, 4)), *(layers.Bidirectional(layers.LSTM(3, return_sequences=True)) for _ in range(2)),
    ])  # fmt: skip


def test_pytorch_reads_what_is_saved(tmp_path):
    model = stack()
    model.save_weights(tmp_path / "a.safetensors")
    read = safetensors.load_file(tmp_path / "a.safetensors")
    assert {name: value.numpy().tobytes() for name, value in read.items()} == {
        weight.path: weight.numpy().tobytes() for weight in model.weights
    }


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_state_dicts_in_files(name, legacy, tmp_path):
    given = module()
    if name == "a.pt":
        torch.save(given.state_dict(), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    else:
        safetensors.save_file(given.state_dict(), tmp_path / name)
    read = fm.convert.read_state_dict(tmp_path / name)
    assert {key: value.tobytes() for key, value in read.items()} == {
        key: value.numpy().tobytes() for key, value in given.state_dict().items()
    }
    model = stack()
    model.set_torch_weights(read)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    wanted = given(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x), wanted, rtol=0, atol=2e-6)


def test_dtypes(tmp_path):
    given = {
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16), "bfloat16": torch.tensor([1.5, 3.0e38]).bfloat16(),
        "whole": torch.arange(3), "bool": torch.tensor([True, False]), "one": torch.tensor(2.0, dtype=torch.float64),
    }  # fmt: skip
    torch.save(given, tmp_path / "a.pt")
    safetensors.save_file(given, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        read = fm.convert.read_state_dict(tmp_path / name)
        for key, value in given.items():
            np.testing.assert_array_equal(read[key], value.float().numpy() if key == "bfloat16" else value.numpy())
            assert read[key].dtype == (np.float32 if key == "bfloat16" else value.numpy().dtype)


class Evil:
    def __reduce__(self):
        return (print, ("code of the file",))


def test_files_of_anything_else_are_refused(tmp_path, capsys):
    path = tmp_path / "a.pt"
    torch.save({"epoch": 3, "state_dict": module().state_dict()}, path)
    with pytest.raises(FileFormatError, match=r"a\.pt: expected tensors by name, got 'epoch', a int"):
        fm.convert.read_state_dict(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(FileFormatError, match=r"a\.pt: expected a state dict, got a list"):
        fm.convert.read_state_dict(path)
    for content in (pickle.dumps(Evil()), b"", b"PK\3\4", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.pt"):
            fm.convert.read_state_dict(path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(FileFormatError, match=r"a\.pt"):
        fm.convert.read_state_dict(path)
    assert capsys.readouterr().out == ""
