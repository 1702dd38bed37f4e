"""What an audit found, as records and as text for people."""

from __future__ import annotations

import dataclasses
import textwrap
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
        claimed: what the run or configuration claims for the unit (`federation.claims`), nats; None where it does not.
        void: why it claims none; empty where it claims something.
        proven: the upper bound of what is attacked, nats: of all rounds, or of one release of many. It takes for
            granted what a void claim lacks, such as secret noise.
        delta: at which all three stand.
        audited: the lower bound, nats; 0 when the attack learnt nothing.
        method: how, and what it assumes.
        trials: canaries, or draws on both sides together.
        seconds: wall time of the experiment; bounds from one experiment share it.
    """

    what: str
    unit: str
    claimed: float | None
    void: str
    proven: float
    delta: float
    audited: float
    method: str
    trials: int
    seconds: float

    @property
    def violated(self) -> bool:
        """Whether what is proven, and with it any claim, is refuted."""
        return self.audited > self.proven

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
            lines += ["", f"{what}, {bound['seconds']:.1f} s", *_claim(bound)]
        mark = "  ABOVE THE CLAIM" if bound["violated"] else ""
        lines.append(f"  at least {bound['audited']:>7.4g}  {bound['method']} ({bound['trials']:,} trials){mark}")
    lines += ["", *found["notes"], verdict(found)]
    return "\n".join(lines)


def _claim(bound: Mapping[str, Any]) -> list[str]:
    """Return the claim, and what is proven of the attacked part where that is something else."""
    level = f"{bound['unit']}-level epsilon"
    proven = f"{bound['proven']:.6g} at delta {bound['delta']:g}"
    if bound["claimed"] is None:
        reason = textwrap.fill(f"claimed: nothing ({bound['void']})", 80, initial_indent="  ", subsequent_indent="    ")
        return [reason, f"  without that, of this: {level} {proven}"]
    lines = [f"  claimed: {level} {bound['claimed']:.6g} at delta {bound['delta']:g}"]
    return lines if bound["claimed"] == bound["proven"] else [*lines, f"  proven of this: {level} {proven}"]


def verdict(found: Mapping[str, Any]) -> str:
    """Return the one sentence that an audit comes to; it never says that something is private."""
    sure = f"{100 * float(found['confidence']):g} % confidence"
    above = [bound for bound in found["bounds"] if bound["violated"]]
    if above:
        worst = max(above, key=lambda bound: bound["audited"] / max(bound["proven"], 1e-12))
        return (
            f"VIOLATED: {worst['what']}: epsilon is at least {worst['audited']:.4g} at {sure}, but "
            f"{worst['proven']:.4g} is proven."
        )
    if found["violated"]:
        return f"VIOLATED: {found['notes'][0]}."
    if all(bound["claimed"] is None for bound in found["bounds"]):
        return f"nothing is claimed, so nothing is refuted; every lower bound is below what is proven at {sure}."
    return f"no violation found: every lower bound is below its claim at {sure}, which is not a proof."
