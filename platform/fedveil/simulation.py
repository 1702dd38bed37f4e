"""Simulating from Python: `fedveil.simulate("study=quick")` runs what `fedveil simulate study=quick` does.

For notebooks and scripts. Words, refusals, folders and results are the command's, and so are the engine's processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedveil import checks, readback, runs
from fedveil.commands import simulate as command
from fedveil.commands import summary
from fedveil.configuration.schema import Config
from fedveil.privacy.statements import Statement
from fedveil.storage import addresses


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run found; printed, it is what the command prints at its end.

    Attributes:
        run: its id (`run.run_id`) and its folder (`run.folder`).
        settings: its whole configuration.
        content: all that result.json holds.
    """

    run: runs.Run
    settings: Config
    content: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of verification pairs that the final model decides rightly, 0..1."""
        return float(self.content["final"]["accuracy"])

    @property
    def rounds(self) -> list[Mapping[str, Any]]:
        """What each round found: `round` from 1, `accuracy` 0..1 or None where it was not measured, `statements`."""
        return [*self.content["rounds"]]

    @property
    def statements(self) -> list[Statement]:
        """What may be claimed of the run's releases; an `epsilon` of None is no guarantee."""
        return [readback.statement_of(one) for one in self.content["statements"]]

    def __str__(self) -> str:
        """Return the closing summary, at 80 columns."""
        return summary.closing(self.settings, self.content, None)


def simulate(*words: str, resume: str | None = None, progress: str = "quiet") -> Result:
    """Run a federation on this machine and return what it found.

    The unprotected reference that the command runs beside it is left out: `protection=none` asks for one.

    Args:
        *words: as on the command line: "protection=none", "train.rounds=10", "runs.root=somewhere".
        resume: id of an interrupted run to go on with; a finished one is read again.
        progress: quiet (a bar in a terminal), plain (a line a round) or auto (both).

    Raises:
        fedveil.checks.UserError: what the command refuses, in the same words.

    >>> simulate("study=quick", "train.ronds=3")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Unknown setting train.ronds. Did you mean 'rounds'?
    """
    checks.one_of(("quiet", "plain", "auto"), progress=progress)
    for word in words:
        if not isinstance(word, str):
            raise checks.UserError(f"Expected words such as 'train.rounds=3', got {word!r}; unpack a list: *words.")
    if resume is not None and not isinstance(resume, str):
        raise checks.UserError(f"Expected resume as a run's id, a text (`result.run.run_id`), got {resume!r}.")
    addresses.words_without_secrets(words)  # no message repeats one
    federation, run_id = command.prepare(words, resume)
    settings, threads = federation.settings, torch.get_num_threads()
    try:
        content = command.simulate(federation, run_id, progress)
    except KeyboardInterrupt as stop:
        if runs.Run(Path(settings.runs.root), run_id).config.exists():
            stop.add_note(f"fedveil.simulate(resume={run_id!r}) goes on after the last finished round")
        else:
            stop.add_note("interrupted before the run began; nothing was released")
        raise
    finally:
        torch.set_num_threads(threads)  # an engine takes one, for equal bits; the caller's own work has its own again
    return Result(runs.Run(Path(settings.runs.root), run_id), settings, content)
