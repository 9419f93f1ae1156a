"""Files that are whole or refused: processes killed while saving, full disks, files that lie."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers.runs import Interrupt, compiled, environment, fit

import fastmask as fm
from fastmask.callbacks import BackupAndRestore
from fastmask.saving import FileFormatError, npz
from fastmask.saving.atomic import replacing

h5py = pytest.importorskip("h5py")

from helpers.files import save_small, weights_file  # noqa: E402

KILLS = int(os.environ.get("FASTMASK_KILLS", "40"))
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, signals and limits of POSIX")

KILLED_SAVES = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from helpers.runs import compiled
from fastmask.models import load_model

path, kills = Path(sys.argv[1]), int(sys.argv[2])
whole = path.name.endswith(".keras")
clock, models = random.Random(1), [compiled(units=20), compiled(units=20)]
models[1].set_weights([weight + 1 for weight in models[1].get_weights()])
save = [model.save if whole else model.save_weights for model in models]
reader, seen = compiled(units=20), [0, 0]
save[0](path)
start = time.perf_counter()
for i in range(4):
    save[i % 2](path)
each = (time.perf_counter() - start) / 4
for number in range(kills):
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        for i in range(10**6):
            os.write(tell, b".")
            save[(i + number) % 2](path)
    os.read(told, 1)
    for _ in range(clock.randrange(3)):
        os.read(told, 1)
    time.sleep(each * clock.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(told), os.close(tell)
    if whole:
        reader = load_model(path)
    else:
        reader.load_weights(path)
    found = [all(map(np.array_equal, reader.get_weights(), model.get_weights())) for model in models]
    assert sum(found) == 1, (number, found)
    seen[found.index(True)] += 1
print(*seen, len(list(path.parent.glob(f".{path.name}.*"))))
"""


