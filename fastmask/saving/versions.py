"""What versions of Keras do to masks, by the version that a file names."""

import re


def mask_mode(version: str) -> str:
    """Return how merging layers join masks, as their argument `mask_mode` says it."""
    release = _release(version)
    return "and" if release < (3,) else "drop" if release < (3, 4) else "or"


def repeats_both_ways(version: str) -> bool:
    """Return whether both halves of a `Bidirectional` show at a masked step what they showed at the one before."""
    return _release(version) < ((2, 2, 4) if _is_tensorflow(version) else (3,))


def unmasking(version: str) -> tuple[str, ...]:
    """Return the layers that let a mask go without a word.

    Those of Keras 1 and 2 raised an error, and Keras 3 warns.
    """
    if not _is_tensorflow(version):
        return ()
    averaging = ("GlobalAveragePooling1D",) if _release(version) < (2, 2, 4) else ()
    return ("Flatten", "Reshape", "GlobalMaxPooling1D", *averaging)


def _is_tensorflow(version: str) -> bool:
    """Return whether it is a Keras 2 within TensorFlow, as all since 2.4 are."""
    return (2, 4) <= _release(version) < (3,) or "-tf" in version


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
