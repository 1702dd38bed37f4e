"""Mistakes that statistics on noisy sums cannot see: each honest property, and the test that fails without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedveil.federation.federation import Federation
from fedveil.federation.mechanism import mechanism_id
from fedveil.privacy import events
from fedveil.privacy import totals as totals_of
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.ledger import Ledger, Row
from fedveil.protections.dctdp import DCTDP
from fedveil.randomness import SecretStream
from fedveil.records import Failure, Tensors, Update
from fedveil_clients import booking
from fedveil_clients.memo import Listed, Memo
from fedveil_clients.policy import Node
from fedveil_clients.sites import open_site
from fedveil_strategies import client_level, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

TENSORS = {"w": np.zeros(4, np.float32)}
BUDGET = ["protection=none", "train.clients=12", "train.rounds=5", "privacy.client.epsilon=4",
          "privacy.client.delta=1e-5", "privacy.client.clip=0.5", "privacy.test_seed=1"]  # fmt: skip


def push(client: str, size: float) -> Update:
    return Update(client, {"w": np.array([size, 0, 0, 0], np.float32)})


def noiseless_sum(
    folder: Path, answers: Callable[[Sequence[str]], Iterable[Update | Failure]], rate: float = 1.0
) -> np.ndarray[Any, Any]:
    """Return one round's released mean times the public divisor, as the round loop computes it, without its noise."""
    federation = Federation.of([*BUDGET, f"train.cohort.rate={rate}"])
    names = tuple(f"c{number:04d}" for number in range(1, 13))
    plan = rounds.Plan(1, names, federation.settings.train.cohort, 1, ("w",), tolerated=1.0)
    found: list[np.ndarray[Any, Any]] = []

    def transport(number: int, cohort: Sequence[str], tensors: Tensors) -> Iterable[Update | Failure]:
        return answers(cohort)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private.noise, "gaussian", lambda stream, sigma: torch.zeros_like(sigma))
        level = client_level.ClientLevel(federation, plan, Ledger(folder / "ledger.sqlite"), "run")

        def combine(number: int, came: Iterable[Update | Failure], state: rounds.State) -> rounds.Combined:
            combined = level.combine(number, came, state)
            found.append(combined.mean["w"] * level.mechanism.expected)
            return combined

        rounds.run(plan, rounds.State(0, TENSORS, {}), transport, FedAvg(), [], lambda number: names, combine)
    return found[0]


def check_one_reply_moves_the_released_sum_by_at_most_c(folder: Path) -> None:
    def everybody(last: Update | Failure) -> Callable[[Sequence[str]], list[Update | Failure]]:
        return lambda cohort: [*(push(name, 9.0) for name in cohort[:-1]), last]

    gone = noiseless_sum(folder, everybody(Failure("c0012", "gone")))
    against = noiseless_sum(folder, everybody(push("c0012", -9.0)))
    along = noiseless_sum(folder, everybody(push("c0012", 9.0)))
    assert np.linalg.norm(against - gone) <= 0.5
    assert np.linalg.norm(along - gone) <= 0.5
    assert np.linalg.norm(along - against) <= 1.0


def test_one_reply_moves_the_released_sum_by_at_most_c(tmp_path: Path) -> None:
    check_one_reply_moves_the_released_sum_by_at_most_c(tmp_path)


def test_a_realised_denominator_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums, came = private.bounded_sums, []

    def counting(answers: Iterable[Update | Failure], *rest: Any) -> Any:
        listed = list(answers)
        came.append(sum(isinstance(answer, Update) for answer in listed))
        return sums(listed, *rest)

    divide = private.split
    monkeypatch.setattr(private, "bounded_sums", counting)
    monkeypatch.setattr(private, "split", lambda vector, *rest: divide(vector * 12.0 / max(came[-1], 1), *rest))
    with pytest.raises(AssertionError):
        check_one_reply_moves_the_released_sum_by_at_most_c(tmp_path)


def check_a_client_counts_once(folder: Path) -> None:
    once = noiseless_sum(folder, lambda cohort: [push(cohort[0], 9.0)])
    assert np.linalg.norm(once) <= 0.5
    often = noiseless_sum(folder, lambda cohort: [push(cohort[0], 9.0)] * 3)
    assert np.array_equal(once, often)


def test_a_client_that_answers_thrice_counts_once(tmp_path: Path) -> None:
    check_a_client_counts_once(tmp_path)


def test_a_double_counted_client_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "ordered", lambda answers, cohort: iter(list(answers)))
    with pytest.raises(AssertionError):
        check_a_client_counts_once(tmp_path)


