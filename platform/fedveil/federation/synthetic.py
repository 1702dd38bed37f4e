"""Which synthetic faces a configuration reads, what for, and what that puts into the run's ledger.

Places stay on the machine that has them. What is compared between machines are hashes, found when a run is planned: of
what the training faces were made from (`data.origin`), and of the identity bank's faces (`train.bank_sha256`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

from fedveil import checks
from fedveil.configuration.schema import Config, Group
from fedveil.data import provenance, synthetic_set
from fedveil.data.faces import FaceSet
from fedveil.privacy.events import Event, NonPrivate, Synthetic

NAME = "synthetic"
"""As a data source, as `train.warm_start` and as `train.identity_bank`."""
Use = Literal["data", "start", "bank"]


def uses(settings: Config) -> tuple[Use, ...]:
    """Return what a configuration reads synthetic faces for."""
    found: list[Use] = ["data"] if settings.data.name == NAME else []
    found += ["start"] if settings.train.warm_start == NAME else []
    return (*found, "bank") if has_bank(settings) else tuple(found)


def has_bank(settings: Config) -> bool:
    """Return whether every client's negatives are synthetic."""
    return settings.train.identity_bank == NAME and settings.train.bank_identities > 0


def learnt(settings: Config) -> tuple[Synthetic, ...]:
    """Return the events of a run's synthetic faces, as their files say; one a use.

    Raises:
        fedveil.checks.UserError: a file that is missing, damaged, or does not say what it was made from.
    """
    return tuple(_made(*_place(settings, use)).event(use) for use in uses(settings))


def booked(settings: Config, event: Event) -> Event:
    """Return an image's own event as an owner's ledger has it: of synthetic faces no person's picture left."""
    if settings.data.name != NAME or not isinstance(event, NonPrivate):
        return event
    return dataclasses.replace(event, reason="the pictures are synthetic faces; the run says what they were made from")


def faces(settings: Config, what: str) -> FaceSet:
    """Return the faces of `train.synthetic` at the run's size; `what` is the setting that reads them.

    Raises:
        fedveil.checks.UserError: none is named, or as `data.synthetic_set.read`.
    """
    if settings.train.synthetic is None:
        raise checks.UserError(f"{what} reads synthetic faces: say where they are with train.synthetic=FILE.")
    return _faces(settings.train.synthetic, int(settings.data.settings["size"]))


def bank(settings: Config) -> FaceSet:
    """Return the identity bank: the first `train.bank_identities` people of the set.

    Raises:
        fedveil.checks.UserError: the set has fewer, or other faces than the run was planned with.
    """
    train = settings.train
    found = synthetic_set.first_people(
        faces(settings, "train.identity_bank=synthetic"), train.bank_identities,
        f"train.bank_identities={train.bank_identities}",
    )  # fmt: skip
    if train.bank_sha256 is not None and synthetic_set.digest(found) != train.bank_sha256:
        raise checks.UserError(
            "train.synthetic holds other faces than this run was planned with (train.bank_sha256): every client must "
            "have the same negatives. Use a copy of the coordinator's file."
        )
    return found


def planned(settings: Config) -> Config:
    """Return the configuration with the hashes by which every machine knows its files again.

    Raises:
        fedveil.checks.UserError: a file that is missing or no set of synthetic faces.
    """
    if settings.data.name == NAME and settings.data.settings["origin"] is None:
        origin = _made(*_place(settings, "data")).origin
        settings = dataclasses.replace(settings, data=Group(NAME, {**settings.data.settings, "origin": origin}))
    if has_bank(settings) and settings.train.bank_sha256 is None:
        train = dataclasses.replace(settings.train, bank_sha256=synthetic_set.digest(bank(settings)))
        settings = dataclasses.replace(settings, train=train)
    return settings


def check_planned(settings: Config) -> None:
    """Refuse a configuration without these hashes: another file would go unnoticed.

    Raises:
        fedveil.checks.UserError: naming the remedy.
    """
    unknown = settings.data.name == NAME and settings.data.settings["origin"] is None
    if unknown or (has_bank(settings) and settings.train.bank_sha256 is None):
        key = "data.origin" if unknown else "train.bank_sha256"
        raise checks.UserError(
            f"{key} is missing: `fedveil simulate`, `sweep` and `bundle` find it in the set of synthetic faces; a "
            "configuration written by hand must carry it."
        )


def _place(settings: Config, use: Use) -> tuple[str, str]:
    """Return (place, the setting that names it)."""
    if use == "data":
        place, setting = str(settings.data.settings["path"]), "data.path"
    else:
        place, setting = settings.train.synthetic or "", "train.synthetic"
    if not place:
        raise checks.UserError(f"{setting} says nothing: where are the synthetic faces? Write {setting}=FILE.")
    return place, setting


def _made(place: str, setting: str) -> provenance.Provenance:
    return provenance.of_file(place, setting)


@functools.lru_cache(maxsize=2)
def _faces(place: str, size: int) -> FaceSet:
    found, _ = synthetic_set.read(place, size, "train.synthetic")
    return found
