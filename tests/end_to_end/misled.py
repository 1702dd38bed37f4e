"""What goes wrong on an owner's machine, for tests: its client waits in the midst of a round, or lies.

`fit` puts this file in front of a SuperNode's Python path as sitecustomize.py, so it runs in the SuperNode's own
processes alone, and no bundle has it. What is to happen stands beside the owner's file of words and is read with every
message: `mischief.json` says which lie to which kind of message ({"query": "version", "train": ["nan", "shape"]}: one a
round). While a file `hold` names a round, a client that has booked it, or a later one, writes the round and its process
to `begun` and waits before it trains.

Flower starts a Python for every message, which imports for seconds. Here a SuperNode's SuperExec has imported all of it
and forks: otherwise as real, and the tests take minutes instead of half an hour.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

NOISE = "\x1b[2J" + "lies \n" * 20_000


def fit(folder: Path) -> str:
    """Write the hook into a folder and return what a SuperNode's PYTHONPATH is to be."""
    folder.mkdir(parents=True)
    shutil.copy(__file__, folder / "sitecustomize.py")
    return str(folder)


def _hook(folder: Path) -> None:
    import numpy as np
    from flwr.app import Array, ConfigRecord

    from fedveil_clients import app, local

    honest, trained = app.OwnersApp.__call__, local.train_round

    def held(number: int) -> str:
        try:
            words = (folder / "hold").read_text()
        except FileNotFoundError:
            return ""
        return words if int(words.split()[0]) <= number else ""

    def round_of(federation: Any) -> Any:
        work = trained(federation)

        def slowly(site: Any, number: int, *others: Any) -> Any:
            (folder / "begun").write_text(f"{number} {os.getpid()}")
            words = held(number)
            while words and held(number) == words:  # a later `hold` is for a later message
                time.sleep(0.1)
            return work(site, number, *others)

        return slowly

    def lie(content: Any, what: str) -> None:
        if what in ("nan", "shape"):
            name, array = next(iter(content["update"].items()))
            value = np.full_like(array.numpy(), np.nan) if what == "nan" else array.numpy()[None]
            content["update"][name] = Array(value)
        elif what == "elsewhere":
            content["reply"] = ConfigRecord({**content["reply"], "run_id": "another", "round": 7})
        elif what == "vault":
            content["reply"] = ConfigRecord({**content["reply"], "vault": "f" * 32})
        elif what == "noise":
            content.clear()
            content["refusal"] = ConfigRecord({"reason": NOISE, "kind": NOISE, "client_id": "c0004"})
        elif what == "version":
            content["client"] = ConfigRecord({**content["client"], "version": "0.0.1"})
        elif what == "another":
            content["client"] = ConfigRecord({**content["client"], "client_id": "c0003"})
        elif what == "raise":
            raise RuntimeError("the owner's machine is out of order")

    def call(self: Any, message: Any, context: Any) -> Any:
        reply, file = honest(self, message, context), folder / "mischief.json"
        kind = message.metadata.message_type
        what = json.loads(file.read_text()).get(kind, "") if file.exists() else ""
        if kind == "train" and isinstance(what, list):
            what = [*what, *[""] * 9][int(message.metadata.group_id) - 1]
        lie(reply.content, what)
        return reply

    local.train_round = round_of
    app.OwnersApp.__call__ = call  # type: ignore[method-assign]


def _warm() -> None:
    import types

    import flwr.supernode.runtime.run_clientapp  # noqa: F401  # what a client imports
    from flwr.supercore.superexec.executor import subprocess_executor

    from fedveil_clients import task

    def fork(words: list[str], **_: Any) -> None:
        if os.fork():
            return
        status = 1
        try:
            status = task.main(words)
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            os._exit(status)

    subprocess_executor.subprocess = types.SimpleNamespace(Popen=fork)  # type: ignore[assignment]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a client


if __name__ == "sitecustomize" and Path(sys.argv[0]).name == "flower-superexec":
    _hook(Path(os.environ["FEDVEIL_NODE"]).parent)
    _warm()