SMALL = ["data.identities=6", "data.images_per_identity=2", "data.evaluation_identities=4", "data.evaluation_images=2",
         "data.pairs=8", "data.public_identities=2", "data.public_images=2", "model.width=8", "model.embedding=16",
         "train.clients=3", "protection=none", "tracking=none", "train.rounds=20", "train.cohort.rate=0.2",
         "privacy.client.epsilon=4", "privacy.client.delta=1e-5", "privacy.client.clip=0.5"]  # fmt: skip


def check_the_owner_reserves_the_schedule(folder: Path) -> None:
    """Whichever rounds a client joins, its owner's ledger says the same, and no less than the run claims."""
    totals = []
    for name, joined in (("often", 3), ("once", 1)):
        federation = Federation.of([*SMALL, f"vault.root={folder / name}"])
        for _ in range(joined):
            site = open_site(federation, "run", "c0002", Node("here", vault_root=str(folder / name)), {})
            site.booked.on_disk()
        rows = [row for row in site.vault.ledger.rows() if row.status == "reserved"]
        (total,) = (claim.epsilon for claim in totals_of.of_rows(rows) if claim.unit == "client")
        totals.append((len(rows), rows[0].event, total))
    assert totals[0] == totals[1]
    accountant = PldAccountant("zero-out", "client")
    for _ in range(20):
        accountant = accountant.compose(federation.round_release)
    assert totals[0][2] >= accountant.upper(1e-5)


def test_the_owner_reserves_the_whole_schedule(tmp_path: Path) -> None:
    check_the_owner_reserves_the_schedule(tmp_path)


def test_an_owner_booking_joined_rounds_at_the_sampling_rate_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined(federation: Federation, run_id: str, vault: Any, client: booking.Joining) -> booking.Booking:
        event = federation.round_release
        assert isinstance(event, events.Release)
        assert isinstance(event.event, events.PoissonSampled)
        vault.ledger.append([Row(run_id, client.node.data_set, "reserved", event)])
        return booking.Booking()

    monkeypatch.setattr(booking, "accept", joined)
    with pytest.raises(AssertionError):
        check_the_owner_reserves_the_schedule(tmp_path)


def check_two_scales_reveal_nothing_more(folder: Path) -> None:
    """Copies of one image at budgets 300 and 600 must not cancel their noise: 2 * second - first is no image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
    public = rng.integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    copies, memo, listed = [], Memo(folder), Listed("here", ["a", "b", "c"], ["a", "b", "c"])
    for budget in (300.0, 600.0):
        federation = Federation.of(["protection=dctdp", f"protection.total_epsilon={budget}", "protection.fit_steps=0",
                                "protection.init=zeros"])  # fmt: skip
        protection = federation.protection
        assert isinstance(protection, DCTDP)
        state = protection.fit(public, np.arange(8), 1)

        def draw(
            images: torch.Tensor, streams: list[SecretStream], protection: DCTDP = protection, state: Any = state
        ) -> torch.Tensor:
            return protection.release(images, state, streams)

        mechanism = mechanism_id(federation, state)
        kept, _ = memo.open(bytes(32), mechanism, listed, lambda i: pixels[i], draw, lambda: None)
        copies.append(kept.batch(np.arange(3)).double())
    clean = protection.clean(torch.from_numpy(pixels), state).double()
    attacked = 2 * copies[1] - copies[0]
    error = (attacked - clean).flatten(1).norm(dim=1) / (copies[1] - clean).flatten(1).norm(dim=1)
    assert bool((error > 1).all()), f"two copies give the image away to a share {error.max():.1e} of the noise"


def test_two_mechanisms_have_draws_of_their_own(tmp_path: Path) -> None:
    check_two_scales_reveal_nothing_more(tmp_path)


def test_one_memo_draw_at_two_scales_recovers_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key for all mechanisms, the noise cancels to float32 rounding. The index must tell the copies apart."""
    honest = Memo.open

    def one_key(self: Memo, key: bytes, mechanism: bytes, keys: Any, read: Any, draw: Any, book: Any) -> Any:
        def shared(images: torch.Tensor, streams: list[SecretStream]) -> Any:
            return draw(images, [SecretStream(bytes([place]) * 32) for place in range(len(streams))])

        return honest(self, key, mechanism, keys, read, shared, book)

    monkeypatch.setattr(Memo, "open", one_key)
    with pytest.raises(AssertionError, match=r"a share \d\.\de-0[4-9]"):
        check_two_scales_reveal_nothing_more(tmp_path)
