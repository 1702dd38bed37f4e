"""What may be claimed: statements priced from events. Nothing that trains computes an epsilon.

A statement is unit + neighbouring relation + view + epsilon + delta + assumptions + what it does not cover; the number
is never shown without the rest. Statements of different units stand side by side and are never summed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from fedveil import checks
from fedveil.privacy import gaussian
from fedveil.privacy.events import Event, LocalRelease, NonPrivate, on_grid

UNITS = ("client", "image", "identity")
"""In the order in which statements are shown."""

MEANINGFUL = 20.0
"""Above this epsilon a statement is formally true and practically empty: an adversary with one false alarm in a million
may always be right."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """One claim. `epsilon` None means no guarantee (epsilon is infinite).

    Attributes:
        unit: what is protected: image, identity or client.
        relation: which neighbouring data sets are compared.
        view: what the adversary sees.
        mechanism: where the guarantee comes from.
        epsilon: bound on the privacy loss in nats; None without a guarantee.
        delta: probability mass outside the bound; 0 for pure guarantees, None without a guarantee.
        guarantee: "formal" or "none".
        meaningful: a guarantee of at most 20 nats.
        assumptions: what must hold.
        not_covered: what the statement says nothing about.
    """

    unit: str
    relation: str
    view: str
    mechanism: str
    epsilon: float | None
    delta: float | None
    guarantee: str
    meaningful: bool
    assumptions: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types (no guarantee is null, never Infinity)."""
        return {**dataclasses.asdict(self), "assumptions": [*self.assumptions], "not_covered": [*self.not_covered]}


_LOCAL_ASSUMPTIONS = (
    "labels, presence and the number of images are known to the adversary",
    "the clipping radius and the budget's shape were learnt on public or procedural faces",
)
_DRAWN_ONCE = "noise comes from the operating system and each noisy copy is drawn once and kept"
_DRAWN_AFRESH = "noise comes from the operating system and is fresh at every reading"
FLOATING = "floating-point effects of the noise (real arithmetic is assumed)"
EXACT = "noise is drawn exactly and added on a public grid (no real arithmetic is assumed)"
TIMED = "how long the noise took to draw"
"""One of FLOATING, or EXACT with TIMED, is said of every formal claim."""

_LOCAL_NOT_COVERED = (
    "another photograph of the same person, which is another release",
    "that a person is present, and which label an image has",
)


def _formal(release: LocalRelease, diameter: float, unit: str, extra: tuple[str, ...]) -> Statement:
    pure = release.mechanism == "laplace"
    epsilon = diameter if pure else gaussian.epsilon_of(diameter, release.delta)
    exact, limits = arithmetic(on_grid(release))
    return Statement(
        unit=unit,
        relation="replace-one",
        view=release.view,
        mechanism=f"{'Laplace' if pure else 'Gaussian'} noise on clipped frequency coefficients",
        epsilon=epsilon,
        delta=0.0 if pure else release.delta,
        guarantee="formal",
        meaningful=epsilon <= MEANINGFUL,
        assumptions=(*_LOCAL_ASSUMPTIONS, _DRAWN_ONCE if release.releases == 1 else _DRAWN_AFRESH, *exact, *extra),
        not_covered=(*limits, *_LOCAL_NOT_COVERED),
    )


