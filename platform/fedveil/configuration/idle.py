"""Settings that are read only beside others, in one table: who says one that would do nothing is told so.

Defaults and studies may hold such a setting; what a person says is meant to do something.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fedveil import checks
from fedveil.configuration import text
from fedveil.configuration.schema import Config, Group


class _At:
    """A configuration by dotted keys; None where a block is absent or a method has no such setting."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings

    def __call__(self, key: str) -> Any:
        found: Any = self._settings
        for step in key.split("."):
            if isinstance(found, Group):
                found = found.name if step == "name" else found.settings.get(step)
            else:
                found = getattr(found, step, None)
        return found


@dataclasses.dataclass(frozen=True)
class Rule:
    """When settings are read.

    Attributes:
        keys: dotted keys.
        read: whether they are, by the whole configuration.
        needs: the word or words that make it so, as a person would type them.
        method: `group=name`, for settings of one method.
    """

    keys: tuple[str, ...]
    read: Callable[[_At], bool]
    needs: str
    method: str = ""


def _is(key: str, *values: Any) -> Callable[[_At], bool]:
    return lambda at: at(key) in values


def _target(at: _At) -> bool:
    return at("privacy.client.epsilon") is not None or at("privacy.client.noise_multiplier") is not None


def _finite(at: _At) -> bool:
    return at("privacy.client.epsilon") not in (None, math.inf)


def _noisy(at: _At) -> bool:
    return at("privacy.client.noise_multiplier") is not None or _finite(at)


def _without(at: _At) -> bool:
    limited = at("policy.max_total_epsilon") is not None or at("policy.max_client_epsilon") is not None
    guarded = at("protection.name") != "none" or at("privacy.image") is not None or at("privacy.identity") is not None
    return not at("evaluation.reference") or (guarded and not limited)


def _private(unit: str) -> Callable[[_At], bool]:
    """Return whether private training is asked for this unit."""
    names = ("epsilon", "noise_multiplier")
    return lambda at: any(at(f"privacy.{unit}.{name}") is not None for name in names)


def _noisy_rounds(unit: str) -> Callable[[_At], bool]:
    """Return whether private training adds noise for this unit in more than one round."""
    asked = _private(unit)
    return lambda at: asked(at) and at(f"privacy.{unit}.epsilon") != math.inf and at("train.rounds") > 1


def _recognises(at: _At) -> bool:
    return bool(at("generator.name") == "none")


def _synthetic_bank(at: _At) -> bool:
    return bool(at("train.identity_bank") == "synthetic" and at("train.bank_identities") > 0)


def _varied(at: _At) -> bool:
    varied = at("train.augment.flip") or at("train.augment.crop") or at("train.augment.jitter")
    return bool(varied) or not _recognises(at)


_UNITS, _CENTRES = ("image", "identity"), ("head", "rows")
_STEPS = ("clip", "delta", "sampling_rate", "expected_batch", "clipping", "head", "rows", "gradients")
"""Settings of a budget of private training, beside those that ask for it."""

