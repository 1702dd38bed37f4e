"""Names of people: checked once, because a guarantee for a person holds for whoever carries one name.

Two names that a reader takes for one person's would give that person two caps, two owners and two draws. They are never
merged, because they may be two people: they are refused, and whoever knows gives them one name or two.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from fedveil import checks

_SHOWN = 5
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they turn the text around them


def key(name: str) -> str:
    r"""Return what equal-looking names have in common: without case, the encoding of accents, what is invisible.

    >>> key("Ann  Lee") == key("ANN LEE"), key("caf\u00e9") == key("cafe\u0301"), key("Ann") == key("Anne")
    (True, True, False)
    """
    if name.isascii():
        return " ".join(name.lower().split())
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    visible = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def printable(text: str) -> str:
    r"""Return text that is safe on a terminal: what does not print is escaped.

    >>> printable("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def equal(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that are equal in `key`, in the order of their first member.

    Of a million names that all differ, a number each is in memory.

    >>> equal(["ann", "bob", "Ann"])
    [('ann', 'Ann')]
    """
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for place in candidates(map(key, names), len(names)):
        groups[key(names[place])].append(names[place])
    return [tuple(group) for group in groups.values() if len(group) > 1]


def candidates(texts: Iterable[str], count: int) -> list[int]:
    """Return the ascending places of texts that may occur twice, and of hardly any other, by their hashes."""
    hashes = np.fromiter(map(hash, texts), np.int64, count)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    return sorted(np.unique(np.concatenate([order[same], order[same + 1]])).tolist())


def shown(groups: Sequence[tuple[str, ...]]) -> str:
    r"""Return groups of equal names for a message: in escapes, because they look alike; some of them when many.

    >>> print(shown([("ann", "Ann"), ("caf\u00e9", "cafe\u0301")]))
    'ann' and 'Ann'; 'caf\xe9' and 'cafe\u0301'
    """
    listed = "; ".join(" and ".join(map(ascii, group[:_SHOWN])) for group in groups[:_SHOWN])
    return listed + (f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else "")


def alike(records: Sequence[str]) -> tuple[str, ...]:
    """Return what to say of pictures of one person whose names look alike: they stay separate."""
    same = equal(records)
    if not same:
        return ()
    return (f"{sum(map(len, same))} pictures' names are equal but for case or accents, kept apart: {shown(same)}",)


def fault(name: str) -> str | None:
    """Return why a name can be no person's, or None.

    >>> fault("a/b"), fault("Ann")
    ('holds a path separator', None)
    """
    if not key(name):
        return "is empty"
    plain = name.isascii() and name.isprintable()
    if not plain and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _BIDI for c in name):
        return "holds control characters or bytes that are no text"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "holds a path separator" if name not in (".", "..") else "is a path"
    return None


class Names(tuple[str, ...]):
    """Names of people, checked: none is empty or can harm a terminal or a path, no two look alike.

    Raises:
        UserError: otherwise; the message lists them, says how many there are and what to do.
    """

    __slots__ = ()

    def __new__(cls, names: Iterable[str], where: str = "The identities") -> Names:
        """Return the checked names; `where` says in messages whose they are."""
        listed = tuple(map(str, names))
        wrong = [(name, reason) for name in listed if (reason := fault(name))]
        if wrong:
            examples = "; ".join(f"{name!a} {reason}" for name, reason in wrong[:_SHOWN])
            raise checks.UserError(
                f"{where}: {len(wrong)} names of people cannot be used: {examples}. They reach terminals and file "
                "names; rename them."
            )
        same = equal(listed)
        if same:
            raise checks.UserError(
                f"{where}: {sum(map(len, same))} names of people are equal but for case, the encoding of accents or "
                f"invisible characters, in {len(same)} groups: {shown(same)}. A guarantee and a cap are for everybody "
                "with one name: give one person one name, and two people two."
            )
        return super().__new__(cls, listed)
