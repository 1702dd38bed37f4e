"""What everybody receives beside the model is learnt on public faces alone, and who fails ends no secret cohort."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedveil.data.faces import FaceSet
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.protections.dctdp import DCTDP
from fedveil_strategies import coordinator, phases, rounds
from fedveil_strategies.session import Session

SMALL = ["data.identities=8", "data.images_per_identity=3", "data.evaluation_identities=4", "data.evaluation_images=2",
         "data.pairs=8", "data.public_identities=4", "data.public_images=2", "model.width=8", "model.embedding=8",
         "train.clients=4", "train.rounds=2", "engine=inline", "tracking=none"]  # fmt: skip
Seen = list[tuple[Any, Any]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Session]]:
    monkeypatch.chdir(tmp_path)
    sessions: list[Session] = []
    yield sessions
    for session in sessions:
        assert session.lock is not None
        session.lock.close()


def public_alone(seen: Seen, run: Federation) -> None:
    ((images, labels),) = seen
    assert np.array_equal(images, run.split.public.images())
    assert np.array_equal(labels, run.split.public.labels)
    assert not np.array_equal(images[:1], run.split.train.images()[:1])


def test_a_budgets_shape_and_radius(opened: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen, fit = Federation.of([*SMALL, "protection=dctdp", "protection.fit_steps=1"]), [], DCTDP.fit

    def learnt(self: DCTDP, images: Any, labels: Any, *rest: Any) -> Any:
        seen.append((images, labels))
        return fit(self, images, labels, *rest)

    monkeypatch.setattr(DCTDP, "fit", learnt)
    opened.append(coordinator.open_session(run, "r", "quiet"))
    public_alone(seen, run)


def test_no_face_is_drawn_for_a_method_that_learns_nothing(
    opened: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    images = FaceSet.images

    def counted(self: FaceSet, index: Any = None) -> Any:
        read.append(len(self))
        return images(self, index)

    monkeypatch.setattr(FaceSet, "images", counted)
    for words in (["protection=none"], ["protection=dctdp", "protection.fit_steps=0"]):
        assert bool(read) is False
        opened.append(coordinator.open_session(Federation.of([*SMALL, *words]), words[0][11:], "quiet"))
    assert read  # the second learns its scales


def test_what_a_phase_leaves(opened: list[Session]) -> None:
    words = ["protection=duetface", "protection.client_rounds=1", "protection.fit_steps=1"]
    run, seen = Federation.of([*SMALL, *words]), []
    opened.append(coordinator.open_session(run, "r", "quiet"))
    (session,) = opened
    phase = session.stage.phase
    assert phase is not None

    class Watched:
        """The phase, which tells what it finishes with."""

        def __getattr__(self, name: str) -> Any:
            return getattr(phase, name)

        def finish(self, tensors: Any, state: Any, images: Any, labels: Any, *rest: Any) -> Any:
            seen.append((images, labels))
            return phase.finish(tensors, state, images, labels, *rest)

    watched = dataclasses.replace(session, stage=dataclasses.replace(session.stage, phase=Watched()))
    phases.advance(watched, rounds.State(1, session.start.tensors, {}))
    public_alone(seen, run)


def test_a_secret_cohort_goes_on_whoever_fails() -> None:
    plain = ["protection=none", *SMALL]
    for words, tolerated in ((plain, 0.5), ([*plain, "privacy.client.epsilon=8"], None)):
        run = Federation.of(words)
        assert phases.plan_of(run, run.stages[0], get_tensors(run.backbone())).tolerated == tolerated
