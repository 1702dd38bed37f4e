"""Text files of whole numbers, so many a line, by the million: read in pieces, every line checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import files

_PIECE = 1 << 24  # bytes read at a time
_DIGITS = 18  # of a number; more would not fit 63 bits
_LINE, _BLANK = (0x0A,), (0x09, 0x20, 0x0D)


def read_numbers(path: Path, expected: str) -> NDArray[np.int64]:
    """Return (N, K) the numbers of a file with K decimal numbers from 0 in each line, tabs or blanks between them.

    `expected` names them, such as `KEY OFFSET`, and so says how many there are.

    Raises:
        fedveil.checks.UserError: naming the file, the line and what was `expected`.
    """
    parts, lines, rest = [np.empty((0, len(expected.split())), np.int64)], 0, b""
    try:
        with files.opened(path) as stream:
            while piece := stream.read(_PIECE):
                whole, cut, rest = (rest + piece).rpartition(b"\n")
                parts.append(_numbers(path, whole + cut, lines, expected))
                lines += len(parts[-1])
                if len(rest) > 1000:
                    raise _refusal(path, lines + 1, expected, rest)
    except OSError as error:
        raise checks.UserError(f"{path} is {files.reason(error)}; copy it there again.") from error
    if rest.strip():
        parts.append(_numbers(path, rest + b"\n", lines, expected))
    return np.concatenate(parts)


def _numbers(path: Path, text: bytes, before: int, expected: str) -> NDArray[np.int64]:
    columns = len(expected.split())
    if not text:
        return np.empty((0, columns), np.int64)
    signs = np.frombuffer(text, np.uint8)
    digit, ends = (signs >= 0x30) & (signs <= 0x39), np.flatnonzero(np.isin(signs, _LINE))
    inside = np.concatenate([[False], digit])
    begins, stops = np.flatnonzero(digit & ~inside[:-1]), np.flatnonzero(inside[:-1] & ~digit)
    strange = np.flatnonzero(~digit & ~np.isin(signs, _LINE + _BLANK))
    long = begins[stops - begins > _DIGITS]
    counts = np.diff(np.searchsorted(begins, ends), prepend=0)
    bad = [
        *np.searchsorted(ends, strange[:1]),
        *np.searchsorted(ends, long[:1]),
        *np.flatnonzero(counts != columns)[:1],
    ]
    if bad:
        line = min(bad)
        start = ends[line - 1] + 1 if line else 0
        raise _refusal(path, before + int(line) + 1, expected, text[start : ends[line]])
    return np.fromstring(text.decode("ascii"), np.int64, sep=" ").reshape(-1, columns)


def _refusal(path: Path, line: int, expected: str, got: bytes) -> checks.UserError:
    shown = got[:60].decode("utf-8", "replace")
    return checks.UserError(
        f"{path}, line {line}: expected {expected}, two whole numbers, got {shown!a}; copy it again."
    )
