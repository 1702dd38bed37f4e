"""What an attack is, and what it finds.

An attack reads what really leaves an owner (a release, an update, the released model); one that has more says so in its
level. Beside each number stand what no information gives (`floor`), what clean pictures give (`ceiling`), and a 95 %
bootstrap interval over people.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, config, records

if TYPE_CHECKING:
    from fedveil.attacks._target import Target

Level = Literal["static", "adaptive", "white-box", "server"]
LEVELS: Mapping[Level, str] = {
    "static": "holds what leaves, and knows the published method",
    "adaptive": "may also protect pictures of his own people as often as he likes",
    "white-box": "also holds what the owner or the service keeps, which the finding names",
    "server": "is the coordinator, and sees each client's update",
}
"""What an attacker has, weakest first."""

LEAKS = ("linked", "rank1", "replayed", "ssim")
"""Measures that attacks on faces share, the most telling first; of each, more is worse for the owner.

Tables and trackers show the strongest attack's."""

Progress = Callable[[str, int, int], None]
"""Called with (what is done, steps done, steps in all)."""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of an attack.

    Attributes:
        name: in snake_case, the same for the same thing in every attack.
        value: None where it could not be measured; a note says why.
        said: one clause that says what it is.
        unit: `share` (0 to 1), `dB`, `cosine`, `nats`, or nothing.
        low: lower end of the 95 % bootstrap interval over people, None without one.
        high: its upper end.
        floor: what no information gives: chance, or for shares accepted the rate of other people's pictures.
        ceiling: what clean pictures give.
        mean_face: what the attacker's mean face gives, which holds nothing of the victim.
    """

    name: str
    value: float | None
    said: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    mean_face: float | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one attack found.

    Attributes:
        attack: its name.
        level: of the attacker, one of `LEVELS`.
        settings: of the attack, plain JSON types.
        protection: name of the attacked method.
        what: one sentence: what the attacker has and does.
        verdict: one sentence: what came of it.
        measures: its numbers.
        people: group -> {"people", "images", "digest"}; {} where the attack has no such groups.
        judge: which recogniser judged, and with which thresholds; {} where none did.
        curves: name -> {"x", "y", "x_name", "y_name"}.
        notes: sentences: what to know before quoting a number.
        seconds: wall time of the whole attack.
        seconds_per_image: of attacking one more image, None where that means nothing.
        peak_memory_mb: largest resident memory of the process so far.
        panel: rows of a picture, label to uint8 images (N, 3, H, W); None where faces may not be shown. It is not
            kept as JSON.
    """

    attack: str
    level: Level
    settings: Mapping[str, Any]
    protection: str
    what: str
    verdict: str
    measures: tuple[Measure, ...]
    people: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    judge: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    seconds_per_image: float | None = None
    peak_memory_mb: float = 0.0
    panel: Mapping[str, NDArray[np.uint8]] | None = None

    def __post_init__(self) -> None:
        checks.one_of(tuple(LEVELS), level=self.level)
        names = [measure.name for measure in self.measures]
        if len(set(names)) < len(names):
            raise ValueError(f"A measure stands there twice: {names}.")

    def value(self, name: str) -> float | None:
        """Return a measure's value, None where it has none."""
        return next((measure.value for measure in self.measures if measure.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plain: dict[str, Any] = records.plain(dataclasses.asdict(dataclasses.replace(self, panel=None)))
        del plain["panel"]
        return plain


class Attack(Protocol):
    """The interface of every file in this folder; its dataclass's fields are the settings of configs/attack/."""

    @property
    def level(self) -> Level:
        """What the attacker has; a class attribute, unless a setting decides it."""
        ...

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Attack a finished run.

        Raises:
            fedveil.checks.UserError: the run cannot be attacked so; the message has the remedy.
        """
        ...


@dataclasses.dataclass(frozen=True)
class OnFaces:
    """Settings that all attacks on protected faces share.

    Attributes:
        victims: people whose protected pictures are attacked; two pictures of each are used.
        images: pictures of the attacker's own people, at most.
        people: folder or packed .npz file of the attacker's own people; None: people of the run's source whom the
            system never saw, and who are no victims.
        judge: ONNX recogniser, from (1, 3, h, w) to an embedding, that says who is who; None: a network that is trained
            on the attacker's people, which judges drawn faces and is no yardstick for real ones.
        far: false accept rate at which faces count as accepted.
        seed: public seed of groups, draws and training.
    """

    victims: int = 200
    images: int = 2500
    people: str | None = None
    judge: str | None = None
    far: float = 0.01
    seed: int = 1

    def __post_init__(self) -> None:
        checks.positive(victims=self.victims, images=self.images)
        checks.fraction(far=self.far)
        least = math.ceil(0.5 + math.sqrt(0.25 + 10 / self.far))
        if self.victims < least:  # said before a run is trained to be attacked
            raise checks.UserError(
                f"Expected attack.victims={self.victims} to be {least} or more: a false accept rate of {self.far:g} is "
                f"found from {10 / self.far:.0f} pairs of different people."
            )


def settings_of(attack: Any) -> dict[str, Any]:
    """Return an attack's settings as plain JSON types."""
    plain: dict[str, Any] = records.plain(dataclasses.asdict(attack))
    return plain


def digest(name: str, attack: Any) -> str:
    """Return eight hexadecimal digits that stand for an attack and all its settings."""
    return config.hashed([name, settings_of(attack)])[:8]


def percent_of(finding: Finding, name: str) -> str:
    """Return a share in words, such as `95 % (91 to 98)`; `not measured` without one."""
    found = next((measure for measure in finding.measures if measure.name == name), None)
    if found is None or found.value is None:
        return "not measured"
    spread = "" if found.low is None or found.high is None else f" ({100 * found.low:.0f} to {100 * found.high:.0f})"
    return f"{100 * found.value:.0f} %{spread}"


def strongest(findings: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """Return the measure of this name that is largest over findings (`Finding.to_dict`), with its attack; or None.

    >>> one = {"attack": "linear", "measures": [{"name": "linked", "value": 0.2}]}
    >>> two = {"attack": "decoder", "measures": [{"name": "linked", "value": 0.5}, {"name": "psnr", "value": None}]}
    >>> strongest([one, two], "linked")["attack"], strongest([one, two], "psnr")
    ('decoder', None)
    """
    found = [
        {**measure, "attack": finding["attack"]}
        for finding in findings for measure in finding["measures"]
        if measure["name"] == name and measure["value"] is not None
    ]  # fmt: skip
    return max(found, key=lambda measure: float(measure["value"]), default=None)
