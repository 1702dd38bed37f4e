"""The average over rounds: its weights by hand, what clients are sent, and a run that goes on with equal bits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedveil import checks, cli, runs
from fedveil.configuration.schema import Cohort
from fedveil.federation.federation import Federation
from fedveil.records import Update
from fedveil_strategies import averaging, observers, rounds
from fedveil_strategies.aggregation.fedavgm import FedAvgM
from fedveil_strategies.averaging import Averaged
from fedveil_strategies.control import Corrected

PLAN = rounds.Plan(rounds=5, registry=["a"], cohort=Cohort("poisson", 1.0), seed=1, allowed=("w",))
SMALL = (
    "evaluation.reference=false", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4",
    "model.width=8", "model.embedding=16", "train.clients=2", "train.rounds=4", "train.local.steps=2",
    "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0", "tracking=none", "protection=none",
    "engine=inline",
)  # fmt: skip


def models(rule, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Every round's model as the rule has it, and the last round's tensors."""
    rng, state, found = np.random.default_rng(3), {}, []
    tensors = {"w": np.ones(4, np.float32), "fixed": np.ones(2, np.float32)}
    for _ in range(count):
        tensors, state = rule.step(tensors, {"w": rng.normal(size=4)}, state)
        found.append(tensors["w"])
        assert np.array_equal(tensors["fixed"], np.ones(2))
    return found, averaging.last(tensors, state)["w"]


@pytest.mark.parametrize(
    "inner", [FedAvgM(momentum=0.5), Corrected(FedAvgM(momentum=0.5), 1.0, lambda number: 0.1 * number)]
)
def test_weights_fall_by_the_decay_and_add_up_to_one(inner) -> None:
    plain, _ = models(inner, 6)
    averaged, last = models(Averaged(inner, 0.7), 6)
    for number, found in enumerate(averaged, 1):
        weights = 0.7 ** np.arange(number - 1, -1, -1)
        assert np.allclose(found, (weights[:, None] * plain[:number]).sum(0) / weights.sum(), atol=1e-5)
    assert np.array_equal(last, plain[-1])  # the rounds themselves are as they were


def test_clients_go_on_from_the_last_round_and_the_model_is_the_average() -> None:
    federation = Federation.of(["protection=none", "train.average=0.5", "train.rounds=5", "aggregation=fedavg"])
    given: list[np.ndarray] = []

    def transport(number, cohort, tensors):
        given.append(tensors["w"])
        yield Update("a", {"w": np.ones(1, np.float32)})

    start = rounds.State(0, {"w": np.zeros(1, np.float32)}, {})
    rule, sent = averaging.rule(federation, federation.stages[0]), averaging.sent(federation, PLAN)
    end = rounds.run(PLAN, start, transport, rule, [], sent=sent)
    assert [float(value[0]) for value in given] == [0, 1, 2, 3, 4]
    weights = 0.5 ** np.arange(4, -1, -1)
    assert float(end.tensors["w"][0]) == pytest.approx((weights * np.arange(1, 6)).sum() / weights.sum())


def test_without_a_decay_nothing_is_averaged() -> None:
    plain = Federation.of(["protection=none"])
    assert averaging.rule(plain, plain.stages[0]) is plain.aggregation
    for decay in ("1.0", "-0.1"):
        with pytest.raises(checks.UserError, match=r"train\.average"):
            Federation.of(["protection=none", f"train.average={decay}"])
    with pytest.raises(checks.UserError, match=r"train\.rounds above 1"):
        Federation.of(["protection=none", "train.average=0.5", "train.rounds=1"])


def test_a_phase_ends_with_its_last_round() -> None:
    federation = Federation.of(["protection=advface", "train.average=0.5"])
    rules = [averaging.rule(federation, stage) for stage in federation.stages]
    assert [isinstance(rule, Averaged) for rule in rules] == [False] * (len(rules) - 1) + [True]


PRIVATE = (
    "privacy.test_seed=7", "privacy.image.epsilon=8", "privacy.image.rows=16", "privacy.image.noise_end=0.5",
    "privacy.image.gradients=loop",
)  # fmt: skip
CLIENT = (
    "privacy.test_seed=7", "privacy.client.epsilon=8", "privacy.client.delta=0.00001", "train.cohort.rate=0.9",
)  # fmt: skip


@pytest.mark.parametrize("words", [(), PRIVATE, CLIENT], ids=["plain", "image", "client"])
def test_a_run_that_goes_on_ends_with_equal_bits(tmp_path, monkeypatch, words) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    words = [*SMALL, *words, "train.average=0.6"]

    def ended(*more: str) -> str:
        assert cli.main(["simulate", *more, "--json", "found.json"]) == 0
        return json.loads((tmp_path / "found.json").read_text())["model_sha256"]

    whole = ended(*words)
    assert ended(*words[:-1]) != whole
    before, inner, times = {*(tmp_path / "runs").iterdir()}, observers.Watch.checkpoint, []

    def stopped(watch, report):
        times.append(report.round)
        if times == [1, 2, 3]:
            raise KeyboardInterrupt
        inner(watch, report)

    monkeypatch.setattr(observers.Watch, "checkpoint", stopped)
    assert cli.main(["simulate", *words]) == 130
    (folder,) = set((tmp_path / "runs").glob("*-none-*")) - before
    assert ended("--resume", folder.name) == whole
    arrays, _ = runs.unpack(folder / "checkpoint.npz")
    assert not np.array_equal(arrays["tensor/stem.weight"], arrays["optimiser/last/stem.weight"])
