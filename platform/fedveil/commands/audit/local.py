"""The attack on a protection's release: which of two extreme images is behind a noisy copy?"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.commands.audit.report import LEVEL, Bound
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy import audit, gaussian, statements
from fedveil.privacy.accounting.pld import LIVE_GRID
from fedveil.privacy.audit import Scores
from fedveil.privacy.events import LocalRelease, Release
from fedveil.privacy.ledger import Row

_NUMBERS = 2e7  # released numbers on each side: seconds
_FEWEST = 200
_BATCH = 64


def attack(
    federation: Federation, rows: Sequence[Row], state: Mapping[str, NDArray[Any]] | None, draws: int,
    level: float = LEVEL,
) -> list[Bound]:  # fmt: skip
    """Return the bounds for one release of one image; none where the protection promises nothing.

    Two patterns that are as far apart as clipping lets them be take the place of faces; the score is the likelihood
    ratio of everything that was released.

    Args:
        federation: names the protection and the public data whose size and budget shape it has.
        rows: of the run's ledger, whose claim is audited; without a release of an image in it the planned one is.
        state: the protection's public state; None learns it from the public faces.
        draws: releases of each of the two images; fewer where images are large.
        level: of one bound.
    """
    settings, protection = federation.settings, federation.protection
    if not protection.noise:
        return []
    public = federation.public
    known = {name: torch.from_numpy(np.asarray(value)) for name, value in (state or {}).items()}
    known = known or protection.fit(public.images(), public.labels, settings.seed)
    event = protection.event(public.size, known)
    if not isinstance(event, LocalRelease):
        return []
    begun = time.perf_counter()
    scores = releases(protection, known, public.size, draws, settings.privacy.test_seed)
    # What is said of images does not depend on rounds, which take long to price.
    own = [row for row in rows if not isinstance(row.event, Release)]
    if any(row.status == "spent" and isinstance(row.event, LocalRelease) for row in own):
        found = claims.of_run(federation, own)
    else:
        found = claims.planned(federation, federation.release_event(known), LIVE_GRID)
    one_copy = next(one for one in statements.price(event) if one.unit == "image")
    proven, delta = one_copy.epsilon or math.inf, one_copy.delta or 0.0
    claimed, void = claims.claimed("image", found.statements)
    values = [("Clopper-Pearson", audit.by_halves(scores, lambda c: audit.clopper_pearson(c, delta, level))[0])]
    if event.mechanism == "gaussian":
        mu, _ = audit.by_halves(scores, lambda counts: audit.gaussian_mu(counts, level))
        values.append(("trade-off curve", gaussian.epsilon_of(mu, delta) if mu > 0 else 0.0))
    seconds, trials = time.perf_counter() - begun, int(scores.present.size + scores.absent.size)
    what = f"one noisy copy ({settings.protection.name}), an image against its negative"
    return [Bound(what, "image", claimed, void, proven, delta, value, name, trials, seconds) for name, value in values]


def releases(
    protection: Any, state: Mapping[str, torch.Tensor], size: tuple[int, int], draws: int, test_seed: int | None = None
) -> Scores:
    """Return log-likelihood ratios of releases of an extreme image (present) and of its negative (absent)."""
    numbers = math.prod(protection.representation(size))
    draws = int(min(draws, max(_FEWEST, _NUMBERS / numbers)))

    def released(image: torch.Tensor, purpose: str, count: int) -> list[torch.Tensor]:
        found = []
        for start in range(0, count, _BATCH):
            places = range(start, min(start + _BATCH, count))
            keys = [
                randomness.os_key() if test_seed is None else randomness.test_key(test_seed, purpose, place)
                for place in places
            ]
            streams = [randomness.SecretStream(key) for key in keys]
            found.append(protection.release(image.expand(len(places), -1, -1, -1), state, streams).double())
        return found

    order = 1 if protection.noise == "laplace" else 2
    grey = torch.full((1, 3, *size), 128, dtype=torch.uint8)
    pilot = torch.cat(released(grey, "audit pilot", _BATCH)) - protection.clean(grey, state)
    spread = pilot.abs().pow(order).mean(0).clamp(min=1e-300)
    image = _furthest(protection, state, size, spread.pow(1 / order))
    centre, other = (protection.clean(one, state).double() for one in (image, 255 - image))

    def ratios(batch: torch.Tensor) -> torch.Tensor:
        losses = (batch - other).abs().pow(order) - (batch - centre).abs().pow(order)
        found: torch.Tensor = (losses / (order * spread)).flatten(1).sum(1)
        return found

    sides = [
        torch.cat([ratios(batch) for batch in released(one, f"audit {side}", draws)]).numpy()
        for side, one in enumerate((image, 255 - image))
    ]
    return Scores(*sides)


def _furthest(
    protection: Any, state: Mapping[str, torch.Tensor], size: tuple[int, int], scale: torch.Tensor
) -> torch.Tensor:
    """Return the pattern (1, 3, H, W) that is furthest from its negative in units of the noise, of those tried.

    Stripes, boards and random dots in four colours, on the whole image or in its corner, grey elsewhere: a loss
    concentrated in few numbers is easier to see than one spread thinly.
    """
    down, right = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    dots = torch.from_numpy(randomness.public_rng(0, "audit pattern").integers(0, 2, size))
    stripes = [line // step % 2 for step in (1, 2, 4) for line in (down, right, down + right)]
    colours = [torch.tensor(signs).view(3, 1, 1) for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))]
    best, furthest = torch.zeros(1, 3, *size, dtype=torch.uint8), -1.0
    for pattern, colour, edge in itertools.product([dots, *stripes], colours, (8, 16, max(size))):
        inside = (down < edge) & (right < edge)
        signs = torch.where(inside, 2 * pattern - 1, 0) * colour
        image = torch.where(signs == 0, 128, (signs > 0) * 255).to(torch.uint8)[None]
        apart = protection.clean(image, state) - protection.clean(255 - image, state)
        distance = float((apart[0].double() / scale).norm())
        if distance > furthest:
            best, furthest = image, distance
    return best
