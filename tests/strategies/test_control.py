"""Control variates: SCAFFOLD by its pseudo-code, the optimum that drifting clients miss, and what may not be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import checks, runs
from fedveil.federation import pulls
from fedveil.federation.federation import Federation
from fedveil.records import Update, model_sha256
from fedveil_strategies import control, rounds
from fedveil_strategies.aggregation.fedadam import FedAdam
from fedveil_strategies.aggregation.fedavg import FedAvg
from fedveil_strategies.aggregation.fedavgm import FedAvgM
from fedveil_strategies.control import Corrected

CLIENTS, SIZE = 6, 3
RNG = np.random.default_rng(5)
CURVATURE = RNG.uniform(0.2, 3.0, (CLIENTS, SIZE))
CENTRE = RNG.normal(size=(CLIENTS, SIZE))
BEST = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
"""Client i minimises sum of curvature * (x - centre)^2 / 2; together they are best here."""


def gradient(client: int, x: np.ndarray) -> np.ndarray:
    return CURVATURE[client] * (x - CENTRE[client])


class Clients:
    """Each keeps its own variate and steps through the same `pulls` as a real one."""

    def __init__(self, steps: int, rate: float, corrected: bool = True) -> None:
        self.steps, self.rate, self.corrected = steps, rate, corrected
        self.variates = np.zeros((CLIENTS, SIZE))

    def update(self, client: int, start: np.ndarray, mean: np.ndarray | float = 0.0) -> np.ndarray:
        x = torch.from_numpy(start.astype(np.float64))
        pull = pulls.without([torch.from_numpy(self.variates[client] - mean)])
        for _ in range(self.steps):
            slope = torch.from_numpy(gradient(client, x.numpy()))
            x = x - self.rate * (pull([x], [slope])[0] if self.corrected else slope)
        moved = x.numpy() - start + self.steps * self.rate * np.asarray(mean)
        self.variates[client] -= moved / (self.steps * self.rate)
        return moved


def trained(clients: Clients, rule, count: int, joined=lambda number: range(CLIENTS), expected: int = CLIENTS):
    tensors, state = {"w": np.zeros(SIZE, np.float32)}, {}
    for number in range(count):
        c = state.get("control/w", np.zeros(SIZE))
        mean = sum((clients.update(client, tensors["w"], c) for client in joined(number)), np.zeros(SIZE)) / expected
        tensors, state = rule.step(tensors, {"w": mean}, state)
    return tensors["w"], state


@pytest.mark.parametrize("inner", [FedAvg(), FedAvgM(momentum=0.5)])
def test_many_local_steps_end_at_the_common_optimum_where_plain_averaging_does_not(inner) -> None:
    steps, rate = 20, 0.03
    plain, _ = trained(Clients(steps, rate, corrected=False), inner, 400)
    corrected, _ = trained(Clients(steps, rate), Corrected(inner, 1.0, lambda number: steps * rate), 400)
    assert np.abs(plain - BEST).max() > 0.03
    assert np.abs(corrected - BEST).max() < 1e-4


@pytest.mark.parametrize("steps", [1, 7])
def test_it_is_scaffold_as_published(steps: int) -> None:
    """Algorithm 1, option II, written out with both vectors sent; a third of the clients join, in turn."""
    rate, x, c, own = 0.05, np.zeros(SIZE), np.zeros(SIZE), np.zeros((CLIENTS, SIZE))
    joined = lambda number: (number % 3, 3 + number % 3)  # noqa: E731
    for number in range(30):
        moved, changed = [], []
        for client in joined(number):
            y = x.copy()
            for _ in range(steps):
                y = y - rate * (gradient(client, y) - own[client] + c)
            after = own[client] - c + (x - y) / (steps * rate)
            moved.append(y - x)
            changed.append(after - own[client])
            own[client] = after
        x = x + np.mean(moved, 0)
        c = c + 2 / CLIENTS * np.mean(changed, 0)
    rule = Corrected(FedAvg(), 2 / CLIENTS, lambda number: steps * rate)
    clients = Clients(steps, rate)
    found, state = trained(clients, rule, 30, joined, expected=2)
    assert np.allclose(found, x, atol=1e-5)
    assert np.allclose(state["control/w"], c, atol=1e-5)
    assert np.allclose(clients.variates, own, atol=1e-5)


def test_the_coordinator_knows_the_mean_variate_whoever_came() -> None:
    rng = np.random.default_rng(1)
    rates = {number: 0.05 / number for number in range(1, 41)}
    clients = Clients(4, 0.0)
    tensors, state = {"w": np.zeros(SIZE, np.float32)}, {}
    rule = Corrected(FedAvgM(), 0.5, lambda number: 4 * rates[number])
    for number in range(1, 41):  # Poisson cohorts of rate 1/2, rates that fall
        clients.rate = rates[number]
        came = np.flatnonzero(rng.random(CLIENTS) < 0.5)
        c = state.get("control/w", np.zeros(SIZE))
        total = sum((clients.update(client, tensors["w"], c) for client in came), np.zeros(SIZE))
        tensors, state = rule.step(tensors, {"w": total / (0.5 * CLIENTS)}, state)
        assert np.allclose(state["control/w"], clients.variates.mean(0), atol=1e-4)


def test_an_interrupted_run_goes_on_with_equal_bits(tmp_path) -> None:
    rule = Corrected(FedAdam(), 1.0, lambda number: 0.1 / number)
    whole, state = {"w": np.zeros(4, np.float32)}, {}
    means = np.random.default_rng(3).normal(size=(8, 4))
    for mean in means:
        whole, state = rule.step(whole, {"w": mean}, state)
    part, kept = {"w": np.zeros(4, np.float32)}, {}
    for mean in means:  # every round from a checkpoint of the one before
        (tmp_path / "c.npz").write_bytes(runs.pack({f"o/{name}": value for name, value in kept.items()}, {}))
        found = {name[2:]: value for name, value in runs.unpack(tmp_path / "c.npz")[0].items()}
        part, kept = Corrected(FedAdam(), 1.0, lambda number: 0.1 / number).step(part, {"w": mean}, found)
    assert model_sha256(part) == model_sha256(whole)
    assert {"m/w", "v/w", "control/w"} < set(state)
    assert all(value.dtype == np.float32 for value in state.values())


def test_a_stage_counts_its_own_rounds_and_rates() -> None:
    run = Federation.of(
        ["protection=advface", "protection.split_rounds=4", "train.rounds=4", "train.schedule.kind=cosine",
         "train.correction=scaffold", "train.local.steps=3", "train.lr=0.5", "train.clients=4", "train.cohort.rate=0.5"]
    )  # fmt: skip
    rules = [control.rule(run, stage) for stage in run.stages]
    assert [rules[0].length(n) for n in range(1, 5)] == [rules[1].length(n) for n in range(1, 5)]
    assert rules[1].length(1) == 1.5
    assert rules[1].share == 0.5
    plain = Federation.of(["protection=none"])
    assert control.rule(plain, plain.stages[0]) is plain.aggregation


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["privacy.client.epsilon=8"], r"train\.correction=scaffold adds up every round's mean .*privacy\.client=none"),
        (["privacy.client.epsilon=inf"], "train.correction=none"),
        (["train.local.epochs=1"], r"train\.correction=scaffold needs train\.local\.steps=N"),
    ],
)
def test_what_cannot_be_corrected_is_refused(words, said) -> None:
    with pytest.raises(checks.UserError, match=said):
        Federation.of(["protection=none", "train.correction=scaffold", *words])


def test_the_round_loop_gives_the_rule_its_means() -> None:
    """Through `rounds.run` with simulated transports: the corrected optimum again."""
    from fedveil.configuration.schema import Cohort

    clients = Clients(20, 0.02)
    run = Federation.of(["protection=none", "train.correction=scaffold"])
    plan = rounds.Plan(300, [str(number) for number in range(CLIENTS)], Cohort(), 1, ("w",))
    given = []

    def transport(number, cohort, tensors):
        given.append(set(tensors))
        moved = [clients.update(int(name), tensors["w"], tensors["control/w"]) for name in cohort]
        return [Update(name, {"w": one.astype(np.float32)}) for name, one in zip(cohort, moved, strict=True)]

    start, seen = rounds.State(0, {"w": np.zeros(SIZE, np.float32)}, {}), []
    rule = Corrected(FedAvg(), 1.0, lambda number: 0.4)
    end = rounds.run(plan, start, transport, rule, [seen.append], sent=control.sent(run, plan))
    assert np.abs(end.tensors["w"] - BEST).max() < 1e-3
    assert all(names == {"w", "control/w"} for names in given)
    assert seen[0].bytes_expected == CLIENTS * (2 + 1) * 4 * SIZE
    assert control.sent(Federation.of(["protection=none"]), plan)(end) == end.tensors
