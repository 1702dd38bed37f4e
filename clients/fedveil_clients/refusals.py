"""The owner's own record of what was refused, when and why; nothing of it leaves."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil_clients import node

NAME = "refusals.log"
_LONGEST = 2000  # characters of a reason
_LARGEST = 1 << 20  # bytes; who asks in vain all day fills no disk


def log_of(words: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return where a node writes: into its vault, or, where there is none yet, beside its file of words; else nowhere.

    A refusal makes no vault.
    """
    root, file = words.get("vault-root"), environment.get(node.FILE, "")
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # a place that no machine has may be the very reason
        if isinstance(root, str) and root and Path(root).expanduser().is_dir():
            return Path(root).expanduser() / NAME
    with contextlib.suppress(RuntimeError, ValueError, OSError):
        if file and words.get("simulated") is not True and Path(file).expanduser().is_file():
            return Path(file).expanduser().with_name(NAME)
    return None


def record(path: Path | None, run_id: str, reason: str) -> None:
    """Append a line (mode 0600); a log that has grown too large becomes `refusals.log.old` first.

    A log that cannot be written is not worth losing the answer for.
    """
    if path is None:
        return
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = f"{at} run {run_id or '?'}: {' '.join(reason[:_LONGEST].split())}\n"
    try:
        if path.exists() and path.stat().st_size > _LARGEST:
            path.replace(path.with_name(f"{NAME}.old"))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(line)
    except OSError:
        return
