"""Public constants are public: federations that differ in one client's data plan, promise and book exactly the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedveil import config
from fedveil.data.faces import FaceSet
from fedveil.data.split import Split
from fedveil.federation import federation as derived
from fedveil.federation import planning
from fedveil.federation.federation import Federation
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.ledger import Ledger
from fedveil.records import Update, model_sha256
from fedveil_clients.policy import Node
from fedveil_clients.sites import open_site
from fedveil_strategies import coordinator, observers

WORDS = ["data.identities=9", "data.images_per_identity=6", "data.evaluation_identities=4", "data.evaluation_images=2",
         "data.pairs=8", "data.public_identities=3", "data.public_images=3", "model.width=8", "model.embedding=16",
         "train.clients=3", "train.rounds=2", "train.cohort.rate=0.5", "tracking=none", "evaluation.draws=1",
         "evaluation.bootstrap=0", "privacy.client.epsilon=4", "privacy.client.delta=1e-5",
         "privacy.client.clip=0.5"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Inverted:
    """The same images, each as its negative."""

    store: Any

    def read(self, index: Any) -> Any:
        return 255 - self.store.read(index)

    def key(self, index: int) -> str:
        return f"negative {self.store.key(index)}"

    def record(self, index: int) -> str:
        return str(self.store.record(index))

    def rank(self, index: int) -> str:
        return str(self.store.rank(index))


def neighbours(train: FaceSet, mine: np.ndarray[Any, Any]) -> Iterator[FaceSet]:
    """Yield the set; with one client's images but one per person gone; with its images replaced by others."""
    yield train
    first = [int(np.flatnonzero(train.labels == person)[0]) for person in np.unique(train.labels[mine])]
    yield train.subset(np.setdiff1d(np.arange(len(train)), np.setdiff1d(mine, first)))
    yield dataclasses.replace(train, store=Inverted(train.store))


def constants(federation: Federation, folder: Path) -> dict[str, Any]:
    """Everything that is fixed before data are used, on both sides, and what a run writes about itself."""
    session = coordinator.open_session(federation, "run", "quiet")
    level = session.level
    assert level is not None
    assert level.mechanism.expected == 1.5
    # Open the vaults of the other clients: what they book must not depend on their neighbour.
    booked = []
    for client in ("c0001", "c0003"):
        node = Node(client, vault_root=federation.settings.vault.root)
        site = open_site(federation, "run", client, node, session.state)
        site.booked.on_disk()
        booked += [(row.subject, row.status, row.event) for row in site.vault.ledger.rows()]

    def transport(number: int, cohort: Any, tensors: Any, state: Any) -> list[Update]:
        return [Update(name, {key: np.zeros_like(tensors[key]) for key in session.plan.allowed}) for name in cohort]

    result = coordinator.coordinate(session, transport)
    return {
        "settings": config.to_tree(federation.settings)["privacy"],
        "noise, clip, divisor": dataclasses.asdict(level.mechanism),
        "cohort and schedule": dataclasses.asdict(session.plan),
        "round": level.event,
        "whole": federation.whole_schedule,
        "budget's shape": {name: value.tolist() for name, value in session.state.items()},
        "start": model_sha256(session.start.tensors),
        "run ledger": [(row.status, row.event, row.note) for row in Ledger(session.run.ledger).rows()],
        "owners' ledgers": sorted(booked, key=str),
        "statements": [statement.to_dict() for statement in session.claims().statements],
        "keys of the result": sorted(result),
        "keys of the rounds": [sorted(entry) for entry in result["rounds"]],
        "bytes": [entry["bytes_expected"] for entry in result["rounds"]],
    }


PROTECTIONS = {
    "none": ["protection=none"],
    "dctdp": ["protection=dctdp", "protection.fit_steps=0", "protection.init=zeros"],
}


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_neighbouring_data_give_identical_plans(
    protection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Federation.of([*WORDS, "protection=none"]).split
    plain = Federation.of([*WORDS, *PROTECTIONS[protection]])
    # Pictures and the signed epsilon's fine grid take most of the time.
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    monkeypatch.setattr(coordinator, "FINAL_GRID", LIVE_GRID)
    mine = np.flatnonzero(np.isin(whole.train.index, plain.faces_of("c0002").index))
    found, sizes = [], []
    for number, train in enumerate(neighbours(whole.train, mine)):
        place = tmp_path / str(number)
        places = [f"runs.root={place / 'runs'}", f"vault.root={place / 'v'}"]
        other: Split = dataclasses.replace(whole, train=train)
        monkeypatch.setattr(derived, "_split", lambda data_json, seed, other=other: other)
        found.append(constants(Federation.of([*WORDS, *PROTECTIONS[protection], *places]), place))
        sizes.append(len(train))
    assert sizes[1] < sizes[0] == sizes[2]
    for other_constants in found[1:]:
        for name, value in found[0].items():
            assert other_constants[name] == value, name
    assert "seconds" not in found[0]["keys of the rounds"][0], "a round's duration tells who took part"


def test_a_plan_that_reads_the_data_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = planning.round_release

    def counting(settings: Any, rounds: int, number: int) -> Any:
        event = honest(settings, rounds, number)
        images = len(Federation(settings).split.train)
        return dataclasses.replace(event, detail=(*event.detail, ("images", images)))

    monkeypatch.setattr(planning, "round_release", counting)
    with pytest.raises(AssertionError, match="round"):
        test_neighbouring_data_give_identical_plans("none", tmp_path, monkeypatch)
