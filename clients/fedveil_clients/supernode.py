"""Flower's SuperNode, started so that it runs the client app of this machine's wheel and nothing that arrives.

    python -P -m fedveil_clients.supernode --superlink ...      # the flags of flower-supernode

A run brings a bundle, and a SuperNode puts its folder first on Python's path and loads what it names: whoever sends one
runs code at the owner, before any limit is asked. Flower starts its tasks by name (`flwr-clientapp` and others), so a
folder that comes first on the search path decides what these are. There `flwr-clientapp` is Flower's, but it unpacks no
bundle, installs nothing and loads the installed client app. The other tasks, which no node needs, end at once.

A SuperNode gives a process 30 s to show that it lives, then starts another. So nothing heavy is imported before that.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.cli import flower_supernode, flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from fedveil import checks
from fedveil.storage import disk

TASK = "--as-flwr-clientapp"
_REFUSED = "#!/bin/sh\necho 'refused: this node runs the client app of fedveil and no other task' >&2\nexit 1\n"
_FOREIGN = ("install_from_fab", "get_project_dir", "install_app_dependencies", "get_load_client_app_fn")
"""What Flower's client process calls to unpack, install and load a bundle."""


def guard(folder: Path) -> Path:
    """Write the programs that a SuperNode may start, and return their folder.

    Args:
        folder: of the owner's own; written anew, closed to others.
    """
    own = shlex.join([sys.executable, "-P", "-m", "fedveil_clients.supernode", TASK])
    for task, name in TASK_TYPE_TO_COMMAND.items():
        text = f'#!/bin/sh\nexec {own} "$@"\n' if task == TaskType.CLIENT_APP else _REFUSED
        disk.write_atomic(folder / name, text.encode())
        (folder / name).chmod(0o700)
    return folder


def own_app_alone() -> None:
    """Have this process unpack and install no bundle, and load the client app of the wheel.

    Raises:
        fedveil.checks.UserError: Flower's client process is another one than this was written for.
    """
    missing = [name for name in _FOREIGN if not callable(getattr(run_clientapp, name, None))]
    if missing:
        raise checks.UserError(
            f"Flower's client process has no {missing[0]}, so nothing can be kept from it; install the version of flwr "
            "that fedveil names."
        )
    for name, instead in zip(_FOREIGN, (_nothing, _nowhere, _no_install, _own), strict=True):
        setattr(run_clientapp, name, instead)


def _nothing(*_: object, **__: object) -> None:
    """Unpack nothing."""


def _nowhere(*_: object) -> Path:
    return Path(os.devnull)


def _no_install(*_: object, **__: object) -> None:
    raise checks.UserError("A node installs nothing that a bundle names; leave out the flag that allows it.")


def _own(*_: object, **__: object) -> Callable[..., Any]:
    def load(*_: object) -> Any:
        from fedveil import engine  # PyTorch comes with it

        return engine.load(engine.CLIENT_APP)

    return load


def main(words: list[str]) -> None:
    """Be a SuperNode, or the process of one message that it starts."""
    if words[:1] == [TASK]:
        del sys.argv[1]
        own_app_alone()
        flwr_clientapp()
        return
    os.environ["PATH"] = os.pathsep.join([str(guard(get_flwr_home().absolute() / "guard")), os.environ.get("PATH", "")])
    flower_supernode()


if __name__ == "__main__":
    main(sys.argv[1:])
