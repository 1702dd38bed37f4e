"""What a public linear map shows of a picture: its rank and condition, and how well it inverts as it is sent."""

from __future__ import annotations

import numpy as np
import torch

from fedveil.attacks._linear_estimates import seen
from fedveil.attacks._linear_known import Known, Sent, map_of, pictures, sent
from fedveil.attacks._linear_prior import planes_of
from fedveil.attacks._people import People
from fedveil.attacks._recovered import mean_face, rng_of
from fedveil.attacks._target import Target
from fedveil.attacks.base import Measure, OnFaces
from fedveil.evaluation import reconstruction
from fedveil.evaluation.identification import mean_over_people

_FORMATS: tuple[tuple[str, Sent, str], ...] = (
    ("psnr_mean_known", "float32", "sent as float32"),
    ("psnr_float16", "float16", "sent as float16"),
    ("psnr_8bit", "8 bit", "sent as 8 bit, one scale per picture and channel"),
)


def of_known(known: Known, wanted: OnFaces, people: People, released: torch.Tensor) -> list[Measure]:
    """Return the measures of a public map on the victims' releases (V, *representation)."""
    spectra = [map_of(known.known, order, known.size).spectrum() for order in known.sets]
    height, width = known.size
    rank = float(np.mean([3 * found for found, _ in spectra]))
    found = [
        Measure(
            "rank", rank, "dimensions of a picture that what leaves tells above float32's rounding", "",
            floor=0.0, ceiling=3.0 * height * width,
        ),
        Measure(
            "condition", float(np.mean([condition for _, condition in spectra])),
            "largest singular value of the map over the smallest one of this rank", "", ceiling=1.0,
        ),
    ]  # fmt: skip
    original = torch.from_numpy(people.taken)
    levels = planes_of(people.taken).mean((2, 3))
    mean = torch.from_numpy(mean_face(people)).expand_as(original)
    guess = float(reconstruction.psnr(mean, original).mean())

    def measure(name: str, said: str, planes: torch.Tensor) -> Measure:
        values = reconstruction.psnr(seen(pictures(planes)), original).numpy()
        share = mean_over_people(values, rng_of(wanted, name))
        return Measure(name, share.value, said, "dB", share.low, share.high, guess, None, guess)

    for name, how, said in _FORMATS:
        planes = known.posterior(sent(released, how), how)
        found.append(measure(name, f"{said}; the planes' true means given", known.levelled(planes, levels)))
    squares = known.least_squares(released)
    found.append(measure("psnr_squares", "least squares alone; true means given", known.levelled(squares, levels)))
    mine = known.prior.mean.mean((1, 2))
    grey = torch.zeros(3, dtype=torch.float64)
    found += [
        measure("psnr_mean_unknown", "least squares with his own people's means", known.levelled(squares, mine)),
        measure("psnr_mid_grey", "least squares around mid-grey", known.levelled(squares, grey)),
    ]
    return found


def order_found(known: Known, target: Target, wanted: OnFaces, people: People) -> Measure | None:
    """Return how often a secret order is identified; None where there is one order only.

    An order is right if it makes of the clean picture what left: whoever judges the attack has that picture, and asks
    neither the method's state nor its draw.
    """
    orders = known.known.orders
    if len(orders) == 1:
        return None
    released = target.release(people.taken, wanted.seed, "victims").cpu()
    found = known.identified(released)
    right = np.zeros(len(released))
    planes = planes_of(people.taken)
    for index, row in enumerate(released):
        order = orders[int(found[index])]
        true = map_of(known.known, order, known.size).forward(planes[index : index + 1])[0].flatten(0, 1)
        right[index] = float((true - row).abs().max()) < 0.01
    share = mean_over_people(right, rng_of(wanted, "order_found"))
    said = f"releases whose order, one of {len(orders)}, is found from the release alone"
    return Measure("order_found", share.value, said, "share", share.low, share.high, 1 / len(orders), 1.0)
