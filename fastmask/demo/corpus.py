"""Python's own standard library as training data: every character of every line with its kind."""

import io
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from token import tok_name

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

KINDS = ("space", "keyword", "name", "operator", "number", "string", "comment")
VOCABULARY = 130  # 0 is padding, 1 to 128 are ASCII, 129 is everything else
_TOKEN_KINDS = {"NUMBER": "number", "COMMENT": "comment", "OP": "operator", "STRING": "string"}


@dataclass(frozen=True)
class SourceFile:
    """A file, line by line.

    Attributes
    ----------
    name : str
    lines : list of str
        Without their ends; empty lines are left out.
    kinds : list of ndarray of int, shape (len(line),)
        Index in `KINDS` of every character.
    """

    name: str
    lines: list[str]
    kinds: list[Ids]

    @property
    def characters(self) -> int:
        """Number of characters."""
        return sum(map(len, self.lines))


def encode(line: str) -> Ids:
    """Return the ids of the characters of a line."""
    codes = np.frombuffer(line.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    return np.minimum(codes, VOCABULARY - 2) + 1


def label(text: str) -> list[Ids]:
    """Return the kind of every character of every line of a Python source text.

    Raises
    ------
    SyntaxError, tokenize.TokenError
        If it is no Python.
    """
    lines = text.split("\n")
    kinds = [np.zeros(len(line), dtype=np.int64) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = _kind(token)
        if kind is None:
            continue
        (first, start), (last, end) = token.start, token.end
        for row in range(first, min(last, len(lines)) + 1):
            left, right = start if row == first else 0, end if row == last else None
            kinds[row - 1][left:right] = KINDS.index(kind)
    return kinds


def read(path: Path) -> SourceFile | None:
    """Return a labelled file, or None if it cannot be decoded or tokenized."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        kinds = label(text)
    except (OSError, SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return None
    pairs = [pair for pair in zip(text.split("\n"), kinds, strict=True) if pair[0]]
    return SourceFile(path.name, [line for line, _ in pairs], [kind for _, kind in pairs])


def load(characters: int, held_out: int, seed: int) -> tuple[list[SourceFile], list[SourceFile]]:
    """Return files to train on and files to test on.

    Parameters
    ----------
    characters : int
        Stop when the training files have as many.
    held_out : int
        The same for the test files.
    seed : int
        Decides on the files.

    Raises
    ------
    FileNotFoundError
        If Python came without the sources of its library.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(folder.glob("*.py"))
    random.Random(seed).shuffle(paths)
    files = (file for file in map(read, paths) if file is not None and file.lines)
    test = _take(files, held_out)
    train = _take(files, characters)
    if not train:
        raise FileNotFoundError(f"found too few Python sources in {folder} for the demo")
    return train, test


def _take(files: Iterator[SourceFile], characters: int) -> list[SourceFile]:
    taken: list[SourceFile] = []
    while sum(file.characters for file in taken) < characters:
        file = next(files, None)
        if file is None:
            break
        taken.append(file)
    return taken


def _kind(token: tokenize.TokenInfo) -> str | None:
    name = tok_name[token.type]
    if name == "NAME":
        return "keyword" if iskeyword(token.string) else "name"
    # Since Python 3.12 the text of an f-string is a token between the tokens of its quotes.
    return "string" if name.startswith(("FSTRING", "TSTRING")) else _TOKEN_KINDS.get(name)
