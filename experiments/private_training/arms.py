"""The arms of the study: what differs from the recipe of `study=private`, as settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from fedveil import config

Words = Mapping[str, str | None]
"""Setting -> value; None leaves out what the recipe says."""

EPSILONS = ("8", "inf", "1", "2", "4", "16")
UNITS = ("image", "identity")
NOISY: Words = {"protection": "dctdp", "protection.total_epsilon": "1000"}
COMMON: Words = {
    "data": "lfw", "data.size": "32", "data.min_images": "4", "data.max_images_per_identity": "10",
    "tracking": "none", "engine": "inline", "evaluation.bootstrap": "0", "evaluation.far": "[0.1,0.01]",
    "evaluation.every": "1000000", "evaluation.draws": "1", "train.clients": "10", "evaluation.reference": "false",
    "partition.max_identities": "100", "partition.max_images_per_identity": "10",
}  # fmt: skip
PLAIN: Words = {"study": "recipe", "protection": "none", "train.batch_size": "16", "train.rounds": "35"}
REAL: Words = {"data.public": "people_fold", "train.warm_steps": "1000"}  # of a fold that is declared public
SMALL: Words = {  # about ten pictures of five people each
    "train.clients": "1000", "data.min_images": "1", "partition.max_identities": "8", "train.rounds": "5",
    "privacy.UNIT.delta": "1e-6",
}  # fmt: skip
SMALL_BATCH = {"image": "10", "identity": "80"}  # people take shorter steps, as in the recipe


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        words: what is changed; UNIT in a name stands for the unit.
        unit: whose epsilon; empty for training without private steps.
        epsilon: target, or inf.
        scaled: factor of the backbone's learning rate.
        head_scaled: factor of the class centres'.
        rounds: factor of the rounds.
    """

    words: Words
    unit: str = ""
    epsilon: str = ""
    scaled: float = 1.0
    head_scaled: float = 1.0
    rounds: float = 1.0


def eight(words: Words, **how: float) -> Arm:
    """Return an arm at an image-level epsilon of 8."""
    return Arm(words, "image", "8", **how)


ARMS: dict[str, Arm] = {
    **{f"{unit} {epsilon}": Arm({}, unit, epsilon) for epsilon in EPSILONS for unit in UNITS},
    "not private": Arm(PLAIN),
    "not private, warm": Arm({**PLAIN, "train.warm_start": "public"}),
    **{f"{unit} 8, dctdp": Arm(NOISY, unit, "8") for unit in UNITS},
    "not private, dctdp": Arm({**PLAIN, **NOISY, "train.warm_start": "public"}),
    "cold": eight({"train.warm_start": "none", "train.warm_steps": None}),
    "all tensors": eight({"train.trainable": "all"}),
    "all tensors, a third of the rate": eight({"train.trainable": "all"}, scaled=0.33),
    "last unit only": eight({"train.trainable": "units.1.*"}),
    "norms and slopes only": eight({"train.trainable": "*norm*,*act*,embed.bias"}),
    "no average": eight({"train.average": "0.0"}),
    "small batches": eight(
        {"privacy.UNIT.sampling_rate": "0.1", "privacy.UNIT.expected_batch": "35", "train.local.steps": "10"},
        scaled=0.1, head_scaled=0.1,
    ),
    "no mirrored views": eight({"train.augment.flip": "false", "privacy.UNIT.views": None}),
    "one view": eight({"privacy.UNIT.views": "1"}),
    "four views, cropped": eight({"privacy.UNIT.views": "4", "train.augment.crop": "0.1"}),
    "automatic clip": eight({"privacy.UNIT.clipping": "automatic"}),
    "clip by layers": eight({"privacy.UNIT.clipping": "layers"}),
    "constant noise": eight({"privacy.UNIT.noise_end": "1.0"}),
    "noise falls to a half": eight({"privacy.UNIT.noise_end": "0.5"}),
    "fixed head": eight({"privacy.UNIT.head": "fixed"}),
    "256 rows": eight({"privacy.UNIT.rows": "256"}),
    "half the rounds": eight({}, rounds=0.5),
    "twice the rounds": eight({}, rounds=2.0),
    "half the rates": eight({}, scaled=0.5, head_scaled=0.5),
    "twice the rates": eight({}, scaled=2.0, head_scaled=2.0),
    "image inf, three times the rounds": Arm({}, "image", "inf", rounds=3.0),
    "starts from real faces": eight(REAL),
    "starts from real faces, image inf": Arm(REAL, "image", "inf"),
    **{f"1,000 clients, {unit} 8": Arm(SMALL, unit, "8", head_scaled=0.03) for unit in UNITS},
    **{f"{unit} {epsilon}, dctdp": Arm(NOISY, unit, epsilon) for epsilon in EPSILONS[1:] for unit in UNITS},
}
"""Every arm, most important first; where nothing is said it is `study=private` with what the search chose."""


@functools.cache
def recipe() -> Mapping[str, float]:
    """Return what `study=private` says of rates and rounds."""
    train = config.load(["study=private"]).train
    return {"train.lr": train.lr, "train.head_lr": train.head_lr, "train.rounds": train.rounds}


def words(arm: Arm, chosen: Words, more: Words) -> list[str]:
    """Return the words of an arm: the study's, what a search chose, the arm's own and `more` (seed, place, device).

    >>> words(ARMS["image inf"], {"train.lr": "2.0", "privacy.UNIT.noise_end": "0.5"}, {"seed": "3"})[-5:-1]
    ['train.lr=2.0', 'privacy.image.epsilon=inf', 'privacy.image.gradients=book_keeping', 'seed=3']
    """
    found: dict[str, str | None] = {"study": "private", **COMMON}
    if arm.unit:
        found |= {**chosen, "privacy.UNIT.epsilon": arm.epsilon, "privacy.UNIT.gradients": "book_keeping"}
    found |= arm.words
    if arm.words is SMALL:
        found["privacy.UNIT.expected_batch"] = SMALL_BATCH[arm.unit]
    if arm.unit:
        factors = {"train.lr": arm.scaled, "train.head_lr": arm.head_scaled, "train.rounds": arm.rounds}
        for name, factor in factors.items():
            if factor != 1:
                value = float(found.get(name) or recipe()[name]) * factor
                found[name] = str(max(2, round(value))) if name == "train.rounds" else repr(value)
    if arm.epsilon == "inf":
        found.pop("privacy.UNIT.noise_end", None)
    found |= more
    other = UNITS[UNITS[0] == arm.unit]
    found = {name.replace("UNIT", arm.unit): value for name, value in found.items()}
    said = [f"{name}={value}" for name, value in found.items() if value is not None]
    if not arm.unit:
        return said
    return [*said, f"privacy.{other}=none"]
