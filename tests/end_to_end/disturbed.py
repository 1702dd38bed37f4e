"""A deployment that can be disturbed, for tests: links that are cut, full disks, clients that are held or lie."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import misled
import pytest
from breakable_links import Link
from daemons import until
from deployed import Deployment

from fedveil.privacy.ledger import Ledger

ROUNDS = 3
ROOM = 20_000  # kibibytes of a small disk
PATIENCE = 600.0  # seconds until a test that waits for something gives up


class Chaos(Deployment):
    """A deployment whose links can be cut, and whose owners' clients can be held in the midst of a round, and lie."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [f"train.rounds={ROUNDS}"], owners=4)
        self.links = {name: Link(self.port) for name in self.owners}
        self.path = misled.fit(self.root / "misled")
        self.disks = (self.folder("c0001") / "vault", self.runs)
        self.kept: dict[str, dict[str, bytes]] = {}  # every owner's noisy copies
        self.late = 300.0  # seconds that a round may take; `full` measures what one takes here

    def prepare(self) -> None:
        """Make what is made once, and small disks for c0001's vault and the coordinator's runs."""
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        super().prepare()
        for folder in self.disks:
            folder.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}k,mode=700", "tmpfs", str(folder)]
            if subprocess.run(words, capture_output=True).returncode:
                pytest.skip("may not mount a small file system here")

    def environment(self, part: str, **more: str) -> dict[str, str]:
        """Return a part's environment; an owner's has the hook."""
        return super().environment(part, **more, **({"PYTHONPATH": self.path} if part in self.owners else {}))

    def start(self, name: str, wait: bool = True) -> int:
        """Start a SuperNode, on its own link."""
        own, self.port = self.port, self.links[name].port
        try:
            return super().start(name, wait)
        finally:
            self.port = own

    def close(self) -> None:
        """End everything."""
        try:
            super().close()
        finally:
            for link in self.links.values():
                link.close()
            for folder in self.disks:
                subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)

    def go(self, name: str, seconds: float | None = None) -> str:
        """Submit a run; a round of it takes `seconds` at most."""
        return self.submit(name, run_config=f"round-timeout={seconds or self.late}")

    def folder(self, name: str) -> Path:
        """Return an owner's folder."""
        return self.owners[name].folder

    def mischief(self, name: str, **what: Any) -> None:
        """Say how an owner's client lies from now on."""
        (self.folder(name) / "mischief.json").write_text(json.dumps(what))

    def hold(self, number: int, *names: str) -> None:
        """Hold clients in the midst of a round, and let those go on that are held already."""
        for name in names:
            (self.folder(name) / "begun").unlink(missing_ok=True)
            (self.folder(name) / "new").write_text(f"{number} {time.monotonic_ns()}")
            (self.folder(name) / "new").replace(self.folder(name) / "hold")

    def release(self, *names: str) -> None:
        """Let clients go on."""
        for name in names:
            (self.folder(name) / "hold").unlink(missing_ok=True)

    def held(self, number: int, *names: str) -> None:
        """Wait until clients are in the midst of a round."""
        for name in names:
            begun = self.folder(name) / "begun"
            until(lambda begun=begun: begun.exists() and begun.read_text().startswith(f"{number} "), PATIENCE, name)

    def wait(self, run: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Return what Flower says of a run once it has ended; asked once, for every question is a process."""
        log, ended = self.home / "superlink.log", re.compile(rf"Finished task \d+ of run {run}\b")
        until(lambda: ended.search(log.read_text()), seconds, f"run {run}")
        return super().wait(run, PATIENCE)

    def online(self) -> int:
        """Return how many nodes the SuperLink takes for connected."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'superlink.db'}?mode=ro", uri=True)) as state:
            found = state.execute(
                "SELECT COUNT(*) FROM node WHERE status = 'online' AND online_until > ?", [time.time()]
            )
            return int(found.fetchone()[0])

    def asked(self, name: str) -> int:
        """Return how many roll calls an owner's node has answered."""
        return len(re.findall(r"Sending: query(?:.*\n){1,3}?.*Sent successfully", self.owners[name].log))

    def refused(self, name: str) -> str:
        """Return what an owner can read of refusals: in its vault, beside its words, or in its SuperNode's log."""
        files = (self.folder(name) / "vault" / "refusals.log", self.folder(name) / "refusals.log")
        return "".join(file.read_text() for file in files if file.exists())

    def spent(self, name: str) -> list[tuple[str, str]]:
        """Return (run, status) of the rows in an owner's ledger."""
        rows = Ledger(self.folder(name) / "vault" / "ledger.sqlite", private=True).rows()
        return [(row.run_id, row.status) for row in rows]

    def copies(self, name: str) -> dict[str, bytes]:
        """Return an owner's noisy copies."""
        return {file.name: file.read_bytes() for file in (self.folder(name) / "vault" / "copies").iterdir()}


def resized(folder: Path, kibibytes: int) -> None:
    """Give a small file system another size."""
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(folder)], check=True)


def filled(folder: Path) -> None:
    """Leave a small file system no room."""
    found = os.statvfs(folder)
    resized(folder, (found.f_blocks - found.f_bfree) * found.f_frsize // 1024)
