"""Weights in safetensors files: there and back, by names and by places, and files that are damaged or lie."""

import json
import random
import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from helpers.runs import environment

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError, safetensors

MUTATIONS = 1500  # of the bytes, and as many of the entries of the header
SECONDS = 5.0  # for each mutation


def model(dtype=None):
    """A trained one with a model inside; each call makes another, of other names."""
    found = fm.Sequential([
        layers.Embedding(9, 4, mask_zero=True, dtype=dtype),
        layers.Bidirectional(layers.GRU(3, return_sequences=True, dtype=dtype)),
        layers.BatchNormalization(dtype=dtype),
        fm.Sequential([fm.Input((None, 6)), layers.LSTM(3, dtype=dtype), layers.Dense(2, dtype=dtype)]),
        layers.Dense(1, dtype=dtype),
    ])  # fmt: skip
    found.compile("adam", "mse")
    found.train_on_batch([[1, 2, 3]], np.ones((1, 1)))
    return found


def same(first, second):
    assert [array.tobytes() for array in first] == [array.tobytes() for array in second]


def named(found):
    return {weight.path: weight.numpy() for weight in found.weights}


def parts(content):
    """The header and the data of a file."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def joined(header, data=b"", length=None):
    """A file of a header, an object or bytes, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start, stop, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and the content of its file."""
    found, path = model(), tmp_path_factory.mktemp("safetensors") / "a.safetensors"
    found.save_weights(path)
    return found, path.read_bytes()


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_there_and_back(dtype, tmp_path):
    source, target, path = model(dtype), model(dtype), tmp_path / "a.safetensors"
    source.save_weights(path)
    target.load_weights(path)
    same(source.get_weights(), target.get_weights())
    with pytest.raises(FileExistsError, match="overwrite"):
        source.save_weights(path, overwrite=False)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_names_and_metadata(saved):
    found, content = saved
    header, data = parts(content)
    metadata = header.pop("__metadata__")
    assert json.loads(metadata.pop("order")) == list(header)
    assert metadata == {"format": "fastmask", "version": "1"}
    assert set(header) == set(named(found))
    for path, value in named(found).items():
        start, stop = header[path]["data_offsets"]
        assert data[start:stop] == value.tobytes()
        assert (8 + len(content) - len(data) + start) % value.itemsize == 0


def test_the_package_reads_and_writes_the_same(saved, tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    found, content = saved
    read = package.load(content)
    assert set(read) == set(named(found))
    same([read[path] for path in named(found)], named(found).values())
    changed = {path: value + 1 for path, value in read.items()}
    package.save_file(changed, tmp_path / "a.safetensors")
    target = model()
    with pytest.raises(FileFormatError, match="expected such weights in the file"):
        target.load_weights(tmp_path / "a.safetensors")  # the names are others, and the order is not known
    package.save_file(changed, tmp_path / "a.safetensors", parts(content)[0]["__metadata__"])
    target.load_weights(tmp_path / "a.safetensors")
    same([changed[weight.path] for weight in found.weights], target.get_weights())


def test_two_layers_of_one_path(tmp_path):
    def twice():
        inner = [fm.Sequential([fm.Input((2,)), layers.Dense(2, name="dense")], name="inner") for _ in range(2)]
        outer = [fm.Sequential([part], name=f"outer_{i}") for i, part in enumerate(inner)]
        return fm.Sequential(outer)

    source, target = twice(), twice()
    assert len({weight.path for weight in source.weights}) < len(source.weights)
    source.save_weights(tmp_path / "a.safetensors")
    target.load_weights(tmp_path / "a.safetensors")
    same(source.get_weights(), target.get_weights())


def test_numbers_of_other_dtypes(tmp_path):
    """Whole numbers, halves and bfloat16, which NumPy has not; what is no number is refused."""
    found = fm.Sequential([fm.Input((2,)), layers.Dense(2, name="dense")])
    names, path = [weight.path for weight in found.weights], tmp_path / "a.safetensors"
    bits = np.array([0x3F80, 0x4000, 0xBF80, 0x0000], "<u2")
    header = {names[0]: entry(0, 8, [2, 2], "BF16"), names[1]: entry(8, 12, [2], "F16")}
    path.write_bytes(joined(header, bits.tobytes() + np.array([0.5, -2], "<f2").tobytes()))
    found.load_weights(path)
    np.testing.assert_array_equal(found.get_weights()[0], [[1, 2], [-1, 0]])
    np.testing.assert_array_equal(found.get_weights()[1], [0.5, -2])
    for dtype, size in (("F8_E4M3", 2), ("C64", 16)):
        header[names[1]] = entry(8, 8 + size, [2], dtype)
        path.write_bytes(joined(header, bits.tobytes() + bytes(size)))
        with pytest.raises(FileFormatError, match=f"expected real numbers, got {dtype}"):
            found.load_weights(path)
    assert safetensors.is_safetensors(path.read_bytes()[:9])


def refused(found, path, content, match=None, **options):
    """A file is refused and changes nothing."""
    path.write_bytes(content)
    before = [variable.numpy() for variable in (*found.weights, *found.optimizer.variables)]
    with pytest.raises(FileFormatError, match=match):
        found.load_weights(path, **options)
    same(before, [variable.numpy() for variable in (*found.weights, *found.optimizer.variables)])


DAMAGES = {
    "shape": ("expected shape", lambda data: data["shape"].append(1)),
    "another dtype": ("expected real numbers", lambda data: data.update(dtype="F8_E5M2")),
    "too large": ("numbers too large", None),
    "missing": ("expected such weights in the file", None),
    "one more": ("expected no such weights in the file", None),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_weights_are_refused_as_a_whole(kind, saved, tmp_path):
    """Whether the first array is damaged or the last; with `skip_mismatch` only its layer is left as it is."""
    (match, change), (source, _) = DAMAGES[kind], saved
    target, path = model(), tmp_path / "a.safetensors"
    for place in range(len(source.weights)):
        arrays = {mine.path: theirs.numpy() for mine, theirs in zip(target.weights, source.weights, strict=True)}
        name = list(arrays)[place]
        if kind == "too large":
            arrays[name] = np.full(arrays[name].shape, 1e300)
        elif kind == "missing":
            del arrays[name]
        elif kind == "one more":
            arrays[f"{name}_scale"] = np.zeros(1)
        safetensors.write(path, arrays, {})
        damaged = path.read_bytes()
        if change is not None:
            header, data = parts(damaged)
            change(header[name])
            damaged = joined(header, data)
        refused(target, path, damaged, match)
    with pytest.warns(UserWarning, match="are left as they are"):
        target.load_weights(path, skip_mismatch=True)
    same(source.get_weights()[:-2], target.get_weights()[:-2])


LIES = {
    "empty": b"",
    "no header": bytes(8),
    "a length alone": (10).to_bytes(8, "little"),
    "a length beyond the file": joined({}, length=2**63),
    "a length one beyond": joined({}, length=3),
    "no JSON": joined(b"{"),
    "no object": joined([]),
    "no text": joined(b'{"\xff": 1}'),
    "deep": joined(b'{"a":' * 100_000),
    "a name twice": joined(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)),
    "no entry": joined({"a": 1}),
    "no offsets": joined({"a": {"dtype": "F32", "shape": [1]}}),
    "negative": joined({"a": entry(0, 4, [-1])}, bytes(4)),
    "true": joined({"a": entry(0, 4, [True])}, bytes(4)),
    "a fraction": joined({"a": entry(0, 4, [1.0])}, bytes(4)),
    "backwards": joined({"a": entry(4, 0, [0])}, bytes(4)),
    "many axes": joined({"a": entry(0, 4, [1] * 10**5)}, bytes(4)),
    "digits": joined(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 10**5), bytes(4)),
    "a huge shape": joined({"a": entry(0, 4, [10**6, 10**6])}, bytes(4)),
    "a huge empty one": joined({"a": entry(0, 0, [2**63, 0])}),
    "overlap": joined({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "half an overlap": joined({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "a gap": joined({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "bytes before": joined({"a": entry(4, 8)}, bytes(8)),
    "bytes behind": joined({"a": entry(0, 4)}, bytes(8)),
    "bytes missing": joined({"a": entry(0, 8)}, bytes(4)),
    "metadata": joined({"__metadata__": {"version": 1}}),
    "a later version": joined({"__metadata__": {"format": "fastmask", "version": "2"}}),
}


@pytest.mark.parametrize("kind", LIES)
def test_lies(kind, saved, tmp_path):
    """Each is refused soon, without memory for what it claims, and changes nothing."""
    start = time.perf_counter()
    tracemalloc.start()
    refused(saved[0], tmp_path / "a.safetensors", LIES[kind], "a.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 + 100 * len(LIES[kind])
    assert time.perf_counter() - start < SECONDS


def damaged_bytes(content, rng):
    """A copy that is cut, flipped, overwritten or lacks a piece, in the header three times out of four."""
    copy, kind = bytearray(content), rng.randrange(4)
    most = 8 + int.from_bytes(content[:8], "little") if rng.random() < 0.75 else len(copy)
    place = rng.randrange(most)
    if kind == 0:
        del copy[place:]
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            copy[rng.randrange(most)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        copy[place] = rng.choice([*b'0129{}[]",:- e.', 0, 127, 128, 255])
    else:
        del copy[place : place + rng.choice([1, 8, 64, 1000])]
    return bytes(copy)


def damaged_entries(content, rng):
    """A copy whose header is sound JSON and says something else."""
    header, data = parts(content)
    names = list(header)[1:]
    for _ in range(rng.choice([1, 1, 2, 5])):
        found, kind = header[rng.choice(names)], rng.choice(["dtype", "shape", "data_offsets", "swap", "name"])
        if kind == "dtype":
            found[kind] = rng.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F4", "", None, 1, [], {}])
        elif kind == "swap":
            other = header[rng.choice(names)]
            found["data_offsets"], other["data_offsets"] = other["data_offsets"], found["data_offsets"]
        elif kind == "name":
            header[rng.choice(["", "a", "\ud800", "__metadata__", rng.choice(names)])] = found
        elif found[kind]:
            change = rng.choice([-1, 1, 4, -4, 2**31, 2**63, 2**70, -(2**70), 0.5, 1e300, None, "1", True, []])
            place = rng.randrange(len(found[kind]))
            old = found[kind][place]
            found[kind][place] = old + change if type(change) is type(old) is int else change
    return joined(header, data)


@pytest.mark.parametrize("damaged", [damaged_bytes, damaged_entries])
def test_damaged_files(damaged, saved, tmp_path):
    """One error, soon, and weights as before; or the damage does not matter, or only to single numbers."""
    source, content = saved
    rng, path, count = random.Random(damaged.__name__), tmp_path / "a.safetensors", 0
    target = model()
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(content, rng))
        before, start = target.get_weights(), time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.load_weights(path)
        except FileFormatError:
            count += 1
            same(before, target.get_weights())
        assert time.perf_counter() - start < SECONDS
    assert count > MUTATIONS // 2
    path.write_bytes(content)
    target.load_weights(path)
    same(source.get_weights(), target.get_weights())


SHORT_OF_MEMORY = """
import resource, sys
import fastmask as fm
from fastmask.saving import safetensors

