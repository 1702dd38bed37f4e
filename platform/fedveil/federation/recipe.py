"""What a recipe may not ask of a protection: refused on both sides before anything is made."""

from __future__ import annotations

from typing import Any

from fedveil import checks
from fedveil.configuration.schema import Config
from fedveil.privacy.events import LocalRelease


def check(settings: Config, protection: Any) -> None:
    """Refuse settings that this protection cannot follow, or only by releasing a face once more.

    Raises:
        fedveil.checks.UserError: naming the setting, why, and the remedy.
    """
    name = settings.protection.name
    if settings.train.correction != "none":
        _check_correction(settings)
    if settings.evaluation.flip == "always" and not protection.mirrors:
        raise checks.UserError(
            f"evaluation.flip=always needs a release that gives its mirror image without another draw, and that of "
            f"protection={name} does not; say evaluation.flip=auto, or choose protection=none, dct or dctdp."
        )
    augment = settings.train.augment
    if augment.distorts and protection.memoise:
        said = f"crop={augment.crop:g}" if augment.crop else f"jitter={augment.jitter:g}"
        raise checks.UserError(
            f"train.augment.{said} changes a picture before its noise, and protection={name} keeps one noisy copy of "
            "each: every variant would be another release of the face. Leave it out; train.augment.flip=true mirrors "
            "the copy itself."
        )
    if augment.flip and not protection.mirrors and _formal(settings, protection):
        raise checks.UserError(
            f"train.augment.flip=true would need a second draw of every face under protection={name}, whose release "
            "does not give its mirror image; leave it out."
        )


def evaluates_flips(settings: Config, protection: Any) -> bool:
    """Return whether an evaluation adds the embeddings of mirrored releases."""
    return settings.evaluation.flip != "none" and bool(protection.mirrors)


def _check_correction(settings: Config) -> None:
    said = f"train.correction={settings.train.correction}"
    if settings.train.local.steps is None:
        raise checks.UserError(
            f"{said} needs train.local.steps=N: how many steps an update is made of must be public and equal for all."
        )
    if settings.privacy.client is not None:
        raise checks.UserError(
            f"{said} adds up every round's mean update, and with privacy.client every round's clipping and noise, "
            "which clients' own variates do not know: leave one of them out (train.correction=none or "
            "privacy.client=none)."
        )


def _formal(settings: Config, protection: Any) -> bool:
    """Return whether what leaves of an image is bounded, so that training reads what leaves and nothing else."""
    side = int(settings.data.settings["size"])
    return isinstance(protection.planned((side, side)), LocalRelease)
