"""Where runs are mirrored: as the settings say, else as MLflow's environment variables do, else beside the runs."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
from pathlib import Path

from fedveil import checks
from fedveil.configuration.schema import SCHEME, Tracking
from fedveil.storage import addresses

EXPERIMENT = "fedveil"
URI, NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
"""For MLflow's pages: without its job runners, which nothing here uses, they are up sooner."""


@dataclasses.dataclass(frozen=True)
class Store:
    """One MLflow store, and an experiment in it.

    Attributes:
        uri: its whole address, secrets included: never to be shown or kept.
        shown: its address without them.
        experiment: the experiment that settings or environment name, or None.
        artifacts: where the artefacts of a new experiment go; None where the store knows.
        said: which store is used and why, at 80 columns; empty for the one beside the runs.
        problem: why it cannot be contacted; empty if it can.
    """

    uri: str = dataclasses.field(repr=False)
    shown: str
    experiment: str | None = None
    artifacts: str | None = None
    said: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        """What tells stores and experiments apart."""
        return f"{self.shown} ({self.experiment or EXPERIMENT})"


def chosen(settings: Tracking, root: Path) -> Store:
    """Return the store that a run is mirrored to; nothing is created or contacted.

    `tracking.uri` and `tracking.experiment` win over `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME`; without any,
    it is a SQLite database and a folder of artefacts in `root`, the run store.

    >>> chosen(Tracking("mlflow", "http://me:s3cret@127.0.0.1:5000"), Path("runs")).shown
    'http://***@127.0.0.1:5000'
    """
    given, named = os.environ.get(URI, ""), os.environ.get(NAME, "")
    experiment, problem, artifacts = settings.experiment or named or None, "", None
    if settings.uri is not None:
        shown = uri = addresses.store(settings.uri)
        try:
            uri = addresses.whole(shown, "tracking.uri")
        except checks.UserError as error:
            problem = str(error)
    elif given:
        shown, uri = addresses.store(given), given
        problem = f"Expected {URI}={shown} {SCHEME}" if addresses.has_slip(given) else ""
    else:
        folder = root.resolve()
        shown = uri = f"sqlite:///{folder / 'mlflow.db'}"
        artifacts = (folder / "mlartifacts").as_uri()
    parts = [_why(f"tracked at {shown}", settings.uri, uri, given, "tracking.uri", URI)]
    parts += [_why(f"experiment {experiment}", settings.experiment, experiment, named, "tracking.experiment", NAME)]
    told = "" if settings.name == "none" else ", ".join(part for part in parts if part)
    said = textwrap.fill(told, 80, break_on_hyphens=False, break_long_words=False)
    return Store(uri, shown, experiment, artifacts, said, problem)


def _why(what: str, setting: str | None, used: str | None, variable: str, key: str, name: str) -> str:
    """Return which of a setting and an environment variable decided, empty where neither is there."""
    if setting is None:
        return f"{what} ({name})" if variable else ""
    ignored = f"; {name} is not used" if variable and variable != used else ""
    return f"{what} ({key}{ignored})"


def ui_command(store: Store, host: str = "127.0.0.1", port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves the MLflow pages of a store, and what its environment needs on top.

    The address is in the environment: everybody on the machine can read a command. MLflow's pages ask nobody for a
    password: any other `host` than this machine's own shows every run to the network.

    Raises:
        UserError: the store is a SQLite file that does not exist, a server that has its own pages, or unknown.
    """
    if store.problem:
        raise checks.UserError(store.problem)
    if store.uri.startswith(("http://", "https://")):
        raise checks.UserError(f"{store.shown} is a server with its own pages; open that address.")
    path = store.uri.removeprefix("sqlite:///").partition("?")[0]
    if store.uri.startswith("sqlite:///") and not Path(path).is_file():
        raise checks.UserError(f"No tracked run yet: {path} does not exist. Run `fedveil simulate` first.")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # no line per request; so the caller prints the address
    if store.artifacts is not None:
        command += ["--default-artifact-root", store.artifacts]
    return [*command, "--host", host, "--port", str(port)], {"MLFLOW_BACKEND_STORE_URI": store.uri, **_QUIET}
