"""What recovered faces are worth: do they look like the person, and are they accepted as the person?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.attacks._judges import Judge
from fedveil.attacks._people import People
from fedveil.attacks._target import Target
from fedveil.attacks.base import Measure, OnFaces
from fedveil.evaluation import identification, reconstruction
from fedveil.evaluation.identification import mean_over_people, ranks, threshold_at
from fedveil.protections.base import to_uint8

Values = NDArray[np.float64]


def measures(
    target: Target, wanted: OnFaces, people: People, judge: Judge, recovered: torch.Tensor
) -> tuple[Measure, ...]:
    """Return the measures of recovered faces.

    Thresholds come from pairs of different victims' clean pictures for the judge, and of their releases for the
    system; nobody's pairs of equal people choose them.

    Args:
        target: the attacked run.
        wanted: the attack's settings.
        people: its groups.
        judge: who decides.
        recovered: (V, 3, H, W), 0..255, of the victims' taken pictures in their order; unrounded pictures are rounded
            before anybody looks at them.
    """
    pictures = to_uint8(recovered.cpu()).numpy()
    mean = np.broadcast_to(mean_face(people), pictures.shape)
    found = _by_judge(wanted, people, judge, pictures, mean)
    found += _by_system(target, wanted, people, pictures, mean)
    return (*found, *_looks(wanted, people, recovered, mean))


def mean_face(people: People) -> NDArray[np.uint8]:
    """Return (3, H, W) the mean of the attacker's own people: what he guesses of a victim without any release."""
    found: NDArray[np.uint8] = np.round(people.attacker.mean(axis=0)).astype(np.uint8)
    return found


def _by_judge(
    wanted: OnFaces, people: People, judge: Judge, pictures: NDArray[np.uint8], mean: NDArray[np.uint8]
) -> list[Measure]:
    taken, other = judge.embed(people.taken), judge.embed(people.other)
    mine, guess = judge.embed(pictures), judge.embed(np.ascontiguousarray(mean[:1]))
    guess = np.repeat(guess, len(mine), axis=0)
    impostors = identification.impostor_scores(taken, other)
    tau = threshold_at(impostors, wanted.far)
    at, count = f"at a false accept rate of {wanted.far:g}", len(mine)

    def accepted(probe: Values, against: Values) -> Values:
        return above(probe, against, tau)

    def within(probe: Values, top: int) -> Values:
        return (ranks(probe, other) <= top).astype(np.float64)

    shares = [
        ("linked", f"recovered faces accepted as their person beside ANOTHER picture of the person, {at}",
         accepted(mine, other), accepted(taken, other), accepted(guess, other), wanted.far),
        ("accepted_same_photo", f"recovered faces accepted beside the very picture they were made from, {at}",
         accepted(mine, taken), accepted(taken, taken), accepted(guess, taken), wanted.far),
        ("rank1", f"recovered faces whose person is found first among {count} people's other pictures",
         within(mine, 1), within(taken, 1), within(guess, 1), 1 / count),
        ("rank5", f"recovered faces whose person is among the first five of {count}",
         within(mine, 5), within(taken, 5), within(guess, 5), 5 / count),
    ]  # fmt: skip
    found = [measured(wanted, *share) for share in shares]
    cosine = (mine * taken).sum(1)
    share = mean_over_people(cosine, rng_of(wanted, "identity_cosine"))
    found.append(
        Measure(
            "identity_cosine", share.value, "cosine of the judge's embeddings, recovered and original", "cosine",
            share.low, share.high, float(impostors.mean()), 1.0, float((guess * taken).sum(1).mean()),
        )
    )  # fmt: skip
    return found


def _by_system(
    target: Target, wanted: OnFaces, people: People, pictures: NDArray[np.uint8], mean: NDArray[np.uint8]
) -> list[Measure]:
    """Return whether the deployed system accepts a recovered face that is held before its camera."""
    enrolled = target.templates(target.release(people.other, wanted.seed, "enrolled"))
    taken = target.templates(target.release(people.taken, wanted.seed, "probe"))
    mine = target.templates(target.release(pictures, wanted.seed, "replayed"))
    guess = target.templates(target.release(np.ascontiguousarray(mean), wanted.seed, "mean"))
    tau = threshold_at(identification.impostor_scores(taken, enrolled), wanted.far)

    def accepted(probe: Values) -> Values:
        return above(probe, enrolled, tau)

    said = (
        "recovered faces that the attacked system itself accepts beside its enrolled release of another picture, at a "
        f"false accept rate of {wanted.far:g}"
    )
    return [measured(wanted, "replayed", said, accepted(mine), accepted(taken), accepted(guess), wanted.far)]


def _looks(wanted: OnFaces, people: People, recovered: torch.Tensor, mean: NDArray[np.uint8]) -> list[Measure]:
    original, guess = torch.from_numpy(people.taken), torch.from_numpy(mean.copy())
    seen = recovered.cpu().nan_to_num(0.0).clamp(0, 255)
    found = []
    for name, said, unit, function, best in (
        ("ssim", "structural similarity of recovered and original", "", reconstruction.ssim, 1.0),
        ("psnr", "peak signal-to-noise ratio of recovered and original", "dB", reconstruction.psnr, None),
    ):
        share = mean_over_people(function(seen, original).numpy(), rng_of(wanted, name))
        nothing = float(function(guess, original).mean())
        found.append(Measure(name, share.value, said, unit, share.low, share.high, nothing, best, nothing))
    return found


def measured(
    wanted: OnFaces, name: str, said: str, values: Values, clean: Values, guess: Values, floor: float
) -> Measure:
    """Return a share of people with its interval, and what clean pictures and the mean face give."""
    share = mean_over_people(values, rng_of(wanted, name))
    return Measure(
        name, share.value, said, "share", share.low, share.high, floor, float(clean.mean()), float(guess.mean())
    )


def above(probe: Values, against: Values, tau: float) -> Values:
    """Return (V,) 1 where the cosine of two rows is above a threshold, else 0."""
    found: Values = ((probe * against).sum(1) > tau).astype(np.float64)
    return found


def rng_of(wanted: OnFaces, name: str) -> np.random.Generator:
    """Return the public randomness of one measure's resamples."""
    return randomness.public_rng(wanted.seed, "attack bootstrap", name)
