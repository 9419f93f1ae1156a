"""Members of ZIP archives, of which no more is unpacked than they claim."""

from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from fastmask.core.errors import FileFormatError

# zipfile unpacks a piece of any other kind as a whole: 200 bytes of bzip2 are enough for 256 MiB.
_BOUNDED = ZIP_STORED, ZIP_DEFLATED


def content_of(archive: ZipFile, info: ZipInfo, limit: int) -> bytes:
    """Return the content of a member.

    Raises
    ------
    FileFormatError
        If it claims more than `limit` bytes, which is seen before anything is read, or has fewer than it claims, or
        is neither stored nor deflated.
    BadZipFile
        If it is another content than the archive's directory describes.
    """
    if info.file_size > limit:
        raise FileFormatError(f"{info.filename}: expected at most {limit} bytes, got a claim of {info.file_size}")
    if info.compress_type not in _BOUNDED:
        raise FileFormatError(f"{info.filename}: expected it stored or deflated, got compression {info.compress_type}")
    with archive.open(info) as member:
        content = member.read(info.file_size)
    if len(content) != info.file_size:
        raise FileFormatError(f"{info.filename}: expected {info.file_size} bytes, got {len(content)}")
    return content
