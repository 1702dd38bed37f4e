"""The owner's own record of what was refused, when and why; nothing of it leaves.

A refusal becomes an answer here and nowhere else (`answer`), so none is given that the owner cannot read about.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedveil.federation.instruction import one_line
from fedveil_clients import node

if TYPE_CHECKING:
    from flwr.app import Message

NAME, OLD = "refusals.log", "refusals.log.old"
_LONGEST = 2000  # characters of a reason
_LARGEST = 1 << 20  # bytes; who asks in vain all day fills no disk
_LINE = re.compile(r"(\S+) run (\S+): (.*)")


def answer(
    message: Message, words: Mapping[str, Any], run_id: str, full: str, told: str, refused: bool, client: str
) -> Message:
    """Write a refusal down for the owner, in full, and return it as the answer to a message.

    Args:
        message: what was asked.
        words: of this machine, as far as they can be read.
        run_id: the run; empty where it is not known.
        full: the reason, for the owner.
        told: what the coordinator may read of it.
        refused: the owner does not want to; else something failed.
        client: which client this is; empty where it is not known.
    """
    from flwr.app import ConfigRecord, Message, RecordDict  # the log itself is read where there is no Flower

    record(words, run_id, full)
    reason: dict[str, Any] = {
        "reason": one_line(_shown(told)), "kind": "refused" if refused else "failed", "client_id": client
    }  # fmt: skip
    return Message(RecordDict({"refusal": ConfigRecord(reason)}), reply_to=message)


def places(words: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return where a node writes, the first place first: into its vault, where there is one; beside its file of words.

    A refusal makes no vault.
    """
    found: list[Path] = []
    root, file = words.get("vault-root"), environment.get(node.FILE, "")
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # a place that no machine has may be the very reason
        if isinstance(root, str) and root and Path(root).expanduser().is_dir():
            found.append(Path(root).expanduser() / NAME)
    with contextlib.suppress(RuntimeError, ValueError, OSError):
        if file and words.get("simulated") is not True and Path(file).expanduser().is_file():
            found.append(Path(file).expanduser().with_name(NAME))
    return found


def record(words: Mapping[str, Any], run_id: str, reason: str, environment: Mapping[str, str] = os.environ) -> None:
    """Add one line to the first place that takes it; where none does, to standard error, unless it is a simulation.

    A log that cannot be written is not worth losing the answer for: a full disk may be the very reason.
    """
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = f"{at} run {run_id or '?'}: {_shown(reason[:_LONGEST]) or '?'}\n"
    for path in places(words, environment):
        try:
            append(path, line)
            return
        except OSError:
            continue
    if words.get("simulated") is not True:  # a simulation says it itself
        with contextlib.suppress(OSError, ValueError):
            print(f"fedveil: no {NAME} can be written; refused: {line}", end="", file=sys.stderr, flush=True)


def append(path: Path, line: str) -> None:
    """Add a line, or some (mode 0600); a log that has grown too large becomes `refusals.log.old` first."""
    if path.exists() and path.stat().st_size > _LARGEST:
        path.replace(path.with_name(OLD))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.write(line)


def _shown(reason: str) -> str:
    """Return a text as one line in which no sign steers a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in reason).split())


def read(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (time, run id or empty, reason) of a log's lines, the oldest first; an absent log has none."""
    for name in (path.with_name(OLD), path):
        with contextlib.suppress(OSError):
            for line in name.read_text(encoding="utf-8", errors="replace").splitlines():
                if found := _LINE.fullmatch(line):
                    yield found[1], "" if found[2] == "?" else found[2], found[3]
