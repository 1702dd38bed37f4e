"""Noise that changes over the rounds of private training: every round at its own price, and as loud as it claims."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedveil import checks
from fedveil.federation import claims, private_steps
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy import gaussian
from fedveil.privacy.accounting.pld import LIVE_GRID, PldAccountant
from fedveil.privacy.events import Composed, Gaussian, PoissonSampled, Repeated
from fedveil.privacy.ledger import Ledger, Row
from fedveil_clients import booking, private_training, sites
from fedveil_clients.policy import Node
from fedveil_strategies.private_rounds import PrivateRounds

SMALL = (
    "study=quick", "tracking=none", "protection=none", "data.identities=8", "data.images_per_identity=4",
    "data.evaluation_identities=4", "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4",
    "data.public_images=4", "model.width=8", "model.embedding=16", "train.clients=2", "train.local.steps=2",
    "train.batch_size=4", "train.rounds=3", "train.weight_decay=0.0", "privacy.image.rows=16",
    "privacy.image.gradients=loop",
)  # fmt: skip


def federation(*words: str) -> Federation:
    return Federation.of([*SMALL, *words])


def noises(chosen: Federation) -> list[float]:
    return [one.event.event.event.noise_multiplier for one in chosen.private_rounds]  # type: ignore[union-attr]


@pytest.fixture
def site_of(tmp_path):
    def opened(*words: str, run: str = "run") -> sites.Site:
        chosen = federation(f"vault.root={tmp_path / 'vault'}", *words)
        node = Node("here", allow_test_seed=True, vault_root=chosen.settings.vault.root)
        site = sites.open_site(chosen, run, "c0002", node, {})
        site.booked.on_disk()
        return site

    return opened


@pytest.mark.parametrize("end", [0.25, 4.0])
def test_without_sampling_the_price_is_that_of_the_sum_of_squares(end: float) -> None:
    """An oracle by hand: Gaussian releases of multipliers z_k are together mu-GDP with mu^2 = sum of 1 / z_k^2."""
    chosen = federation("privacy.image.epsilon=8", "privacy.image.sampling_rate=1.0", f"privacy.image.noise_end={end}")
    first, middle, last = noises(chosen)
    assert last / first == pytest.approx(end)
    assert middle == pytest.approx(math.sqrt(first * last))
    mu = math.sqrt(sum(2 / noise**2 for noise in (first, middle, last)))
    found = claims.planned(chosen, chosen.planned_event).statements[0].epsilon
    assert found == pytest.approx(gaussian.epsilon_of(mu, 1e-5))
    assert 7.9 < found <= 8


def test_with_sampling_rounds_are_composed_one_by_one() -> None:
    words = ("privacy.image.sampling_rate=0.4", "privacy.image.noise_end=0.5")
    chosen = federation("privacy.image.epsilon=8", *words)
    accountant = PldAccountant("zero-out", "image", grid=LIVE_GRID)
    for noise in noises(chosen):
        for _ in range(2):
            accountant = accountant.compose(PoissonSampled(0.4, Gaussian(noise)))
    found = claims.planned(chosen, chosen.planned_event, LIVE_GRID).statements[0].epsilon
    assert found == pytest.approx(accountant.upper(1e-5), rel=1e-6)
    assert 7.9 < found <= 8


def test_an_owner_reserves_every_round_at_its_own_noise() -> None:
    chosen = federation("privacy.image.noise_multiplier=2", "privacy.image.noise_end=0.25")
    schedule = chosen.private_schedule.event  # type: ignore[union-attr]
    rounds = tuple(one.event for one in chosen.private_rounds)  # type: ignore[union-attr]
    assert schedule == Composed(tuple(Repeated(event, 1) for event in rounds))
    assert len(set(rounds)) == 3
    constant = federation("privacy.image.noise_multiplier=2")
    assert constant.private_schedule.event == Repeated(constant.private_rounds[0].event, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_round_is_as_loud_as_it_claims(site_of, number: int) -> None:
    words = ("privacy.test_seed=5", "train.lr=0.5", "train.head_lr=0.5", "train.local.steps=1")
    words = (*words, "privacy.image.clip=0.2")
    loud = site_of(*words, "privacy.image.noise_multiplier=1.0", "privacy.image.noise_end=9.0")
    quiet = site_of(*words, "privacy.image.noise_multiplier=1e-6", run="quiet")
    tensors = get_tensors(loud.federation.backbone())
    updates = [private_training.train_round(site, number, tensors).tensors for site in (loud, quiet)]
    found = np.concatenate([(updates[0][name] - updates[1][name]).ravel() for name in tensors]) / (0.5 * 0.2 / 4)
    claimed = noises(loud.federation)[number - 1]
    assert claimed == pytest.approx((1.0, 3.0, 9.0)[number - 1])
    assert abs(float(np.mean((found / claimed) ** 2)) - 1) < 4.9 * math.sqrt(2 / found.size)


def test_rows_of_both_sides_name_the_rounds_noise(site_of, tmp_path) -> None:
    site = site_of("privacy.image.noise_multiplier=1.0", "privacy.image.noise_end=9.0")
    chosen = site.federation
    book = PrivateRounds(chosen, Ledger(tmp_path / "run.sqlite"), "run")
    for number in (1, 2, 2, 3):
        book.ask(number)
    asked = [chosen.private_rounds[number - 1] for number in (1, 2, 2, 3)]
    rows: list[Row] = Ledger(tmp_path / "run.sqlite").rows("run")
    assert [row.event for row in rows] == asked
    booking.repeated(chosen, "run", site.vault, site.joining, 3)
    (again,) = [row for row in site.vault.ledger.rows() if row.note == "round 3 again"]
    assert again.event == chosen.private_rounds[2]
    twice = claims.of_run(chosen, rows, LIVE_GRID).statements[0].epsilon
    once = claims.planned(chosen, chosen.planned_event, LIVE_GRID).statements[0].epsilon
    assert twice > once


def test_rounds_beyond_the_schedule_have_no_noise_to_claim() -> None:
    chosen = federation("privacy.image.noise_multiplier=2")
    for number in (0, 4):
        with pytest.raises(ValueError, match="none of the 3 rounds"):
            private_steps.in_round(chosen.settings, 3, number)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("privacy.image.noise_multiplier=2 privacy.image.noise_end=0", "noise_end"),
        ("privacy.image.epsilon=inf privacy.image.noise_end=0.5", "does nothing here"),
        ("privacy.image.epsilon=8 privacy.image.noise_end=0.5 train.rounds=1", "train.rounds above 1"),
    ],
)
def test_a_schedule_that_does_nothing_or_means_nothing_is_refused(words: str, said: str) -> None:
    with pytest.raises(checks.UserError, match=said):
        federation(*words.split())
