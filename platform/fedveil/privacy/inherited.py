"""What a run inherits from the generator of synthetic faces that it reads: nothing, a share to add, or no guarantee.

Samples are post-processing of their generator, so what the generator's training guarantees holds for everything that is
computed from them, at no further cost. Where a run has releases of its own, both concern the same people at worst, and
the run was configured after the generator was there: so basic composition, which holds for a choice that depends on
what came before (Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, theorem 3.16 and its
adaptive form): epsilons add, deltas add. The two accountants' curves are not multiplied.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedveil import checks
from fedveil.privacy import statements
from fedveil.privacy.events import NonPrivate, Synthetic
from fedveil.privacy.statements import NOBODY, Statement
from fedveil.privacy.totals import STARTED
from fedveil.storage import disk

_OPTIONAL = (*disk.NUMBER, type(None))
_SHAPE: disk.Shape = {
    "unit": str, "relation": str, "view": str, "mechanism": str, "epsilon": _OPTIONAL, "delta": _OPTIONAL,
    "guarantee": str, "meaningful": bool, "assumptions": [str], "not_covered": [str],
}  # fmt: skip
ONE_CLIENT = "what is one client here was in one client at most of the generator's training"
"""Without it the generator's share would be that of a group."""
_LARGEST = 1e300  # nats, so that sums are numbers
_WIDER = {"image": ("image", "identity", "client"), "identity": ("identity", "client"), "client": ("client",)}
"""Whose guarantee bounds what is told of a unit, the closest first: one image is a part of one person of one client."""
_USES = {"data": "the training data", "start": "the start", "bank": "the identity bank"}


def statement_of(plain: object) -> Statement:
    """Return the statement that `Statement.to_dict` wrote, checked: it may come from a file of somebody else.

    Raises:
        fedveil.checks.UserError: in words that follow "its statement".
    """
    if wrong := disk.misfit(plain, _SHAPE, ""):
        raise checks.UserError(f"is damaged: {wrong}")
    assert isinstance(plain, Mapping)  # misfit
    fields = {field.name: plain[field.name] for field in dataclasses.fields(Statement)}
    fields |= {name: tuple(plain[name]) for name in ("assumptions", "not_covered")}
    found = Statement(**fields)
    formal, epsilon, delta = found.epsilon is not None, found.epsilon or 0.0, found.delta or 0.0
    if found.unit not in statements.UNITS or (formal and found.relation not in ("zero-out", "replace-one")):
        raise checks.UserError(f"is of unit {found.unit!r} and relation {found.relation!r}, which is nothing known")
    complete = formal == (found.delta is not None) == (found.guarantee == "formal")
    if not complete or epsilon < 0 or not 0 <= delta < 1:
        raise checks.UserError(f"says epsilon {found.epsilon} at delta {found.delta}, guarantee {found.guarantee!r}")
    if epsilon > _LARGEST or (found.meaningful and not (formal and epsilon <= statements.MEANINGFUL)):
        raise checks.UserError("claims an epsilon that is not what it calls it: meaningful is at most 20, and a number")
    if not all(text.isprintable() for text in (found.view, found.mechanism, *found.assumptions, *found.not_covered)):
        raise checks.UserError("has letters that cannot be printed: on a terminal they would say something else")
    return found


def written(plain: Mapping[str, Any]) -> str:
    """Return a statement's plain types as canonical JSON, as an event keeps them."""
    return json.dumps(plain, sort_keys=True, allow_nan=False)


def of(event: Synthetic) -> list[Statement]:
    """Return what may be claimed of the training of an event's generator."""
    return [statement_of(json.loads(text)) for text in event.statements]


def leak(event: Synthetic) -> NonPrivate | None:
    """Return the event of a generator that read private faces and guarantees nothing; None of any other one."""
    if event.mode == "public" or (event.mode == "federated" and any(one.epsilon is not None for one in of(event))):
        return None
    why = f"{_USES[event.use]} holds faces of a generator {_named(event)}, without a formal guarantee for them"
    return NonPrivate("image", STARTED, why)


def unknown(use: str) -> NonPrivate:
    """Return the event of synthetic faces of which no row says what they were made from."""
    reason = f"{_USES[use]} holds synthetic faces, and the ledger does not say what they were made from"
    return NonPrivate("image", STARTED, reason)


def own(event: Synthetic) -> list[Statement]:
    """Return what a run may claim whose people are synthetic, of those whom their generator learnt from.

    Of public people: that nobody promised them anything. Of private ones: what was claimed of the generator's training,
    as it was. Without a guarantee (`leak`) there is nothing to add.
    """
    if event.mode == "public":
        reason = (
            f"{NOBODY}, the faces are synthetic, of a generator {_named(event)}; those people are public and have no "
            "guarantee"
        )
        view = "the synthetic faces and everything computed from them, the released model included"
        return [Statement("identity", "none", view, reason, None, None, "none", False, (), ("everything",))]
    if leak(event) is not None:
        return []
    view = "{view}, the synthetic faces and everything computed from them, the released model included"
    return [
        dataclasses.replace(
            one,
            view=view.format(view=one.view),
            mechanism=f"{NOBODY} beside the training of the generator {_named(event)}: {one.mechanism}",
        )
        for one in of(event)
    ]


