"""Small archives that would unpack to something large."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from fastmask.saving import FileFormatError, npz

h5py = pytest.importorskip("h5py")

from helpers.files import save_small  # noqa: E402

SIZE = 1 << 24
METHODS = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


def npy(array):
    """The content of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_size_of(path, member, size):
    """Let the directory of an archive claim another size of a member, whose bytes stay."""
    with zipfile.ZipFile(path) as archive:
        claimed, start = archive.getinfo(member).file_size, archive.start_dir
    content = bytearray(path.read_bytes())
    entry = content.index(member.encode(), start) - 46  # the name stands behind the 46 bytes of its entry
    assert content[entry + 24 : entry + 28] == claimed.to_bytes(4, "little")
    content[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(content)


def bomb(path, method, member, size):
    """Make a file with a large member, compressed, that claims a size; return what reads it."""
    if path.suffix == ".npz":
        read, members = npz.read, {"tree.npy": npy(np.frombuffer(b"{}", np.uint8))}
    else:
        read, members = save_small(path).load_weights, {}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (members | {member: npy(np.zeros(SIZE, np.uint8))}).items():
            archive.writestr(name, content)
    if size is not None:
        with_size_of(path, member, size)
    return read


@pytest.mark.parametrize("size", [None, 100, 0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "member"), [("a.npz", "a.npy"), ("a.keras", "model.weights.h5")])
def test_a_bomb_is_not_unpacked(name, member, method, size, tmp_path):
    """Whether it tells its size, another or none."""
    read = bomb(tmp_path / name, METHODS[method], member, size)
    tracemalloc.start()
    with pytest.raises(FileFormatError, match=name):
        read(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SIZE // 4


def test_a_backup_holds_no_more_than_its_file_has_bytes(tmp_path):
    path = tmp_path / "latest.npz"
    npz.write(path, {"x": np.zeros(1 << 16)})
    whole = npz.read(path)
    np.savez_compressed(path, tree=np.frombuffer(b'{"x": {"__array__": "array_0"}}', np.uint8), array_0=whole["x"])
    with pytest.raises(FileFormatError, match=f"claim more than the {path.stat().st_size} bytes"):
        npz.read(path)


def test_members_that_lie_in_one_place_are_not_unpacked(tmp_path):
    """A thousand entries of the directory for the same bytes."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tree.npy", bytes(1 << 17))
        first = archive.getinfo("tree.npy")
        for number in range(1000):
            entry = zipfile.ZipInfo(f"array_{number}.npy")
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(entry, name, getattr(first, name))
            archive.filelist.append(entry)
    with pytest.raises(FileFormatError, match=f"claim more than the {path.stat().st_size} bytes"):
        npz.read(path)


@pytest.mark.parametrize("method", ["bzip2", "lzma"])
def test_only_what_is_stored_or_deflated_is_unpacked(method, tmp_path):
    read = bomb(tmp_path / "a.npz", METHODS[method], "a.npy", 100)
    with pytest.raises(FileFormatError, match=f"expected it stored or deflated, got compression {METHODS[method]}"):
        read(tmp_path / "a.npz")


def test_a_member_has_no_fewer_bytes_than_it_claims(tmp_path):
    path = tmp_path / "a.keras"
    model = save_small(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    model.load_weights(path)
    size = len(members["model.weights.h5"])
    with_size_of(path, "model.weights.h5", size + 1)
    with pytest.raises(FileFormatError, match=f"expected {size + 1} bytes, got {size}"):
        model.load_weights(path)
