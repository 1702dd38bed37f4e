"""Saved accountants of any kind, restored exactly."""

from __future__ import annotations

from typing import Any

from fedveil import checks
from fedveil.privacy.accounting.base import Accountant
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.accounting.rdp import RdpAccountant

KINDS: dict[str, type[Accountant]] = {cls.kind: cls for cls in (PldAccountant, RdpAccountant)}


def from_dict(state: dict[str, Any]) -> Accountant:
    """Return the accountant whose `to_dict` gave `state`; an unknown kind is refused.

    >>> from fedveil.privacy.events import Laplace
    >>> spent = PldAccountant("replace-one").compose(Laplace(4.0), 3)
    >>> from_dict(spent.to_dict()) == spent
    True
    """
    checks.one_of(KINDS, kind=str(state.get("kind")))
    return KINDS[state["kind"]].from_dict(state)