def arithmetic(exact: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a claim assumes, and does not cover, because of how its noise was drawn."""
    return ((EXACT,), (TIMED,)) if exact else ((), (FLOATING,))


def _total(release: LocalRelease, images: int) -> float:
    """Compose `images` releases: pure losses add, Gaussian mu grows by the square root."""
    count = images * release.releases
    return release.diameter * (count if release.mechanism == "laplace" else math.sqrt(count))


def price(event: Event) -> list[Statement]:
    """Return the statements of one event: the image's, and the identity's where a public cap is enforced.

    >>> from fedveil.privacy.events import LocalRelease
    >>> [(s.unit, s.epsilon, s.meaningful) for s in price(LocalRelease("laplace", 8.0, max_images_per_identity=5))]
    [('image', 8.0, True), ('identity', 40.0, False)]
    """
    if isinstance(event, NonPrivate):
        return [
            Statement(event.unit, "none", event.view, event.reason, None, None, "none", False, (), ("everything",)),
        ]
    if not isinstance(event, LocalRelease):
        raise checks.UserError(
            f"Expected event={type(event).__name__} to be priced by an accountant (fedveil.privacy.accounting); "
            "only local releases and non-private ones have closed-form statements."
        )
    repeats = () if event.releases == 1 else (f"each image leaves at most {event.releases} times, freshly noised",)
    found = [_formal(event, _total(event, 1), "image", repeats)]
    cap = event.max_images_per_identity
    if cap is not None:
        held = (*repeats, f"at most {cap} images of one identity are used (enforced), all of one owner")
        found.append(_formal(event, _total(event, cap), "identity", held))
    return found


def together(releases: Sequence[tuple[LocalRelease, int]]) -> list[Statement]:
    """Return the statements of all releases of one image in a run, each `count` times: one per unit, composed.

    >>> a, b = LocalRelease("laplace", 8.0, max_images_per_identity=5), LocalRelease("laplace", 2.0)
    >>> [(s.unit, s.epsilon) for s in together([(a, 1), (dataclasses.replace(a, diameter=2.0), 2)])]
    [('image', 12.0), ('identity', 60.0)]
    >>> [(s.unit, s.epsilon) for s in together([(a, 1), (b, 1)])]  # nothing bounds a person's images under b
    [('image', 10.0)]
    """
    if not releases:
        return []
    if len(releases) == 1 and (releases[0][1] == 1 or releases[0][0].releases > 1):
        return price(repeated(*releases[0]))
    delta = max(event.delta for event, _ in releases)
    caps = [event.max_images_per_identity for event, _ in releases]
    said = f"sum over {sum(count for _, count in releases)} mechanisms under which copies of one image were drawn"
    found = []
    for unit, times in (("image", [1] * len(releases)), ("identity", caps)):
        if None in times:
            continue
        parts = [one for event, _ in releases for one in price(event) if one.unit == unit]
        counted = [(event, count * (many or 1)) for (event, count), many in zip(releases, times, strict=True)]
        found.append(composed(parts, local_epsilon(counted, delta), delta, said))
    return found


def repeated(event: LocalRelease, count: int) -> LocalRelease:
    """Return the event that stands for `count` equal ones."""
    return dataclasses.replace(event, releases=event.releases * count)


def local_epsilon(releases: Iterable[tuple[LocalRelease, int]], delta: float) -> float:
    """Return the epsilon at one delta of local releases of one image, each `count` times, nats.

    Pure losses add; Gaussian releases are GDP, whose squares add, and are converted to this delta together, whatever
    delta each was stated at. So two sets of releases are compared by one number. Nothing here may depend on earlier
    outputs but the noise: for releases that were chosen after seeing results there is `accounting.filters`.

    >>> from fedveil.privacy.events import LocalRelease
    >>> local_epsilon([(LocalRelease("laplace", 8.0), 2), (LocalRelease("laplace", 5.0), 1)], 1e-5)
    21.0
    """
    counted = [(release, count * release.releases) for release, count in releases]
    pure = math.fsum(one.diameter * count for one, count in counted if one.mechanism == "laplace")
    squares = math.fsum(one.diameter**2 * count for one, count in counted if one.mechanism == "gaussian")
    return pure + (gaussian.epsilon_of(math.sqrt(squares), delta) if squares else 0.0)


def composed(parts: Sequence[Statement], epsilon: float, delta: float, mechanism: str) -> Statement:
    """Return the statement of several composed ones of the same unit, relation and view; assumptions are joined.

    Where one of them has noise of real arithmetic, so has the whole.
    """
    not_covered = tuple(dict.fromkeys(text for part in parts for text in part.not_covered))
    dropped = (EXACT,) if FLOATING in not_covered else ()
    return dataclasses.replace(
        parts[0],
        epsilon=epsilon,
        delta=delta,
        mechanism=mechanism,
        meaningful=epsilon <= MEANINGFUL,
        assumptions=tuple(dict.fromkeys(text for part in parts for text in part.assumptions if text not in dropped)),
        not_covered=not_covered,
    )


NOBODY = "no private face was read"
"""How the mechanism of a statement about people begins whom a generator of synthetic faces learnt from."""

FIXED_NOISE = "NOT PRIVATE, the noise was fixed (privacy.test_seed)"


def void(statement: Statement, reason: str) -> Statement:
    """Return what is left of a statement when one of its assumptions is known not to hold: nothing."""
    if statement.epsilon is None:
        return statement
    return dataclasses.replace(
        statement,
        epsilon=None,
        delta=None,
        guarantee="none",
        meaningful=False,
        mechanism=f"{reason}: {statement.mechanism}",
    )


def claim(statement: Statement) -> str:
    """Return one sentence: unit, relation, view, epsilon and delta together."""
    if statement.epsilon is None:
        return (
            f"{statement.unit}: no formal guarantee (epsilon is infinite) against anyone who sees {statement.view}: "
            f"{statement.mechanism}."
        )
    return (
        f"{statement.unit}: epsilon = {statement.epsilon:.6g} at delta = {statement.delta:g} ({statement.relation}), "
        f"against anyone who sees {statement.view}."
    )


def odds(statement: Statement, false_alarm: float = 0.01) -> float | None:
    """Return the largest true-positive rate of any test at this false-alarm rate; None without a bound.

    Both sides of the definition bound it: TPR <= e^eps FPR + delta, and 1 - FPR <= e^eps (1 - TPR) + delta.
    """
    if statement.epsilon is None or statement.delta is None:
        return None
    grown = math.exp(min(statement.epsilon, 700.0)) * false_alarm + statement.delta
    missed = math.exp(-statement.epsilon) * (1.0 - false_alarm - statement.delta)
    return max(0.0, min(1.0, grown, 1.0 - max(0.0, missed)))


def all_meaningful(statements: Sequence[Statement]) -> bool:
    """Return whether every release of a run has a meaningful guarantee; identity rows follow from the images' ones.

    Not those of people whom a generator of synthetic faces learnt from: no noise of the run protects them.

    A missing guarantee for a representation does not count against a run whose only release, the model, is covered at
    client level: nothing but the model leaves in training.
    """
    rows = [one for one in statements if one.unit != "identity" or one.mechanism.startswith(NOBODY)]
    if any(statement.unit == "client" and statement.meaningful for statement in rows):
        rows = [s for s in rows if s.epsilon is not None or not s.view.startswith("the representation")]
    return bool(rows) and all(statement.meaningful for statement in rows)


def headline(statements: Sequence[Statement]) -> str:
    """Return the one line above all others: what image protection this run has, or that it has none."""
    images = [statement for statement in statements if statement.unit == "image"]
    if learnt := [one for one in statements if one.mechanism.startswith(NOBODY)]:
        said = f"{NOBODY} beside the training of the generator of the faces, whose guarantee holds"
        if any(one.epsilon is None for one in learnt):
            said = f"{NOBODY}; the people whom the generator of the faces learnt from have no guarantee"
        return f"{_headline(images)}; {said}" if images else said
    return _headline(images)


def _headline(images: Sequence[Statement]) -> str:
    if not images or all(statement.epsilon is None for statement in images):
        return "no image protection: nothing bounds what a face's representation tells"
    worst = max(images, key=lambda s: math.inf if s.epsilon is None else s.epsilon)
    if worst.epsilon is None or not worst.meaningful:
        shown = "infinite" if worst.epsilon is None else f"{worst.epsilon:.6g}"
        why = f"image-level epsilon {shown} is above {MEANINGFUL:g}"
        if worst.epsilon is not None and worst.epsilon <= MEANINGFUL:
            why = f"delta {worst.delta:g} is larger than the number of images allows"
        return f"no meaningful image protection at this setting ({why})"
    return f"image-level epsilon {worst.epsilon:.6g} at delta {worst.delta:g} ({worst.relation})"
