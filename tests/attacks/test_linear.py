"""The linear attack: strong where nothing is hidden, helpless against noise, and blind to its victims until the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedveil.attacks._linear_estimates import Own, known_of
from fedveil.attacks._linear_known import Known
from fedveil.attacks._linear_measures import order_found
from fedveil.attacks._linear_prior import planes_of
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding
from fedveil.attacks.linear import Linear
from fedveil.evaluation.identification import unit
from fedveil.federation.federation import Federation

ATTACK = Linear(victims=24, images=120, far=0.1, components=20, samples=4000)
FEWER = dataclasses.replace(ATTACK, victims=14, images=60, floats=2_500_000)
SMALL = (
    "data=procedural", "data.identities=6", "data.images_per_identity=3", "data.public_identities=4",
    "data.public_images=2", "data.evaluation_identities=4", "data.pairs=12",
)  # fmt: skip


class Eye:
    """A judge who compares coarse pictures: nothing to train, and drawn faces differ enough."""

    said: ClassVar = {"kind": "coarse pictures"}

    def embed(self, images: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.float64]:
        coarse = torch.nn.functional.avg_pool2d(torch.as_tensor(np.array(images)).double(), 4).flatten(1)
        return unit((coarse - coarse.mean(1, keepdim=True)).numpy())


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Target):
    """A target that remembers what was released, and under which label."""

    seen: list[tuple[str, NDArray[np.uint8]]] = dataclasses.field(default_factory=list)

    def release(self, images: NDArray[np.uint8], seed: int, *labels: str | int) -> torch.Tensor:
        self.seen.append((str(labels[0]), images))
        return super().release(images, seed, *labels)


class Guessing(Known):
    """Takes the next order for each release's own."""

    def identified(self, released: torch.Tensor) -> torch.Tensor:
        return (super().identified(released) + 1) % len(self.known.orders)


@functools.lru_cache(maxsize=8)
def federation(*words: str) -> Federation:
    return Federation.of([*SMALL, *words])


def target(*words: str) -> Watched:
    made = federation(*words)
    method, public = made.protection, made.split.public
    state = method.fit(public.images(), public.labels, 1) if method.needs_fit else {}
    return judged(Watched(made, state, made.backbone().eval()))


def judged(found: Any) -> Any:
    for attack in (ATTACK, FEWER):
        found._known["judge", attack.victims, attack.images, None, attack.seed, None] = Eye()
    return found


def run(*words: str) -> Finding:
    return ATTACK.run(target(*words))


def measure(finding: Finding, name: str) -> Any:
    return next(measure for measure in finding.measures if measure.name == name)


@pytest.mark.parametrize("words", [("protection=none",), ("protection=dct",)])
def test_it_succeeds_where_nothing_is_hidden(words: tuple[str, ...]) -> None:
    finding = run(*words)
    for name in ("psnr", "psnr_mean_known", "psnr_float16"):
        assert finding.value(name) > 40
    linked = measure(finding, "linked")
    assert linked.low <= linked.ceiling <= linked.high
    assert measure(finding, "rank").value == measure(finding, "rank").ceiling
    assert finding.panel is not None
    assert len(finding.panel["recovered"]) == 6


def test_it_fails_on_noise(target_of: Callable[..., Target]) -> None:
    finding = ATTACK.run(judged(target_of(noise=True)))
    assert not any(measure.name in ("rank", "order_found") for measure in finding.measures)
    linked, ssim, psnr = (measure(finding, name) for name in ("linked", "ssim", "psnr"))
    assert linked.value <= max(linked.floor, linked.mean_face) + 0.15
    assert ssim.value <= ssim.mean_face + 0.03
    assert psnr.value <= psnr.mean_face + 0.5


def test_a_secret_order_is_found_and_inverted() -> None:
    made = target("protection=partialface")
    finding = ATTACK.run(made)
    found = measure(finding, "order_found")
    assert (found.value, found.floor) == (1.0, pytest.approx(1 / 36))
    assert finding.value("psnr_mean_known") > measure(finding, "psnr").mean_face + 10
    assert finding.value("ssim") > measure(finding, "ssim").mean_face + 0.3
    assert finding.value("psnr_regression_whole") is None  # a map that is known need not be learnt
    assert finding.value("psnr_posterior") > finding.value("psnr_least_squares")
    people = made.people(ATTACK)
    known = known_of(made, ATTACK, Own.of(people, 1))
    assert known is not None
    wrong = Guessing(known.known, known.size, known.prior, known.example)
    assert order_found(wrong, made, ATTACK, people).value == 0


@pytest.mark.parametrize("mode", ["image", "coefficient"])
def test_noise_is_filtered_with_its_law_and_a_prior(mode: str) -> None:
    budget = "protection.total_epsilon=30000" if mode == "image" else "protection.mean_epsilon=4"
    finding = FEWER.run(target("protection=dctdp", f"protection.mode={mode}", "protection.fit_steps=0", budget))
    assert finding.value("psnr_posterior") > measure(finding, "psnr").mean_face + 1
    assert finding.value("psnr_posterior") > finding.value("psnr_least_squares") + 1
    assert finding.value("psnr_float16") > finding.value("psnr_mean_known") - 1


def test_nothing_that_chooses_or_learns_sees_a_victim() -> None:
    made = target("protection=none")
    ATTACK.run(made)
    people = made.people(ATTACK)
    victims = {image.tobytes() for image in (*people.taken, *people.other)}
    for label, images in made.seen:
        shared = sum(image.tobytes() in victims for image in images)
        assert shared == 0 or label in ("victims", "enrolled", "probe", "replayed"), label
    own = Own.of(people, 1)
    known = known_of(made, ATTACK, own)
    assert known is not None
    torch.testing.assert_close(known.prior.mean, planes_of(own.trained).mean(0))
    mine = {image.tobytes() for image in people.attacker}
    assert all(image.tobytes() in mine for image in (*own.trained, *own.held))
    other = Own.of(dataclasses.replace(people, taken=people.taken[::-1], other=people.taken), 1)
    np.testing.assert_array_equal(own.trained, other.trained)
    np.testing.assert_array_equal(own.held, other.held)