def beside(one: Statement, event: Synthetic) -> Statement:
    """Return a statement about synthetic faces, which are its units, with whom it says nothing about."""
    left_out = f"the people whom the generator of the synthetic faces learnt from ({event.learnt_from})"
    return dataclasses.replace(one, not_covered=tuple(dict.fromkeys((*one.not_covered, left_out))))


def added(one: Statement, event: Synthetic) -> Statement:
    """Return a run's statement where the run also read synthetic faces, as its start or bank.

    A public generator adds nothing. A federated one adds its epsilon and delta for the same unit, or for a unit that
    this one is a part of. Where relations differ both become replace-one (`replaced`): a unit that is replaced by
    nothing and then by another one is replaced. Without such a statement nothing is left of this one.

    >>> import dataclasses
    >>> claim = Statement("client", "zero-out", "every released global model", "noise", 2.0, 1e-6, "formal", True)
    >>> made = Synthetic("start", "federated", "0" * 64, "ten clinics", (written(claim.to_dict()),))
    >>> added(claim, made).epsilon, added(claim, dataclasses.replace(made, mode="public", statements=())).epsilon
    (4.0, 2.0)
    """
    if event.mode == "public" or one.epsilon is None or one.delta is None:
        return one
    share = _share(one.unit, event)
    if (none := leak(event)) is not None or share is None:
        reason = f"nothing is claimed of one {one.unit} in the training of the generator {_named(event)}"
        return statements.void(one, none.reason if none is not None else reason)
    same = (one.unit, one.relation) == (share.unit, share.relation)
    pairs = [(part.epsilon or 0.0, part.delta or 0.0) for part in (one, share)]
    if not same:
        pairs = [pair if part.relation == "replace-one" else replaced(*pair)
                 for part, pair in zip((one, share), pairs, strict=True)]  # fmt: skip
    epsilon, delta = (math.fsum(values) for values in zip(*pairs, strict=True))
    if delta >= 1:
        return statements.void(one, f"with the generator's share, both for a replaced {one.unit}, delta is 1 or more")
    said = f"{one.mechanism}; beside it {_USES[event.use]}, of a generator {_named(event)}: {share.mechanism}"
    total = statements.composed([one, share], epsilon, delta, f"{said}; epsilons and deltas add")
    more = () if ONE_CLIENT in total.assumptions or (one.unit, share.unit) != ("client", "client") else (ONE_CLIENT,)
    return dataclasses.replace(
        total,
        assumptions=(*total.assumptions, *more),
        relation=one.relation if same else "replace-one",
        meaningful=one.meaningful and share.meaningful and epsilon <= statements.MEANINGFUL,
    )


def applied(found: Sequence[Statement], learnt: Sequence[Synthetic]) -> list[Statement]:
    """Return a run's own statements and what generators of synthetic faces make of them.

    A run whose people are synthetic reads nobody private, so it inherits what its generators guarantee. What a
    generator told is told once, whatever it is used for. Generators without a guarantee are for `leak`.
    """
    data = [event for event in learnt if event.use == "data"]
    mine = list(found)
    for event in data:
        mine = [beside(one, event) for one in mine]
    theirs = [one for event in data for one in own(event)]
    for event in _others(learnt, data):
        if data and not any(one.epsilon is not None for one in theirs):
            theirs += own(event)
        else:
            theirs = [added(one, event) for one in theirs]
        mine = [added(one, event) if "model" in one.view else one for one in mine]
    return mine + theirs


def _others(learnt: Iterable[Synthetic], data: Iterable[Synthetic]) -> list[Synthetic]:
    """Return the federated generators of starts and banks, each once, but for those of the people who train."""
    known = {_training(event) for event in data}
    formal = (one for one in learnt if one.use != "data" and one.mode == "federated" and leak(one) is None)
    return [*{_training(one): one for one in formal if _training(one) not in known}.values()]


def _training(event: Synthetic) -> tuple[str, tuple[str, ...]]:
    return event.generator, event.statements


def replaced(epsilon: float, delta: float) -> tuple[float, float]:
    """Return what a zero-out guarantee is for a unit that is replaced by another: two steps, by way of nothing.

    From P(A) <= e^eps Q(A) + delta twice: epsilon doubles, and delta becomes (1 + e^eps) delta.

    >>> replaced(0.0, 0.25)
    (0.0, 0.5)
    """
    return 2 * epsilon, (1 + math.exp(min(epsilon, 700.0))) * delta


def _share(unit: str, event: Synthetic) -> Statement | None:
    formal = [one for one in of(event) if one.epsilon is not None]
    for wider in _WIDER[unit]:
        if found := [one for one in formal if one.unit == wider]:
            return max(found, key=lambda one: (one.epsilon or 0.0, one.delta or 0.0))
    return None


def _named(event: Synthetic) -> str:
    return f"{event.generator[:12]} that learnt from {event.learnt_from}"
