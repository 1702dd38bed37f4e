"""Write a thin Flower app folder for `flwr run`.

Every machine installs the wheel; the folder names its two apps and carries the configuration as one string, without
any code. Flower bundles whole folders, so this one is kept apart from the project's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import fedveil
from fedveil import addresses, checks, config, console, disk, engine
from fedveil.configuration.schema import Config, Root
from fedveil.federation import planning
from fedveil.federation.federation import Federation

EXAMPLES = """examples:
  fedveil bundle app/ study=quick
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
run-id = ""          # empty: a new run; an id goes on with that run
progress = "plain"
"""


def bundle(settings: Config, folder: Path) -> Path:
    """Write the app folder and return its pyproject.toml.

    Run store and vault become absolute, because Flower starts the apps in folders of its own.

    Raises:
        fedveil.checks.UserError: the folder holds something else, which Flower would ship to every node.
    """
    written = folder / "pyproject.toml"
    others = sorted(path.name for path in folder.iterdir() if path != written) if folder.is_dir() else []
    if others:
        raise checks.UserError(f"{folder} holds {others[:3]}, which Flower would send to every node; use a new folder.")
    planned = Federation(planning.planned(settings)).settings
    here = dataclasses.replace(
        planned,
        runs=Root(str(Path(settings.runs.root).resolve())),
        vault=Root(str(Path(settings.vault.root).resolve())),
    )
    text = _PYPROJECT.format(
        version=fedveil.__version__,
        server=engine.SERVER_APP,
        client=engine.CLIENT_APP,
        config=json.dumps(config.to_json(here)),
    )
    disk.write_atomic(written, text.encode())
    return written


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. study=quick")


def run(chosen: argparse.Namespace) -> int:
    """Write the folder and say how to start the run."""
    settings = config.load(chosen.words)
    console.tell(f"{bundle(settings, chosen.folder)} for {settings.train.clients} clients")
    if addresses.MARK in (settings.tracking.uri or ""):
        said = f"tracking.uri={settings.tracking.uri} is written without its secret: where the coordinator runs, "
        console.tell(f"{said}set MLFLOW_TRACKING_URI to the whole address.")
    console.tell(f"Install fedveil {fedveil.__version__} on every node; `flwr run {chosen.folder}` starts the run.")
    return 0
