"""Tracking: what a run mirrors to MLflow, and nothing that a run depends on.

A tracker only watches. `Safe` turns any failure of it into one warning line and goes on without it; Python's, NumPy's
and torch's global random states are restored after every call, so a result is the same to the last bit with tracking
on, off or broken. Metrics and tags are releases too: log only what was computed on declared-public pairs, or accounted.
This is the only module that imports MLflow, and only once a run starts.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import random
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration.schema import Tracking

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_ID_TAG = "fedveil.run_id"
Plain = str | int | float | bool | None
UI_ENVIRONMENT: Mapping[str, str] = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
"""For the process of `ui_command`: without MLflow's job runners, which nothing here uses, the pages are up sooner."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts.

    Attributes:
        run_id: fedveil's id; an MLflow run that carries it is continued.
        experiment: MLflow experiment, unless the settings name another.
        run_name: shown in the MLflow table.
        params: the resolved configuration, flattened to dotted names.
        tags: free text by name, e.g. statements without a finite epsilon.
        parent: fedveil id of the run that this one belongs to (a sweep), or None.
        hide_times: give rounds artificial times, one millisecond apart; under a client-level claim the time that a
            round took tells something about who took part.
    """

    run_id: str
    experiment: str
    run_name: str
    params: Mapping[str, Plain] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    hide_times: bool = False


class Tracker:
    """The protocol of a tracker; this one does nothing (tracking=none)."""

    def start(self, info: RunInfo) -> None:
        """Open the run, or continue the one with the same `run_id`."""

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002 - the word of the domain
        """Add one number per metric at this round."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; a tag that exists is overwritten."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy one file to the run's artifacts, under `folder`."""

    def log_model(self, backbone: torch.nn.Module, example: NDArray[np.float32]) -> None:
        """Store the backbone so that it loads without fedveil; only the shape (1, C, H, W) of `example` is used."""

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    """Restore the global random states afterwards, whatever the block drew."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class Safe(Tracker):
    """Pass every call on to a tracker until one fails; then say so once, and do nothing for the rest of the run.

    Attributes:
        problem: the one line that says why tracking is off, or None while it works.
    """

    def __init__(self, tracker: Tracker, warn: Callable[[str], None] | None = None) -> None:
        self.problem: str | None = None
        self._tracker = tracker
        self._warn = warn or (lambda line: print(line, file=sys.stderr))

    def _call(self, method: str, *arguments: Any) -> None:
        if self.problem is not None:
            return
        try:
            with _same_randomness(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a tracker's own deprecations are not the user's concern
                getattr(self._tracker, method)(*arguments)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            self.problem = (
                f"Warning: tracking is off for the rest of this run ({method}: {type(error).__name__}: {reason}); "
                "the run goes on and its own folder stays complete."
            )
            self._warn(self.problem)

    def start(self, info: RunInfo) -> None:  # noqa: D102
        self._call("start", info)

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002, D102
        self._call("log_round", round, metrics)

    def log_tags(self, tags: Mapping[str, str]) -> None:  # noqa: D102
        self._call("log_tags", tags)

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: D102
        self._call("log_artifact", path, folder)

    def log_model(self, backbone: torch.nn.Module, example: NDArray[np.float32]) -> None:  # noqa: D102
        self._call("log_model", backbone, example)

    def finish(self, status: str = "FINISHED") -> None:  # noqa: D102
        self._call("finish", status)
        if self.problem is not None:  # not to leave a run open for ever because, say, one picture could not be stored
            with contextlib.suppress(Exception), _same_randomness():
                self._tracker.finish(status)


def _name(text: str) -> str:
    """Return the text with characters that MLflow refuses in names replaced.

    >>> _name("tar@far=0.01")
    'tar_far_0.01'
    """
    return re.sub(r"[^\w\-. :/]", "_", text)


class MlflowTracker(Tracker):
    """Mirror a run to an MLflow store, through a client object: MLflow's process-wide state is left alone."""

    def __init__(self, uri: str, artifacts: str | None, experiment: str | None, log_models: bool = True) -> None:
        self._uri, self._artifacts, self._experiment, self._log_models = uri, artifacts, experiment, log_models
        self._client: MlflowClient
        self._run = self._experiment_id = ""
        self._started_ms = 0
        self._hide_times = False
        self._dropped: set[str] = set()

    def start(self, info: RunInfo) -> None:  # noqa: D102
        # A store that does not answer must not hold up training: MLflow's own default waits for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = client = MlflowClient(tracking_uri=self._uri)
        self._hide_times = info.hide_times
        self._experiment_id = self._find_or_create_experiment(self._experiment or info.experiment)
        tags = {RUN_ID_TAG: info.run_id, "mlflow.source.name": "fedveil", "mlflow.source.type": "LOCAL", **info.tags}
        if info.parent is not None and (parent := self._find(info.parent)) is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
        run = self._find(info.run_id)
        known: Mapping[str, str] = {}
        if run is None:
            run = client.create_run(self._experiment_id, run_name=info.run_name)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            known = run.data.params
        self._run, self._started_ms = run.info.run_id, run.info.start_time
        self.log_tags(tags)
        params = [Param(_name(key), str(value)) for key, value in info.params.items() if _name(key) not in known]
        for first in range(0, len(params), 100):  # MLflow's limit per call
            client.log_batch(self._run, params=params[first : first + 100])

    def _find_or_create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        for attempt in (1, 2):  # two runs of a sweep may create it at the same moment
            if (found := self._client.get_experiment_by_name(name)) is not None:
                return str(found.experiment_id)
            try:
                kind = {"mlflow.experimentKind": "custom_model_development"}  # the pages for training, not for chatting
                return str(self._client.create_experiment(name, self._artifacts, kind))
            except MlflowException:
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _find(self, run_id: str) -> Any:
        """Return the newest MLflow run of a fedveil run id, or None."""
        quoted = run_id.replace("'", "")
        found = self._client.search_runs([self._experiment_id], f"tags.`{RUN_ID_TAG}` = '{quoted}'", max_results=1)
        return found[0] if found else None

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002, D102
        from mlflow.entities import Metric

        now = self._started_ms + round if self._hide_times else int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        # The SQL store turns infinity into a very large number, which reads like a guarantee: a tag says it instead.
        odd = {f"fedveil.dropped.{key}": f"{metrics[key]} at round {round}" for key in metrics if key not in finite}
        self.log_tags({key: text for key, text in odd.items() if key not in self._dropped})
        self._dropped |= set(odd)
        entries = [Metric(_name(key), value, now, round) for key, value in finite.items()]
        for first in range(0, len(entries), 1000):  # MLflow's limit per call
            self._client.log_batch(self._run, metrics=entries[first : first + 1000])

    def log_tags(self, tags: Mapping[str, str]) -> None:  # noqa: D102
        from mlflow.entities import RunTag

        entries = [RunTag(_name(key), str(value)) for key, value in tags.items()]
        for first in range(0, len(entries), 100):  # MLflow's limit per call
            self._client.log_batch(self._run, tags=entries[first : first + 100])

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: D102
        self._client.log_artifact(self._run, str(path), folder or None)

    def log_model(self, backbone: torch.nn.Module, example: NDArray[np.float32]) -> None:  # noqa: D102
        if not self._log_models:
            return
        import mlflow
        import mlflow.pyfunc
        import mlflow.pytorch
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        still = copy.deepcopy(backbone).cpu().float().eval()
        # Zeros: a face has no business in the store. Two of them: torch.export makes a batch of one a constant. And a
        # tensor: MLflow would write an array as text, twice, which is tens of megabytes for a frequency representation.
        pair = torch.zeros(2, *example.shape[1:])
        with torch.no_grad():
            width = still(pair).shape[1]
        kind = np.dtype(np.float32)
        signature = ModelSignature(  # without names: MLflow's torch flavour takes one bare array
            inputs=Schema([TensorSpec(kind, (-1, *example.shape[1:]))]),
            outputs=Schema([TensorSpec(kind, (-1, width))]),
        )
        stored = self._client.create_logged_model(self._experiment_id, "backbone", self._run)
        described = Model(
            artifact_path=stored.artifact_location,
            run_id=self._run,
            model_uuid=stored.model_id,
            model_id=stored.model_id,
        )
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pytorch.save_model(  # a traced graph (pt2): loads without fedveil and without unpickling code
                still,
                f"{folder}/model",
                mlflow_model=described,
                signature=signature,
                input_example=pair,
                serialization_format="pt2",
                pip_requirements=[  # given, because MLflow's inference of them takes long and asks the network
                    f"mlflow=={mlflow.__version__}",
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"numpy=={np.__version__}",
                ],
            )
            # MLflow leaves this flavour out when it is given a tensor; `mlflow.pyfunc.load_model` and serving need it.
            mlflow.pyfunc.add_to_model(
                described,
                loader_module="mlflow.pytorch",
                data="data",
                conda_env="conda.yaml",
                python_env="python_env.yaml",
                model_config={"device": None},
            )
            described.save(f"{folder}/model/MLmodel")
            self._client.log_model_artifacts(stored.model_id, f"{folder}/model")
        self._client.finalize_logged_model(stored.model_id, "READY")
        self._client.log_outputs(self._run, [LoggedModelOutput(stored.model_id, step=0)])
        self.log_tags({"fedveil.model_uri": f"models:/{stored.model_id}"})

    def finish(self, status: str = "FINISHED") -> None:  # noqa: D102
        checks.one_of(("FINISHED", "FAILED", "KILLED"), status=status)
        self._client.set_terminated(self._run, status)