model = fm.Sequential([fm.Input((2,)), fm.layers.Dense(2)])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**23,) * 2)
try:
    model.load_weights(sys.argv[1])
except MemoryError:
    print("short")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory")
def test_memory_that_is_short_is_no_damage(tmp_path):
    header = {str(number): entry(0, 0) for number in range(60_000)}
    (tmp_path / "a.safetensors").write_bytes(joined(header))
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout.strip()) == (0, "short"), done.stderr


def test_weights_of_pytorch_are_told_how_they_come_in(tmp_path):
    arrays = dict.fromkeys(("0.weight", "1.weight_ih_l0"), np.zeros((9, 4)))
    safetensors.write(tmp_path / "a.safetensors", arrays, {})
    with pytest.raises(FileFormatError, match=r"got 0\.weight, 1\.weight_ih_l0; layers take .* set_torch_weights"):
        model().load_weights(tmp_path / "a.safetensors")


def test_checkpoints(tmp_path):
    source, target = model(), model()
    path = tmp_path / "{epoch}.safetensors"
    checkpoint = fm.callbacks.ModelCheckpoint(path, save_weights_only=True)
    source.fit([[1, 2, 3]], np.ones((1, 1)), epochs=2, verbose=0, callbacks=[checkpoint])
    target.load_weights(tmp_path / "2.safetensors")
    same(source.get_weights(), target.get_weights())
    with pytest.raises(ValueError, match=r"expected one that ends in \.keras"):
        fm.callbacks.ModelCheckpoint(path)


def test_without_h5py(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    source, target = model(), model()
    source.save_weights(tmp_path / "a.safetensors")
    target.load_weights(tmp_path / "a.safetensors")
    same(source.get_weights(), target.get_weights())
    with pytest.raises(ImportError, match="fastmask\\[keras\\]"):
        source.save_weights(tmp_path / "a.weights.h5")
