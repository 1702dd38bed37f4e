"""What rows of a run's ledger come to: sums over what was drawn, against sums formed by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import gaussian, statements
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import Row

RUN = Federation.of(["protection=dctdp", "protection.total_epsilon=8"])
KEPT = LocalRelease("laplace", 8.0, max_images_per_identity=3, detail=(("radius", 1.0),))
OTHER = dataclasses.replace(KEPT, detail=(("radius", 2.0),))
NORMAL = LocalRelease("gaussian", 0.5, delta=1e-6, max_images_per_identity=4)


def rows(*drawn: tuple[LocalRelease, str], note: str = "") -> list[Row]:
    return [Row("r", "run", "spent", event, note, mechanism=name) for event, name in drawn]


def totals(*drawn: tuple[LocalRelease, str]) -> dict[str, float | None]:
    found = claims.of_run(RUN, rows(*drawn)).statements
    assert len(found) == len({one.unit for one in found}), "one statement a unit"
    return {one.unit: one.epsilon for one in found}


@pytest.mark.parametrize(
    ("drawn", "image", "identity"),
    [
        ([(KEPT, "a")], 8, 24),
        ([(KEPT, "a"), (KEPT, "a")], 8, 24),  # every attempt reads the same copies
        ([(KEPT, "a"), (OTHER, "b")], 16, 48),  # a radius that was learnt twice
        ([(KEPT, "a"), (KEPT, "b")], 16, 48),  # equal events, but other weights
        ([(KEPT, "a"), (OTHER, "b"), (KEPT, "a"), (KEPT, "c")], 24, 72),
        ([(KEPT, ""), (OTHER, "")], 16, 48),  # ledgers of versions that named no mechanism
    ],
)
def test_every_mechanism_that_drew_copies_is_paid(
    drawn: list[tuple[LocalRelease, str]], image: float, identity: float
) -> None:
    assert totals(*drawn) == {"image": image, "identity": identity}


def test_gaussian_copies_of_several_mechanisms_compose_in_mu_squared() -> None:
    found = totals((NORMAL, "a"), (NORMAL, "b"), (dataclasses.replace(NORMAL, diameter=0.2), "c"))
    square = 2 * 0.5**2 + 0.2**2
    assert found["image"] == pytest.approx(gaussian.epsilon_of(math.sqrt(square), 1e-6))
    assert found["identity"] == pytest.approx(gaussian.epsilon_of(math.sqrt(4 * square), 1e-6))


def test_fresh_noise_of_several_settings_adds() -> None:
    one, two = (LocalRelease("laplace", value, releases=3) for value in (1.0, 0.5))
    assert totals((one, ""), (one, ""), (two, "")) == {"image": 7.5}


def test_the_total_of_two_mechanisms_may_be_meaningless_and_fixed_noise_voids_it() -> None:
    three = [(KEPT, name) for name in "abc"]
    claimed = claims.of_run(RUN, rows(*three))
    assert not claimed.private
    assert "3 mechanisms" in claimed.statements[0].mechanism
    fixed = claims.of_run(RUN, rows(*three, note=claims.NOT_PRIVATE))
    assert {one.epsilon for one in fixed.statements} == {None}


def test_beside_a_client_level_claim_the_representation_alone_may_lack_one() -> None:
    """It does not leave in training; a start that nobody declared is in the model."""
    image = dataclasses.replace(statements.price(KEPT)[0], unit="client", relation="zero-out")
    for view, covered in (("the representation of a face", True), ("the released model", False)):
        none = statements.price(NonPrivate("image", view, "no noise"))
        assert statements.all_meaningful([image, *none]) == covered
        assert not statements.all_meaningful(none)