RULES = (
    Rule(("partition.exponent",), _is("partition.kind", "long_tailed"), "partition.kind=long_tailed"),
    Rule(("train.cohort.rate",), _is("train.cohort.kind", "poisson"), "train.cohort.kind=poisson"),
    Rule(("train.cohort.size",), _is("train.cohort.kind", "fixed"), "train.cohort.kind=fixed"),
    Rule(("train.local.steps",), lambda at: at("train.local.steps") is not None, "train.local.epochs to be left out"),
    Rule(("train.local.epochs",), lambda at: at("train.local.epochs") is not None, "train.local.steps to be left out"),
    Rule(("train.schedule.final",), _is("train.schedule.kind", "cosine"), "train.schedule.kind=cosine"),
    Rule(
        ("train.schedule.milestones", "train.schedule.factor"),
        _is("train.schedule.kind", "steps"),
        "train.schedule.kind=steps",
    ),
    Rule(
        ("train.proximal",),  # the first step starts where the round does
        lambda at: at("train.local.steps") != 1,
        "train.local.steps above 1, or train.local.epochs",
    ),
    Rule(("train.average",), lambda at: at("train.rounds") > 1, "train.rounds above 1"),
    Rule(
        ("train.warm_steps", "train.warm_lr"),
        _is("train.warm_start", "public", "synthetic"),
        "train.warm_start=public or synthetic",
    ),
    Rule(
        ("train.identity_bank",),
        lambda at: at("train.bank_identities") > 0 or at("train.identity_bank") == "public",
        "train.bank_identities above 0",
    ),
    Rule(
        ("train.synthetic",),
        lambda at: at("train.warm_start") == "synthetic" or _synthetic_bank(at),
        "train.warm_start=synthetic, or train.identity_bank=synthetic and train.bank_identities above 0",
    ),
    Rule(
        ("train.bank_sha256",),
        _synthetic_bank,
        "train.identity_bank=synthetic and train.bank_identities above 0",
    ),
    Rule(
        ("train.warm_start_is_public",),
        lambda at: at("train.warm_start") not in (None, "public", "synthetic"),
        "train.warm_start=RUN_ID or a file",
    ),
    Rule(
        ("privacy.client.quantile_share", "privacy.client.quantile_lr"),
        lambda at: _target(at) and at("privacy.client.quantile") is not None,
        "privacy.client.quantile=0.5",
    ),
    *(
        Rule(
            tuple(f"privacy.{unit}.{name}" for name in _STEPS),
            _private(unit),
            f"privacy.{unit}.epsilon=8 or privacy.{unit}.noise_multiplier=1",
        )
        for unit in ("image", "identity")
    ),
    Rule(
        ("privacy.image.views", "privacy.identity.views"),
        _varied,
        "train.augment.flip=true, crop or jitter, or generator=id3: equal views of a picture tell nothing new",
    ),
    Rule(
        ("train.head_lr", "head.margin", "head.scale", *(f"privacy.{unit}.{n}" for unit in _UNITS for n in _CENTRES)),
        _recognises,
        "generator=none: a generator has no class centres",
    ),
    *(
        Rule((f"privacy.{unit}.noise_end",), _noisy_rounds(unit), "noise (epsilon=8), and train.rounds above 1")
        for unit in ("image", "identity")
    ),
    Rule(("privacy.identity.images_per_step",), _private("identity"), "privacy.identity.epsilon=8"),
    Rule(("privacy.client.on_exhausted",), _finite, "privacy.client.epsilon=8"),
    Rule(("privacy.client.bands",), _noisy, "a finite privacy.client.epsilon, or privacy.client.noise_multiplier"),
    Rule(
        ("privacy.client.clip", "privacy.client.delta", "privacy.client.quantile"),
        _target,
        "privacy.client.epsilon=8 or privacy.client.noise_multiplier=1",
    ),
    Rule(
        ("privacy.noise",),
        lambda at: at("privacy.noise") == "real" or _noisy(at) or at("protection.name") == "dctdp",
        "privacy.client.epsilon=8 or protection=dctdp",
    ),
    Rule(("evaluation.reference",), _without, "a protection, and no limit of policy over all runs"),
    Rule(
        ("data.pairs", "data.evaluation_identities", "data.evaluation_images"),
        lambda at: at("evaluation.pairs") is None,
        "evaluation.pairs=none",
    ),
    Rule(("evaluation.pairs_are_public",), lambda at: at("evaluation.pairs") is not None, "evaluation.pairs=FILE"),
    Rule(
        ("evaluation.gallery",),
        lambda at: at("protection.name") != "none" or at("evaluation.gallery") == "protected",
        "a protection",
    ),
    Rule(
        ("policy.image_delta",),
        lambda at: at("policy.max_epsilon") is not None or at("policy.max_total_epsilon") is not None,
        "policy.max_epsilon or policy.max_total_epsilon",
    ),
    Rule(
        ("policy.client_delta",),
        lambda at: at("policy.max_client_epsilon") is not None,
        "policy.max_client_epsilon",
    ),
    Rule(("engine.workers",), _is("engine.name", "pool"), "engine=pool"),
    Rule(("tracking.uri", "tracking.experiment"), _is("tracking.name", "mlflow"), "tracking=mlflow"),
    Rule(
        ("tracking.log_model",),
        lambda at: at("tracking.name") == "mlflow" or not at("tracking.log_model"),
        "tracking=mlflow",
    ),
    Rule(("tracking.model",), lambda at: bool(at("tracking.log_model")), "tracking.log_model=true"),
    Rule(
        ("data.evaluation_fraction", "data.declared_public_evaluation"),
        lambda at: at("data.evaluation") in (None, "held_out"),
        "data.evaluation=held_out",
    ),
    Rule(("data.held_fold",), _is("data.view", 2), "data.view=2", "data=lfw"),
    Rule(
        ("protection.total_epsilon", "protection.radius_quantile", "protection.input_layout"),
        _is("protection.mode", "image"),
        "protection.mode=image",
        "protection=dctdp",
    ),
    Rule(
        ("protection.mean_epsilon",),
        _is("protection.mode", "coefficient"),
        "protection.mode=coefficient",
        "protection=dctdp",
    ),
    Rule(("protection.delta",), _is("protection.noise", "gaussian"), "protection.noise=gaussian", "protection=dctdp"),
    Rule(
        ("protection.align_corners",),
        lambda at: at("protection.mode") == "coefficient" or at("protection.input_layout") == "upsampled",
        "protection.mode=coefficient or protection.input_layout=upsampled",
        "protection=dctdp",
    ),
    Rule(
        ("protection.fit_lr",),
        lambda at: at("protection.fit_steps") > 0,
        "protection.fit_steps above 0",
        "protection=dctdp",
    ),
)
"""All of them; a key that stands in none is always read."""


def found(said: Iterable[str], settings: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, what it needs) of every key that does nothing in this configuration.

    >>> from fedveil import config
    >>> list(found(["train.cohort.size", "train.rounds"], config.load(["engine=inline"])))
    [('train.cohort.size', 'train.cohort.kind=fixed')]
    """
    at = _At(settings)
    for key in said:
        for rule in RULES:
            group, _, name = rule.method.partition("=")
            if key in rule.keys and (not group or at(f"{group}.name") == name) and not rule.read(at):
                yield key, rule.needs
                break


def refuse(said: Mapping[str, str], settings: Config) -> None:
    """Refuse the first of the settings {key: text} that somebody said and that does nothing.

    Raises:
        fedveil.checks.UserError: naming the setting, its value and what would make it do something.
    """
    words = {name: value for key, text_ in said.items() for name, value in text.inner(key, text_).items()}
    for key, needs in found(words, settings):
        raise refusal(key, words[key], needs)


def refusal(key: str, value: str, needs: str) -> checks.UserError:
    """Return the refusal of a setting that does nothing, by what it needs."""
    return checks.UserError(f"{key}={value} does nothing here: it needs {needs}. Leave it out, or change that.")
