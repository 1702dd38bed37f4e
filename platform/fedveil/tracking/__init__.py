"""Tracking: what a run mirrors to MLflow, and nothing that a run depends on.

A tracker only watches. `Safe` turns any failure of it into one warning line and goes on without it; Python's, NumPy's
and torch's global random states are restored after every call, so a result is the same to the last bit with tracking
on, off or broken. Metrics and tags are releases too: log only what was computed on declared-public pairs, or accounted.
MLflow runs in a process of its own (`_remote`, `_service`), so a run waits for it once, when it ends. Only `_mlflow`
and `_full` import it, and what that process imports needs no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Tracking
from fedveil.storage import addresses

Plain = str | int | float | bool | None
WriteModel = Callable[[Path], tuple[Sequence[int], int]]
"""Writes a model into a new folder; returns the shape (C, H, W) that it reads, and the length of an embedding."""
_OFF = "Warning: tracking is off for the rest of this run"


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts.

    Attributes:
        run_id: fedveil's id; an MLflow run that carries it is continued, and what it has is not sent again.
        experiment: MLflow experiment, unless the store names another.
        run_name: shown in the MLflow table (`named`).
        params: the resolved configuration, flattened to dotted names.
        tags: free text by name, e.g. statements without a finite epsilon.
        parent: fedveil id of the run that this one belongs to (a sweep), or None.
        started: when it began, milliseconds since 1970; None for now.
        hide_times: show no time but the start: rounds are one millisecond apart, the run ends after `rounds` of them,
            artefacts are as old as the run. Under a client-level claim the time that a round took tells who took part.
        rounds: how many the run is planned to have.
        later: how what could not be sent is sent later, a clause for the warning.
        ended: when it ended, milliseconds since 1970; None for the moment when it is told so.
        aside: something is added to a run that has ended, whose name, status and end stay as they are.
    """

    run_id: str
    experiment: str
    run_name: str
    params: Mapping[str, Plain] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    started: int | None = None
    hide_times: bool = False
    rounds: int = 0
    later: str = ""
    ended: int | None = None
    aside: bool = False


class Tracker:
    """The protocol of a tracker; this one does nothing (tracking=none).

    Attributes:
        problem: the one line that says why tracking is off, or None while it works.
    """

    problem: str | None = None

    def start(self, info: RunInfo) -> None:
        """Open the run, or continue the one with the same `run_id`."""

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002 - the word of the domain
        """Add one number per metric at this round."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; a tag that exists is overwritten."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy one file to the run's artifacts, under `folder`."""

    def log_model(self, write: WriteModel) -> None:
        """Store the run's model."""

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""


class Failed(Exception):
    """A call that failed in another process, and was found out by a later one.

    Attributes:
        method: the call that failed.
        reason: why, one line.
    """

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"{method}: {reason}")
        self.method, self.reason = method, reason


def reason_of(error: Exception) -> str:
    """Return why a call failed: one line without secrets, with the error's type where it is none of ours."""
    reason = (addresses.redacted(str(error)).strip().splitlines() or [""])[0]
    return reason if isinstance(error, checks.UserError) else f"{type(error).__name__}: {reason}"


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    """Restore the global random states afterwards, whatever the block drew."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    states = random.getstate(), numpy and numpy.random.get_state(), torch and torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])


class Safe(Tracker):
    """Pass every call on to a tracker until one fails; then say so once, and do nothing for the rest of the run."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None] | None = None) -> None:
        self.problem = None
        self._tracker = tracker
        self._later = ""
        self._warn = warn or (lambda line: print(line, file=sys.stderr))

    def _call(self, method: str, *arguments: Any) -> None:
        if self.problem is not None:
            return
        try:
            with _same_randomness(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a tracker's own deprecations are not the user's concern
                getattr(self._tracker, method)(*arguments)
        except Exception as error:
            reason = reason_of(error)
            if isinstance(error, Failed):
                method, reason = error.method, addresses.redacted(error.reason)
            rest = f"the run goes on and its own folder stays complete{self._later}."
            self.problem = f"{_OFF} ({method}: {reason}); {rest}"
            self._warn(self.problem)

    def start(self, info: RunInfo) -> None:  # noqa: D102
        self._later = f"; {info.later}" if info.later else ""
        self._call("start", info)

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:  # noqa: A002, D102
        self._call("log_round", round, metrics)

    def log_tags(self, tags: Mapping[str, str]) -> None:  # noqa: D102
        self._call("log_tags", tags)

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: D102
        self._call("log_artifact", path, folder)

    def log_model(self, write: WriteModel) -> None:  # noqa: D102
        self._call("log_model", write)

    def finish(self, status: str = "FINISHED") -> None:  # noqa: D102
        self._call("finish", status)
        if self.problem is not None:  # not to leave a run open for ever because, say, one picture could not be stored
            with contextlib.suppress(Exception), _same_randomness():
                self._tracker.finish(status)


def warm() -> None:
    """Start to import MLflow, in its own process; nothing is created or contacted before a tracker's `start`."""
    from fedveil.tracking import _remote

    with contextlib.suppress(OSError):  # which the start will say
        _remote.warm()


def handed() -> tuple[tuple[int, ...], dict[str, str]]:
    """Return the descriptors and variables with which a new process tells MLflow through this one's service."""
    from fedveil.tracking import _remote

    return _remote.handed()


def open_tracker(settings: Tracking, root: Path) -> Safe:
    """Return the tracker that the settings name; nothing is imported, created or contacted before `start`.

    Args:
        settings: the configuration's section.
        root: the root of all runs, where they are mirrored unless settings or environment say otherwise (`stores`).

    Returns:
        A tracker that never raises and never draws from a global random state.

    Raises:
        UserError: unknown `name`.

    >>> tracker = open_tracker(Tracking("none"), Path("runs"))
    >>> tracker.start(RunInfo("r1", "demo", "a run"))
    >>> tracker.log_round(1, {"accuracy": 0.5})
    >>> tracker.finish()
    """
    from fedveil.tracking import _remote, stores

    checks.one_of(("mlflow", "none"), **{"tracking.name": settings.name})
    if settings.name == "none":
        return Safe(Tracker())
    return Safe(_remote.Remote(stores.chosen(settings, root)))