@POSIX
@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.safetensors"])
def test_a_process_killed_while_it_saves(name, tmp_path):
    """The old file is there or the new one, whole; the kills do hit while a file is written."""
    command = [sys.executable, "-c", KILLED_SAVES, str(tmp_path / name), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    first, second, leftovers = map(int, done.stdout.split())
    assert first + second == KILLS
    assert min(first, second) > 0
    assert leftovers > KILLS // 10


FULL_DISK = """
import errno, os, resource, signal, sys
from helpers.runs import compiled
from fastmask.models import load_model
from pathlib import Path

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
small, large = compiled(units=2), compiled(units=120)
small.save(folder / "a.keras")
small.save_weights(folder / "a.weights.h5")
small.save_weights(folder / "a.safetensors")
before = {path: path.read_bytes() for path in folder.iterdir()}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
saves = {"a.keras": large.save, "a.weights.h5": large.save_weights, "a.safetensors": large.save_weights}
for name, save in saves.items():
    try:
        save(folder / name)
    except OSError as error:
        assert error.errno == (errno.EFBIG if limit else errno.ENOSPC), error
    else:
        raise SystemExit("no error")
assert {path: path.read_bytes() for path in folder.iterdir()} == before
load_model(folder / "a.keras")
large.predict([[1, 2]])
"""


@POSIX
def test_a_limit_of_the_size_of_files(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), "200000"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a file system in memory")
def test_a_full_disk(tmp_path):
    """On a file system of 256 KiB, mounted where nobody else sees it."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    script = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1" 0'
    command = [unshare, "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if "mount:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def test_an_error_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"
    model = save_small(path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def save_few_bytes(path):
    with replacing(path) as file:
        file.write(b"few")


SAVES = {
    "a.txt": save_few_bytes,
    "a.keras": lambda path: save_small(path),
    "a.weights.h5": lambda path: compiled(units=2).save_weights(path),
    "a.safetensors": lambda path: compiled(units=2).save_weights(path),
    "a.npz": lambda path: npz.write(path, {"x": np.ones(3)}),
}


@POSIX
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", SAVES)
def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(name, linked, tmp_path, monkeypatch):
    """All of the file is flushed, then it is renamed, then the folder that names it is flushed."""
    folder, events, fsync, replace = tmp_path / "folder", [], os.fsync, os.replace
    folder.mkdir()
    if linked:
        (tmp_path / name).symlink_to(folder / name)

    def note_flush(descriptor):
        found = os.fstat(descriptor)
        events.append(("flush", found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size))
        fsync(descriptor)

    def note_rename(source, target):
        events.append(("rename", os.stat(source).st_ino, os.fspath(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "replace", note_rename)
    SAVES[name]((tmp_path if linked else folder) / name)
    whole = (folder / name).stat()
    assert events == [
        ("flush", whole.st_ino, whole.st_size),
        ("rename", whole.st_ino, str(folder / name)),
        ("flush", folder.stat().st_ino, None),
    ]


@POSIX
def test_permissions_and_links(tmp_path):
    """A new file has those of any new file, a replaced one keeps its own; a link stays a link."""
    model = save_small(tmp_path / "a.keras")
    (tmp_path / "plain").touch()
    assert mode(tmp_path / "a.keras") == mode(tmp_path / "plain")
    os.chmod(tmp_path / "a.keras", 0o640)
    (tmp_path / "link.keras").symlink_to("a.keras")
    before = (tmp_path / "a.keras").stat().st_ino
    model.save(tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()
    assert mode(tmp_path / "a.keras") == 0o640
    assert (tmp_path / "a.keras").stat().st_ino != before


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


AUDITED = """
import sys
from pathlib import Path
import fastmask as fm
from helpers.runs import compiled

paths = [Path(name) for name in sys.argv[1:]]
reader = compiled(units=2)
for path in paths:  # all modules are imported, all lazy things made
    for read in (fm.models.load_model, reader.load_weights):
        try:
            read(path)
        except fm.saving.FileFormatError:
            pass
FORBIDDEN = ("exec", "pickle.find_class", "marshal.loads", "import", "os.system", "os.exec", "os.fork", "ctypes.dlopen",
             "subprocess.Popen", "socket.connect", "os.remove", "os.rename", "os.mkdir", "code.__new__")
events = []

def watch(event, arguments):
    if event in FORBIDDEN or (event == "open" and arguments[0] not in opened):
        events.append((event, str(arguments)[:200]))

opened = {name for path in paths for name in (path, str(path))}
sys.addaudithook(watch)
for path in paths:
    for read in (fm.models.load_model, reader.load_weights):
        try:
            read(path)
        except fm.saving.FileFormatError:
            pass
found = list(events)
exec("1")  # the hook is at work
assert len(events) == len(found) + 1
print(found)
"""


def test_reading_runs_no_code(tmp_path):
    """Python's audit events tell of code run, modules imported and files opened; there are none."""
    save_small(tmp_path / "good.keras", compiled=True)
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    code = "4wEAAAAAAAAAAAAAAAEAAAABAAAA8wQAAACXAHwAUwCpAE4=\n"  # how Keras stores the function of a Lambda
    wrapped = json.dumps({"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}})
    evil = {
        "lambda": (b'"class_name": "GRU"', b'"class_name": "Lambda"'),
        "module": (b'"module": "keras.layers"', b'"module": "os"'),
        "function": (b'"activation": "linear"', b'"activation": ' + wrapped.encode()),
        "loss": (b'"loss": "mse"', b'"loss": ' + wrapped.encode()),
    }
    for name, (old, new) in evil.items():
        assert old in members["config.json"], name
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content.replace(old, new) if member == "config.json" else content)
    model = weights_file(tmp_path / "a.weights.h5", lambda root: root.attrs.__setitem__("code", "import os"))
    model.save_weights(tmp_path / "a.safetensors")
    paths = map(str, sorted(tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", AUDITED, *paths], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def replace_array(root, **arguments):
    del root["layers/dense/vars/0"]
    root["layers/dense/vars"].create_dataset("0", dtype="f4", chunks=(1000, 1000), **arguments)


def claim_units(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b'"units": 2', b'"units": 500000')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_sizes_are_refused_before_memory_is_asked_for(tmp_path):
    """Headers that claim 10^12 weights."""
    save_small(tmp_path / "a.keras")
    claim_units(tmp_path / "a.keras")  # 3 * 500000^2 in the recurrent kernel of a GRU
    model = weights_file(tmp_path / "a.weights.h5", lambda root: replace_array(root, shape=(10**6, 10**6)))
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("tree.npy", header.ljust(127) + b"\n")
    reads = {
        "a.keras": fm.models.load_model,
        "a.weights.h5": model.load_weights,
        "a.npz": npz.read,
    }
    for name, read in reads.items():
        tracemalloc.start()
        with pytest.raises(FileFormatError, match=name):
            read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6, name


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """The content of a backup in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("backup")
    with pytest.raises(InterruptedError):
        fit(compiled(), [BackupAndRestore(folder, 1), Interrupt(3)])
    return (folder / "latest.npz").read_bytes()


def test_damaged_backups(backup, tmp_path):
    """Cut, flipped and overwritten ones are refused with one error, or have the same content."""
    rng, path, refused = random.Random(3), tmp_path / "latest.npz", 0
    path.write_bytes(backup)
    whole = npz.read(path)
    for number in range(1000):
        copy = bytearray(backup)
        if number % 3 == 0:
            del copy[rng.randrange(len(copy)) :]
        elif number % 3 == 1:
            for _ in range(rng.choice([1, 2, 8])):
                copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(len(copy))
            copy[start : start + 50] = rng.randbytes(rng.randrange(50))
        path.write_bytes(copy)
        try:
            same(whole, npz.read(path))
        except FileFormatError:
            refused += 1
    assert refused > 900


def same(a, b):
    """Fail unless two trees are the same."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


CHANGES = {
    "no object": lambda tree: [tree],
    "empty": lambda tree: {},
    "no weights": lambda tree: tree | {"weights": None},
    "no epoch": lambda tree: {key: value for key, value in tree.items() if key != "epoch"},
    "no random state": lambda tree: tree | {"random": {}},
    "fewer metrics": lambda tree: tree | {"metrics": []},
    "other layers": lambda tree: tree | {"layers": tree["layers"][1:]},
    "a method": lambda tree: tree | {"callbacks": [["History", {"on_epoch_end": 1}]]},
    "a position": lambda tree: tree | {"position": 3},
}


MALFORMED = "malformed|shorter than|must be in|as in the backup"


@pytest.mark.parametrize("name", CHANGES)
def test_backups_of_another_form(name, backup, tmp_path):
    (tmp_path / "latest.npz").write_bytes(backup)
    npz.write(tmp_path / "latest.npz", CHANGES[name](npz.read(tmp_path / "latest.npz")))
    with pytest.raises(ValueError, match=MALFORMED):
        fit(compiled(), [BackupAndRestore(tmp_path)])
