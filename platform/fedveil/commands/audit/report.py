"""What an audit found, as records and as text for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 8
"""Of one bound: an audit makes at most eight, and together they hold at CONFIDENCE."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """One audited lower bound on epsilon beside its claim.

    Attributes:
        what: the mechanism under attack.
        unit: whose guarantee it is.
        claimed: the proven upper bound, nats.
        delta: at which both stand.
        audited: the lower bound, nats; 0 when the attack learnt nothing.
        method: how, and what it assumes.
        trials: canaries, or draws on both sides together.
        seconds: wall time of the experiment; bounds from one experiment share it.
    """

    what: str
    unit: str
    claimed: float
    delta: float
    audited: float
    method: str
    trials: int
    seconds: float

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted."""
        return self.audited > self.claimed

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**dataclasses.asdict(self), "violated": self.violated}


def text(found: Mapping[str, Any]) -> str:
    """Return an audit at 80 columns: every bound beside its claim, notes, and the verdict in one sentence."""
    lines = [f"audit of {found['subject']}"]
    what = None
    for bound in found["bounds"]:
        if bound["what"] != what:
            what = bound["what"]
            lines += [
                "",
                f"{what}, {bound['seconds']:.1f} s",
                f"  claimed: {bound['unit']}-level epsilon {bound['claimed']:.6g} at delta {bound['delta']:g}",
            ]
        mark = "  ABOVE THE CLAIM" if bound["violated"] else ""
        lines.append(f"  at least {bound['audited']:>7.4g}  {bound['method']} ({bound['trials']:,} trials){mark}")
    lines += ["", *found["notes"], verdict(found)]
    return "\n".join(lines)


def verdict(found: Mapping[str, Any]) -> str:
    """Return the one sentence that an audit comes to; it never says that something is private."""
    sure = f"{100 * float(found['confidence']):g} % confidence"
    above = [bound for bound in found["bounds"] if bound["violated"]]
    if above:
        worst = max(above, key=lambda bound: bound["audited"] / max(bound["claimed"], 1e-12))
        return (
            f"VIOLATED: {worst['what']}: epsilon is at least {worst['audited']:.4g} at {sure}, but "
            f"{worst['claimed']:.4g} is claimed."
        )
    if found["violated"]:
        return f"VIOLATED: {found['notes'][0]}."
    return f"no violation found: every lower bound is below its claim at {sure}, which is not a proof."
