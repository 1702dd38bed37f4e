"""One vocabulary for error messages: the argument's name, its value, the rule, the remedy.

Validators take keywords, so the message names the argument by itself:

>>> positive(sigma=-1.0)
Traceback (most recent call last):
    ...
fedveil.checks.UserError: Expected sigma=-1.0 > 0.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence

LEFT_OUT = {
    r"secagg|secure-?(agg|sum|min)|^secure$|^peers$": (
        "Secure aggregation is left out: the coordinator sees each update. A run bounds what an update tells by "
        "protection=dctdp, privacy.image or privacy.identity, and an owner asks for that by max-epsilon; "
        "docs/secure-aggregation.md says why."
    )
}
"""What is asked for and does not exist on purpose: a pattern of its words, and what to do instead."""


class UserError(ValueError):
    """A mistake in what the user gave; printed as one message without a traceback by the command line."""


def _number(name: str, value: float, rule: str, holds: bool) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not holds:
        raise UserError(f"Expected {name}={value!r} {rule}.")


def positive(**values: float) -> None:
    """Raise `UserError` unless every keyword is a finite number above zero."""
    for name, value in values.items():
        _number(name, value, "> 0", value > 0)


def non_negative(**values: float) -> None:
    """Raise `UserError` unless every keyword is a finite number of at least zero."""
    for name, value in values.items():
        _number(name, value, ">= 0", value >= 0)


def fraction(**values: float) -> None:
    """Raise `UserError` unless every keyword lies in (0, 1]."""
    for name, value in values.items():
        _number(name, value, "in (0, 1]", 0 < value <= 1)


def within(low: float, high: float, **values: float) -> None:
    """Raise `UserError` unless every keyword lies in [low, high]: what is beyond it fails late, or does nothing useful.

    >>> within(0, 1e3, weight_decay=1e300)
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Expected weight_decay=1e+300 in [0, 1000].
    """
    for name, value in values.items():
        _number(name, value, f"in [{low:g}, {high:g}]", low <= value <= high)


def multiple_of(divisor: int, **values: int) -> None:
    """Raise `UserError` unless every keyword is a positive multiple of `divisor`."""
    for name, value in values.items():
        _number(name, value, f"to be a positive multiple of {divisor}", value > 0 and value % divisor == 0)


def left_out(word: str) -> str:
    """Return the sentence on a word of `LEFT_OUT`, or an empty string.

    >>> left_out("SecAgg+")[:34], left_out("secret")
    (' Secure aggregation is left out: t', '')
    """
    found = [text for asked, text in LEFT_OUT.items() if re.search(asked, word.lower().replace("_", "-"))]
    return f" {found[0]}" if found else ""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the nearest of `choices`, or what stands for it (`LEFT_OUT`), or nothing.

    >>> nearest("sgma", ["sigma", "radius"])
    " Did you mean 'sigma'?"
    >>> nearest("DCTDP", ["dct", "dctdp"])
    " Did you mean 'dctdp'?"
    """
    if reason := left_out(word):
        return reason
    known = {choice.lower(): choice for choice in choices}
    close = [known[each] for each in difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)]
    return f" Did you mean {close[0]!r}?" if close else ""


def one_of(choices: Iterable[str], **values: str) -> None:
    """Raise `UserError` unless every keyword is one of `choices`; the message offers the nearest.

    >>> one_of(["image", "coefficient"], mode="imag")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Expected mode='imag' to be one of ['coefficient', 'image']. Did you mean 'image'?
    """
    allowed = sorted(choices)
    for name, value in values.items():
        if value not in allowed:
            raise UserError(f"Expected {name}={value!r} to be one of {allowed}.{nearest(str(value), allowed)}")


def same_shape(expected: Sequence[int], **values: Sequence[int]) -> None:
    """Raise `UserError` unless every keyword equals the shape `expected`."""
    for name, value in values.items():
        if tuple(value) != tuple(expected):
            raise UserError(f"Expected {name} of shape {tuple(expected)}, got {tuple(value)}.")
