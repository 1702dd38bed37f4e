"""The tracker that mirrors a run to an MLflow store."""

from __future__ import annotations

import datetime
import math
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fedveil import checks
from fedveil.storage import addresses
from fedveil.tracking import RunInfo, Tracker, WriteModel, _experiment
from fedveil.tracking.stores import Store

if TYPE_CHECKING:
    from mlflow.models import Model
    from mlflow.tracking import MlflowClient

RUN_ID_TAG = "fedveil.run_id"
MODEL_TAG = "fedveil.model_uri"
_NO_MODEL = (
    "The weights are plain artefacts: a model of MLflow's own has times that tell how long the run took, "
    "and this run claims that nobody learns who took part."
)


def _name(text: str) -> str:
    """Return the text with characters that MLflow refuses in names replaced.

    >>> _name("tar@far=0.01")
    'tar_far_0.01'
    """
    return re.sub(r"[^\w\-. :/]", "_", text)


def warm() -> None:
    """Import what a SQLite store and a run need, which takes longer than telling a short run."""
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401


class MlflowTracker(Tracker):
    """Mirror a run to an MLflow store, through a client object: MLflow's process-wide state is left alone.

    Attributes:
        now: when what is told happened, milliseconds since 1970; None for the moment it is told.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now: int | None = None
        self._client: MlflowClient
        self._info: RunInfo
        self._run = self._experiment_id = ""
        self._started = 0
        self._folder: Path | None = None
        self._sent: set[tuple[str, int, float]] = set()
        self._dropped: set[str] = set()
        self._has_model = False

    def start(self, info: RunInfo) -> None:
        if self._store.problem:
            raise checks.UserError(self._store.problem)
        # A store that does not answer must not hold up training: MLflow's own default waits for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        if self._store.shown != self._store.uri:  # at a run's end MLflow prints its address, secrets included
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        addresses.quiet_logs("mlflow")
        if self._store.artifacts is not None:
            Path(self._store.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._info = info
        self._client = client = MlflowClient(tracking_uri=self._store.uri)
        self._experiment_id = _experiment_of(client, self._store, self._store.experiment or info.experiment)
        tags = {RUN_ID_TAG: info.run_id, "mlflow.source.name": "fedveil", "mlflow.source.type": "LOCAL", **info.tags}
        started, parent = info.started, self._find(info.parent) if info.parent is not None else None
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
            if info.hide_times:  # one run of a sweep starts when another has ended
                started = parent.info.start_time
        run = self._find(info.run_id)
        known: Mapping[str, str] = {}
        if run is None and info.aside:
            raise checks.UserError(f"{self._store.shown} does not hold run {info.run_id}, to which this belongs.")
        if run is None:
            run = client.create_run(self._experiment_id, start_time=started, run_name=info.run_name)
        else:
            if not info.aside:
                client.update_run(run.info.run_id, status="RUNNING", name=info.run_name)
            known = run.data.params
            self._has_model = MODEL_TAG in run.data.tags
            for key in run.data.metrics:
                points = client.get_metric_history(run.info.run_id, key)
                self._sent |= {(key, point.step, point.value) for point in points}
        self._run, self._started = run.info.run_id, run.info.start_time
        if info.hide_times:
            self._folder = _local(run.info.artifact_uri)
            self._keep_still()
        self.log_tags(info.tags if info.aside else tags)
        params = [Param(_name(key), str(value)) for key, value in info.params.items() if _name(key) not in known]
        for first in range(0, len(params), 100):  # MLflow's limit per call
            client.log_batch(self._run, params=params[first : first + 100])

    def _keep_still(self) -> None:
        """Make the run's artefacts in a local folder as old as the run; the folder exists from its start."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in [*self._folder.rglob("*"), self._folder, self._folder.parent]:
            os.utime(path, (self._started / 1000, self._started / 1000))

    def _find(self, run_id: str) -> Any:
        """Return the newest MLflow run of a fedveil run id, or None."""
        quoted = run_id.replace("'", "")
        found = self._client.search_runs([self._experiment_id], f"tags.`{RUN_ID_TAG}` = '{quoted}'", max_results=1)
        return found[0] if found else None

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002
        from mlflow.entities import Metric

        now = self._started + round if self._info.hide_times else self.now or int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        # The SQL store turns infinity into a very large number, which reads like a guarantee: a tag says it instead.
        odd = {f"fedveil.dropped.{key}": f"{metrics[key]} at round {round}" for key in metrics if key not in finite}
        self.log_tags({key: text for key, text in odd.items() if key not in self._dropped})
        self._dropped |= set(odd)
        new = {(_name(key), round, value) for key, value in finite.items()} - self._sent
        entries = [Metric(key, value, now, step) for key, step, value in sorted(new)]
        for first in range(0, len(entries), 1000):  # MLflow's limit per call
            self._client.log_batch(self._run, metrics=entries[first : first + 1000])
        self._sent |= new

    def log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(_name(key), str(value)) for key, value in tags.items()]
        for first in range(0, len(entries), 100):  # MLflow's limit per call
            self._client.log_batch(self._run, tags=entries[first : first + 100])

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._client.log_artifact(self._run, str(path), folder or None)
        self._keep_still()

    def log_model(self, write: WriteModel) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.send_model(Path(folder, "model"), *write(Path(folder, "model")))

    def send_model(self, folder: Path, inputs: Sequence[int], width: int) -> None:
        """Store a model that was written; the run's first is kept."""
        if self._has_model:
            return
        from mlflow.entities import LoggedModelOutput

        described = _described(folder, inputs, width)
        described.run_id = self._run
        if self._info.hide_times:  # MLflow gives a model of its own two times, and no way to choose them
            began = datetime.datetime.fromtimestamp(self._started / 1000, datetime.UTC).replace(tzinfo=None)
            described.artifact_path, described.utc_time_created = "backbone", str(began)
            described.save(str(folder / "MLmodel"))
            self._client.log_artifacts(self._run, str(folder), "backbone")
            self._keep_still()
            self.log_tags({MODEL_TAG: f"runs:/{self._run}/backbone", f"{MODEL_TAG}.why": _NO_MODEL})
            return
        stored = self._client.create_logged_model(self._experiment_id, "backbone", self._run)
        described.artifact_path = stored.artifact_location
        described.model_uuid = described.model_id = stored.model_id
        described.save(str(folder / "MLmodel"))
        self._client.log_model_artifacts(stored.model_id, str(folder))
        self._client.finalize_logged_model(stored.model_id, "READY")
        self._client.log_outputs(self._run, [LoggedModelOutput(stored.model_id, step=0)])
        self.log_tags({MODEL_TAG: f"models:/{stored.model_id}"})

    def finish(self, status: str = "FINISHED") -> None:
        checks.one_of(("FINISHED", "FAILED", "KILLED"), status=status)
        # Under a client-level claim: the last round's time, and one more for the final evaluation.
        end = self._started + self._info.rounds + 1 if self._info.hide_times else self._info.ended
        if not self._info.aside:
            self._client.set_terminated(self._run, status, end)
        if not self._store.uri.startswith(("http://", "https://", "databricks")):  # whose pages are its own
            _experiment.renew(self._client, self._experiment_id, told=self._info.parent is None)


def _experiment_of(client: MlflowClient, store: Store, name: str) -> str:
    """Return the id of the experiment of this name, which is made where it is not there."""
    from mlflow.exceptions import MlflowException

    for attempt in (1, 2):  # two runs of a sweep may create it at the same moment
        if (found := client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, store.artifacts, {_experiment.KIND: _experiment.TRAINING}))
        except MlflowException:
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def renewed(store: Store, name: str) -> str:
    """Write the view and the description of a store's experiment anew, and return the experiment's id."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store.uri)
    found = _experiment_of(client, store, name)
    _experiment.renew(client, found, told=True)
    return found


def _local(uri: str) -> Path | None:
    """Return the folder of an artefact address, None where it is on a server."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def _described(folder: Path, inputs: Sequence[int], width: int) -> Model:
    """Return what MLflow knows of a model; of a light one its shapes, and who loads it."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    if (folder / "MLmodel").exists():
        found: Model = Model.load(str(folder))
        return found
    kind = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(kind, (-1, *inputs))]), outputs=Schema([TensorSpec(kind, (-1, width))])
    )
    made = Model(signature=signature)
    pyfunc.add_to_model(made, loader_module="fedveil.tracking.light", data="data")
    return made
