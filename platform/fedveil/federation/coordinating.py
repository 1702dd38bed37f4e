"""The federation as the coordinator of real nodes has it: nobody to train on, public faces alone.

Whoever trains is at the owners. What a coordinator opens is what it evaluates on and learns budgets from, and of that
only what a configuration puts on its own machine (`needed`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Sequence

from fedveil import checks, config
from fedveil.configuration import places
from fedveil.configuration.schema import Config
from fedveil.data.faces import FaceSet
from fedveil.data.held_out import HeldOut
from fedveil.data.pairs import PairSet
from fedveil.data.split import apart
from fedveil.federation import instruction, synthetic
from fedveil.federation.federation import Federation


class NoTrainingFaces(RuntimeError):
    """Something at a coordinator asked for people who train, of whom it has none."""


@dataclasses.dataclass(frozen=True, eq=False)
class AtCoordinator(Federation):
    """A configuration at the coordinator of real nodes; whatever asks for training faces, or deals them, is refused.

    >>> public = AtCoordinator.of(["protection=none", "data=folder", "data.evaluation=procedural", "data.pairs=40"])
    >>> public.check()
    >>> len(public.pairs), public.public.synthetic
    (40, True)
    """

    @property
    def split(self) -> typing.NoReturn:
        """Refused: a split has people who train."""
        raise NoTrainingFaces(
            "The coordinator of real nodes has nobody to train on: what it may open is `public` and `pairs`."
        )

    @functools.cached_property
    def public(self) -> FaceSet:
        """Public or drawn faces, the coordinator's own."""
        found: FaceSet = self.data.public_faces(self.settings.seed)
        return found

    def _evaluated(self) -> PairSet:
        found: PairSet = self.data.evaluated(self.settings.seed)
        return found

    @property
    def training_place(self) -> str:
        """What was said of one's own faces, which simulated nodes of this machine may train on; else empty."""
        name = places.of_source(self.settings.data.name)
        said = name is not None and self.settings.data.settings[name] not in ("", instruction.NOWHERE)
        return super().training_place if said else ""

    def check(self) -> None:
        """Refuse what cannot be evaluated, before anything is written; how many people there are is the owners' matter.

        Raises:
            fedveil.checks.UserError: naming the setting, and where a coordinator says it.
        """
        wanted, tree = needed(self.settings), config.to_tree(self.settings)
        for setting in places.settings({"data": self.settings.data.name}):
            if setting.key in wanted and setting.read(tree) in (None, "", instruction.NOWHERE):
                raise checks.UserError(
                    f"The coordinator {wanted[setting.key]}, and nothing says where they are here: set "
                    f'{instruction.COORDINATOR_WORDS}="{setting.key}=PLACE" in its environment.{_drawn(self.settings)}'
                )
        self.check_evaluation()
        if self.settings.evaluation.pairs is None:
            apart(("evaluation", self.pairs.faces), ("public", self.public))


def _drawn(settings: Config) -> str:
    """Return how a run does without a coordinator's own people."""
    held_out = settings.data.settings.get("evaluation") == "held_out"
    return " A bundle of data.evaluation=procedural needs no face there." if held_out else ""


def needed(settings: Config) -> dict[str, str]:
    """Return {setting: why} of the places that a coordinator has to name; none where all that it opens is drawn.

    Raises:
        fedveil.checks.UserError: evaluation on real people whom nobody declared public.

    >>> needed(config.load(["data=folder", "data.evaluation=procedural"]))
    {}
    >>> needed(config.load(["data=folder", "data.declared_public_evaluation=true"]))
    {'data.root': 'evaluates on its own public people (data.evaluation=held_out)'}
    """
    source, name, found = config.build(settings, "data"), settings.data.name, {}
    key, uses = f"data.{places.of_source(name)}", synthetic.uses(settings)
    if "data" in uses:
        found[key] = "books what the synthetic faces were made from"
    if source.shows_own:
        found[key] = f"learns from the public people of data={name}"
    if source.evaluates_own and settings.evaluation.pairs is None:
        if isinstance(source, HeldOut):
            source.require_declaration()
        how = "data.evaluation=held_out" if "evaluation" in settings.data.settings else f"data={name}"
        found[key] = f"evaluates on its own public people ({how})"
    if {"start", "bank"} & {*uses}:
        found["train.synthetic"] = "reads synthetic faces"
    return found


def left_out(settings: Config) -> list[str]:
    """Return which settings a run reads and a bundle leaves out: the coordinator has to say them again.

    >>> left_out(config.load(["train.warm_start=start.npz", "data=folder", "data.evaluation=procedural"]))
    ['train.warm_start']
    """
    sent, found = places.emptied(config.to_tree(settings)), [*needed(settings)]
    for setting in places.settings({"data": settings.data.name}):
        if setting.optional and setting.read(config.to_tree(settings)) != setting.read(sent):
            found.append(setting.key)
    return [*dict.fromkeys(found)]


def completed(text: str, words: Sequence[str] = (), wanted: Sequence[str] = ()) -> AtCoordinator:
    """Return the coordinator's federation of a bundle's configuration with the `words` of its machine.

    Args:
        text: the bundle's configuration.
        words: command-line words of this machine.
        wanted: keys that the bundle was written with and leaves out (`left_out`).

    Raises:
        fedveil.checks.UserError: as `instruction.completed`; a configuration that says where things are on some
            machine, which Flower would hand to every node; or a wanted setting that nobody says here.
    """
    arrived = instruction.completed(text, words)
    told = [section for section in places.sections() if section in json.loads(text)]
    if told:
        raise checks.UserError(
            f"The run configuration's `config` has {', '.join(told)}, which say where things are on the machine that "
            "wrote it, and Flower hands it to every node: write a bundle of it (`fedveil bundle`)."
        )
    said = config.to_tree(arrived.settings)
    for setting in places.settings({"data": arrived.settings.data.name}):
        if setting.key in wanted and setting.read(said) in (None, "", instruction.NOWHERE):
            raise checks.UserError(
                f"The bundle was written with {setting.key}, which stays out of it, and nothing says it here: set "
                f'{instruction.COORDINATOR_WORDS}="{setting.key}=PLACE" in the coordinator\'s environment.'
            )
    return AtCoordinator(arrived.settings)
