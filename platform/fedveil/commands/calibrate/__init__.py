"""Find the noise that meets a budget, before training."""

from __future__ import annotations

import argparse
import math

from fedveil import checks, config, console
from fedveil.commands.calibrate import client, training
from fedveil.configuration.schema import Config
from fedveil.federation import private_steps

EXAMPLES = """examples:
  fedveil calibrate privacy.client.epsilon=8 privacy.client.delta=1e-5 \\
      privacy.client.clip=0.5 train.clients=5000 train.cohort.rate=0.1 \\
      train.rounds=50
  fedveil calibrate privacy.image.epsilon=8 train.rounds=50 \\
      privacy.image.sampling_rate=0.05 train.local.steps=5
"""


def calibrate(settings: Config) -> str:
    """Return the noise of every target that the settings have, what it proves, and what would change it.

    Raises:
        fedveil.checks.UserError: no target, or one that cannot be met.
    """
    parts = []
    budget, steps = settings.privacy.client, private_steps.budget_of(settings)
    if budget is not None and budget.epsilon is not None and budget.epsilon != math.inf:
        parts.append(client.calibrate(settings))
    if steps is not None and steps.epsilon is not None and steps.epsilon != math.inf:
        parts.append(training.calibrate(settings))
    if not parts:
        raise checks.UserError(
            "`fedveil calibrate` needs a target: privacy.client.epsilon=8 privacy.client.delta=1e-5 "
            "privacy.client.clip=0.5, with train.clients, train.rounds and train.cohort.rate as planned; or "
            "privacy.image.epsilon=8 or privacy.identity.epsilon=8, with train.local.steps and a sampling_rate."
        )
    return "\n\n".join(parts)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="the target and the planned schedule")


def run(chosen: argparse.Namespace) -> int:
    """Print the calibration."""
    console.tell(calibrate(config.load(chosen.words)))
    return 0
