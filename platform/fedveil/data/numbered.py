"""Names that a number makes: as many as wanted, none of them kept in memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, overload


class Numbered(Sequence[str]):
    """The names `p0000`, `p0001`, ... of a range of numbers, made when asked for; two are equal when all names are.

    >>> people = Numbered("p", range(7, 10))
    >>> len(people), people[-1], people.index("p0008"), "p0010" in people, list(people[1:])
    (3, 'p0009', 1, False, ['p0008', 'p0009'])
    """

    __slots__ = ("numbers", "prefix")
    prefix: str
    numbers: range

    def __init__(self, prefix: str, numbers: range) -> None:
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "numbers", numbers)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one.")

    def __reduce__(self) -> tuple[Any, ...]:
        return Numbered, (self.prefix, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Numbered: ...
    def __getitem__(self, place: int | slice) -> str | Numbered:
        """Return the name at a place, or the names of a slice, which are not made yet either."""
        if isinstance(place, slice):
            return Numbered(self.prefix, self.numbers[place])
        try:
            return f"{self.prefix}{self.numbers[operator.index(place)]:04d}"
        except IndexError:
            raise IndexError(f"Expected a place in {-len(self)}..{len(self) - 1}, got {place}.") from None

    def __iter__(self) -> Iterator[str]:
        return (f"{self.prefix}{number:04d}" for number in self.numbers)

    def find(self, name: object) -> int | None:
        """Return the place of a name, or None, without looking at the others."""
        if not isinstance(name, str) or not name.startswith(self.prefix):
            return None
        digits = name[len(self.prefix) :]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            return None
        number = int(digits)
        if number not in self.numbers or f"{number:04d}" != digits:
            return None
        return self.numbers.index(number)

    def __contains__(self, name: object) -> bool:
        return self.find(name) is not None

    def index(self, name: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the place of a name in constant time; raise ValueError, which says what there is, if it is none."""
        place = self.find(name)
        if place is None or place not in range(len(self))[start:stop]:
            raise ValueError(self.unknown(name))
        return place

    def count(self, name: Any) -> int:
        """Return 1 for a name of the range and 0 for any other."""
        return int(name in self)

    def unknown(self, name: object) -> str:
        """Return a sentence for messages about a name that is none of these."""
        return f"{name!r} is none of the {len(self)} names" + (f" {self[0]} to {self[-1]}." if len(self) else ".")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbered) and (self.prefix, self.numbers) == (other.prefix, other.numbers)

    def __hash__(self) -> int:
        return hash((self.prefix, self.numbers))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.prefix!r}, {self.numbers!r})"
