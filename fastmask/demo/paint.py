"""Source lines in the colours of the kinds of their characters, or with letters below."""

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import IO

from fastmask.demo.corpus import KINDS

_COLOURS = {
    "space": 0, "keyword": 35, "name": 0, "operator": 36, "number": 33, "string": 32, "comment": 90,
}  # fmt: skip
_LETTERS = {
    "space": " ", "keyword": "k", "name": "n", "operator": "o", "number": "0", "string": "s",
    "comment": "c",
}  # fmt: skip


def wants_colour(stream: IO[str]) -> bool:
    """Return whether to write colours: to terminals, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def paint(lines: Iterable[str], kinds: Iterable[Sequence[int]], colour: bool) -> list[str]:
    """Return lines of text that show the kinds of all characters.

    Parameters
    ----------
    lines : iterable of str
    kinds : iterable of sequence of int
        Index in `KINDS` of every character.
    colour : bool
        Whether to write ANSI colours; otherwise a line of letters follows each line.
    """
    shown: list[str] = []
    for line, found in zip(lines, kinds, strict=True):
        names = [KINDS[kind] for kind in found]
        if colour:
            shown.append(_coloured(line, names))
        else:
            shown += [line, "".join(_LETTERS[name] for name in names).rstrip()]
    return shown


def legend(colour: bool) -> str:
    """Return a line that explains the colours or letters."""
    kinds = [kind for kind in KINDS if kind != "space"]
    if colour:
        return "  ".join(_coloured(kind, [kind] * len(kind)) for kind in kinds)
    return "  ".join(f"{_LETTERS[kind]} {kind}" for kind in kinds)


def _coloured(line: str, names: Sequence[str]) -> str:
    text = ""
    for name, run in groupby(zip(names, line, strict=True), key=lambda pair: pair[0]):
        part = "".join(character for _, character in run)
        text += f"\x1b[{_COLOURS[name]}m{part}\x1b[0m" if _COLOURS[name] else part
    return text
