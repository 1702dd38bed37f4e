"""What the tests that kill processes ask of Linux's /proc."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `daemons` and `deployed`, which several tests share


def _fields(stat: Path) -> list[str]:
    """Return a process's state, its parent, and so on."""
    return stat.read_text().rpartition(")")[2].split()


@pytest.fixture(scope="session")
def children() -> Callable[[int], set[int]]:
    """Return the ids of a process's children that have not ended."""

    def found(pid: int) -> set[int]:
        those = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, parent, *_ = _fields(stat)
                if int(parent) == pid and state != "Z":
                    those.add(int(stat.parent.name))
        return those

    return found


@pytest.fixture(scope="session")
def alive() -> Callable[[int], bool]:
    """Tell whether a process has not ended; one that nobody has waited for has."""

    def found(pid: int) -> bool:
        try:
            return _fields(Path(f"/proc/{pid}/stat"))[0] != "Z"
        except OSError:
            return False

    return found