def store(uri: str | None, store_dir: Path) -> tuple[str, str | None]:
    """Return the tracking URI and where artifacts go: by default SQLite and a folder, both in `store_dir`.

    >>> store("http://127.0.0.1:5000", Path("runs"))  # a server knows where its artifacts go
    ('http://127.0.0.1:5000', None)
    """
    if uri is not None:
        return uri, None
    folder = store_dir.resolve()
    return f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlartifacts").as_uri()


def open_tracker(settings: Tracking, store_dir: Path) -> Safe:
    """Return the tracker that the settings name; nothing is imported, created or contacted before `start`.

    Args:
        settings: the configuration's section; `uri` None means the SQLite store in `store_dir`.
        store_dir: the root of all runs.

    Returns:
        A tracker that never raises and never draws from a global random state.

    Raises:
        UserError: unknown `name`.

    >>> tracker = open_tracker(Tracking("none"), Path("runs"))
    >>> tracker.start(RunInfo("r1", "demo", "a run"))
    >>> tracker.log_round(1, {"accuracy": 0.5})
    >>> tracker.finish()
    """
    checks.one_of(("mlflow", "none"), **{"tracking.name": settings.name})
    if settings.name == "none":
        return Safe(Tracker())
    uri, artifacts = store(settings.uri, store_dir)
    if artifacts is not None:
        store_dir.mkdir(parents=True, exist_ok=True)
    return Safe(MlflowTracker(uri, artifacts, settings.experiment, settings.log_model))


def ui_command(settings: Tracking, store_dir: Path, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """Return the command that serves the MLflow pages of a store, to be run with `UI_ENVIRONMENT` on top.

    MLflow's pages ask nobody for a password: any other `host` than this machine's own shows every run to the network.

    Raises:
        UserError: the store is a SQLite file that does not exist, or a server that has its own pages.
    """
    uri, artifacts = store(settings.uri, store_dir)
    if uri.startswith(("http://", "https://")):
        raise checks.UserError(f"tracking.uri={uri!r} is a server with its own pages; open that address.")
    path = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:///") and not Path(path).is_file():
        raise checks.UserError(f"No tracked run yet: {path} does not exist. Run `fedveil simulate` first.")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # no line per request; so the caller prints the address
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts]
    return [*command, "--host", host, "--port", str(port)]
