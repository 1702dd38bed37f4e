"""Private training as the coordinator sees it: every round that it asks is booked before it is asked."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import torch

from fedveil.configuration.training_budget import TrainingBudget
from fedveil.federation import claims, private_steps
from fedveil.federation.federation import Federation
from fedveil.generators.base import Losses, Network
from fedveil.privacy import calibration
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Ledger, Row
from fedveil.private_training import choice
from fedveil.private_training.base import Batch
from fedveil.private_training.classifier import Classifier


class PrivateRounds:
    """The rows of one session's private rounds, of all clients alike: which of them joined makes no difference.

    A round that was interrupted and is asked again is another row: owners draw new coins and new noise. Under a test
    seed they draw the same, and it stays one row.
    """

    def __init__(self, federation: Federation, ledger: Ledger, run_id: str) -> None:
        self._federation, self._ledger, self._run_id = federation, ledger, run_id
        # Under a client-level claim all rows carry one time: how long a round took tells something of who was there.
        hidden = federation.settings.privacy.client is not None
        self._at = datetime.datetime.now(datetime.UTC).isoformat(timespec="hours") if hidden else ""

    def lines(self, backbone: torch.nn.Module, allowed: Sequence[str]) -> list[str]:
        """Return what was chosen, for people: noise, steps, how loud the noise is, and how gradients are found here."""
        federation, budget = self._federation, self._federation.private
        if budget is None or budget.noise_multiplier is None:
            return ["private steps: gradients are clipped, no noise: no guarantee"]
        sizes = {name: tensor.numel() for name, tensor in backbone.named_parameters()}
        numbers, batch = sum(sizes[name] for name in allowed), private_steps.expected_batch(federation.settings)
        noun = "images" if budget.unit == "image" else "people"
        ratio = calibration.noise_to_signal(budget.noise_multiplier, numbers, batch).ratio
        chosen = (
            f"private steps for {noun}: noise multiplier {budget.noise_multiplier:.4g}, clipping norm {budget.clip:g}, "
            f"{federation.settings.train.local.steps} steps a round, {noun} join with probability "
            f"{budget.sampling_rate:g}, divisor {batch}, {numbers:,} trained numbers, noise-to-signal ratio "
            f"{ratio:.3g} a step and client"
        )
        return [chosen, f"gradients of single {noun} here: {_engine(federation, budget, backbone, allowed, batch)}"]

    def ask(self, number: int) -> None:
        """Book a round; on disk when this returns."""
        event = self._federation.private_round(number)
        note = f"round {number}"
        if isinstance(event, NonPrivate):
            self._ledger.append_once(Row(self._run_id, "run", "spent", event, claims.note_of(self._federation)))
            return
        if self._federation.settings.privacy.test_seed is not None:
            note = f"{note}, {claims.NOT_PRIVATE}"
            if any((row.note, row.event) == (note, event) for row in self._ledger.rows(self._run_id)):
                return
        self._ledger.append([Row(self._run_id, "run", "spent", event, note, self._at)])


def _engine(
    federation: Federation, budget: TrainingBudget, backbone: torch.nn.Module, allowed: Sequence[str], batch: int
) -> str:
    """Return which engine this machine takes for a step of the expected size, in words."""
    if budget.gradients != "auto":
        return budget.gradients.replace("_", " ")
    place, named = federation.place, dict(backbone.named_parameters())
    inputs = torch.zeros(batch * budget.views, *federation.protection.layout(federation.size), device=place.device)
    network: torch.nn.Module
    if isinstance(backbone, Network):
        network, inputs = Losses(backbone), backbone.drawn(inputs, torch.Generator())
        trained = [named[name] for name in allowed]
    else:
        embedding = int(backbone(inputs[:1]).shape[1])
        network = Classifier(backbone, torch.zeros(budget.rows, embedding, device=place.device), place.precision)
        trained = [*(named[name] for name in allowed), network.head.weight]
    unit = torch.arange(batch, device=place.device).repeat_interleave(budget.views)
    weight = torch.full(unit.shape, 1.0 / budget.views, device=place.device)
    step = Batch(inputs, torch.zeros_like(unit), unit, weight, batch)
    return choice.choose(network, step, trained).words
