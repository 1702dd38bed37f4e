"""No generator: the run trains a recogniser."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoGenerator:
    """No generator: the run trains a recogniser, as it does by default."""


METHOD = NoGenerator
