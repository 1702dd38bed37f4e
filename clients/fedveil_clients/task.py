"""The process of one message at an owner's node: Flower's own, with the ClientApp that is installed here.

Flower's SuperNode starts a process for every message, which unpacks the app bundle that the coordinator has sent, puts
it first on Python's path and imports the ClientApp that the bundle names: whoever sends bundles would choose what runs
beside the owner's faces. `fedveil node start` has it start this instead. Nothing of a bundle is unpacked, imported or
installed, and one that holds more than `fedveil bundle` writes is refused.

PyTorch and the app are imported once Flower's process says that it lives: Flower gives it half a minute for that and
then starts another one, and on a slow machine importing alone takes longer.
"""

from __future__ import annotations

import contextlib
import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CLIENT = "flwr-clientapp"
"""Flower's command for a message that a ClientApp answers."""
_WRITTEN = ("pyproject.toml", ".info/CONTENT")  # what `fedveil bundle` and `flwr build` write
_REPLACED = ("install_from_fab", "install_app_dependencies", "get_load_client_app_fn")


class Refused(RuntimeError):
    """What arrived is not started; the message says why, and may be sent back."""


def main(words: Sequence[str] | None = None) -> int:
    """Answer one message; the first word is Flower's command, the others are its options."""
    command, *options = sys.argv[1:] if words is None else words
    if command != CLIENT:
        _write_down(f"the coordinator asked for {command}, code of its own choice; only {CLIENT} is started")
        return 1
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    pinned(run_clientapp)
    sys.argv = [CLIENT, *options]
    flwr_clientapp()
    return 0


def pinned(module: Any) -> None:
    """Let a module that is Flower's process of one message start what is installed here, whatever it is handed.

    Raises:
        RuntimeError: another version of Flower, whose process is made of other parts.
    """
    missing = [name for name in _REPLACED if not callable(getattr(module, name, None))]
    if missing:
        raise RuntimeError(f"This Flower has no {missing[0]}: fedveil cannot keep a bundle's code out of it.")
    module.install_from_fab = looked_through
    module.install_app_dependencies = _not_installed
    module.get_load_client_app_fn = _of_this_machine


def looked_through(bundle: bytes | Path, *_: Any, **__: Any) -> None:
    """Write nothing, and refuse a bundle with more than a configuration in it.

    Raises:
        Refused: naming what is in it; the owner's log has it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(bundle) if isinstance(bundle, bytes) else bundle) as archive:
            names = archive.namelist()
    except Exception as error:  # whatever is wrong with it, its owner reads that it came
        raise _refusal("the app bundle cannot be read") from error
    odd = sorted(set(names) - set(_WRITTEN))
    if odd:
        raise _refusal(
            f"the app bundle holds {odd[0][:80]!r} and {len(odd) - 1} other files that `fedveil bundle` does not "
            "write; none of it was unpacked"
        )


def _not_installed(*_: Any, **__: Any) -> None:
    raise _refusal("the coordinator's app asks for packages to be installed")


def _of_this_machine(*_: Any, **__: Any) -> Callable[[str, str, str], Any]:
    """Return what loads the app: the installed one, whichever a bundle names."""

    def load(name: str, version: str, digest: str) -> Any:
        try:
            from fedveil_clients.app import app
        except Exception as error:  # it may speak of this machine, so its owner alone reads it
            _write_down(f"this node's own app cannot be loaded: {type(error).__name__}: {error}")
            raise Refused("this node's app cannot be loaded; its owner's log says why") from None
        return app

    return load


def _refusal(reason: str) -> Refused:
    _write_down(reason)
    return Refused(reason)


def _write_down(reason: str) -> None:
    from fedveil_clients import node, refusals

    words: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # it may be unreadable, and the refusal stands all the same
        words = node.words_of({})
    refusals.record(words, "", reason)


if __name__ == "__main__":
    sys.exit(main())
