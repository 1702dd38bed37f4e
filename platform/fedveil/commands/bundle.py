"""Write a thin Flower app folder for `flwr run`.

Every machine installs the wheel; the folder names its two apps and carries what is to be computed as one string,
without any code and without anything of this machine: where runs, data and vaults are is said where they are.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import fedveil
from fedveil import checks, config, console, engine
from fedveil.configuration import places
from fedveil.configuration.schema import Config
from fedveil.federation import coordinating, instruction, planning, registered
from fedveil.federation.federation import Federation
from fedveil.storage import addresses, disk

EXAMPLES = """examples:
  fedveil bundle app/ study=quick
  fedveil bundle app/ data=folder data.evaluation=procedural \\
      --nodes nodes.toml
  flwr run app/ --stream \\
      --federation-config 'num-supernodes=10 client-resources-num-cpus=1'
"""

_PYPROJECT = """\
# Written by `fedveil bundle`; needs fedveil {version} on the coordinator's machine and on every node.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedveil-run"
version = "{version}"
description = "One fedveil configuration for flwr run."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedveil"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
config = {config}
own-settings = "{own}"     # left out here, to be said by the coordinator's machine ({variable})
nodes = {nodes}            # client ids and the registered nodes that may claim them; empty: nobody checks
round-timeout = {seconds}  # seconds that a client may take in a round
run-id = ""                # empty: a new run; an id goes on with that run
progress = "plain"
"""

_NEXT = """\
Install fedveil {version} on the coordinator's machine and on every node. Nothing of
this machine is in the folder; each machine says for itself:
  coordinator   {own}={words}
                ({faces})
  owner's node  `fedveil node start node.toml`, which runs no code of a bundle;
                client-id, data-root, identity-bank, vault-root, floor,
                max-epsilon. `fedveil node check node.toml --config {folder}`
                tells what it would say to this run
  simulated     {file}=node.toml with vault-root = "..." and
                simulated = true, for `flwr run` without nodes of its own
`flwr run {folder}` starts the run."""


def bundle(settings: Config, folder: Path, nodes: Mapping[str, str] | None = None) -> Path:
    """Write the app folder and return its pyproject.toml.

    Args:
        settings: of the run; what says where something is stays here.
        folder: a new folder.
        nodes: client -> registered node (see `federation.registered`).

    Raises:
        fedveil.checks.UserError: the folder holds something else, which Flower would ship to every node; or a client
            that the registry does not have.
    """
    written = folder / "pyproject.toml"
    others = sorted(path.name for path in folder.iterdir() if path != written) if folder.is_dir() else []
    if others:
        raise checks.UserError(f"{folder} holds {others[:3]}, which Flower would send to every node; use a new folder.")
    planned = Federation(planning.planned(settings))
    unknown = [client for client in nodes or {} if client not in planned.registry]
    if unknown:
        raise checks.UserError(f"Client {unknown[0]!r} of --nodes is not in the registry of {len(planned.registry)}.")
    text = _PYPROJECT.format(
        version=fedveil.__version__,
        server=engine.SERVER_APP,
        client=engine.CLIENT_APP,
        config=json.dumps(instruction.to_wire(planned.settings)),
        own=" ".join(coordinating.left_out(planned.settings)),
        variable=instruction.COORDINATOR_WORDS,
        nodes=json.dumps(registered.to_text(nodes or {})),
        seconds=planned.settings.engine.round_timeout,
    )
    disk.write_atomic(written, text.encode())
    return written


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. study=quick")
    parser.add_argument(
        "--nodes", type=Path, metavar="FILE", help="TOML: client id = node id or registered public key, for each client"
    )


def run(chosen: argparse.Namespace) -> int:
    """Write the folder and say how to start the run."""
    settings = config.load(chosen.words)
    nodes = None if chosen.nodes is None else registered.read(chosen.nodes)
    console.tell(f"{bundle(settings, chosen.folder, nodes)} for {settings.train.clients} clients")
    words = shlex.quote(shlex.join(_own(chosen.words, settings)) or "runs.root=runs")
    file, variable = instruction.NODE_FILE, instruction.COORDINATOR_WORDS
    more = _NEXT.format(
        version=fedveil.__version__, own=variable, words=words, file=file, folder=chosen.folder, faces=_faces(settings)
    )
    print(addresses.redacted(more))
    if addresses.MARK in (settings.tracking.uri or ""):
        console.tell("The secret of tracking.uri stays out: where the coordinator runs, set MLFLOW_TRACKING_URI.")
    return 0


def _own(words: Sequence[str], settings: Config) -> list[str]:
    """Return the words for the coordinator's machine: what was not written into the folder and it reads."""
    own, needed = instruction.own_keys(settings.data.name), coordinating.left_out(settings)
    unread = {f"data.{places.of_source(settings.data.name)}"} - {*needed}
    said = [word for word in words if instruction.is_own(word, own) and word.partition("=")[0] not in unread]
    there = {word.partition("=")[0] for word in said}
    return [*said, *(f"{key}=PLACE" for key in needed if key not in there)]


def _faces(settings: Config) -> str:
    """Return which faces a coordinator opens."""
    if coordinating.needed(settings):
        return "with its own public faces alone; it opens nobody who trains"
    if settings.evaluation.pairs is not None:
        return "with the file of pairs alone; it opens nobody who trains"
    return "it needs no faces: what it evaluates on is drawn"
