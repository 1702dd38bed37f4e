from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedveil import checks
from fedveil.data import names
from fedveil.data.faces import from_array
from fedveil.data.names import Names
from fedveil.data.numbered import Numbered
from fedveil.data.stores import Problem


@pytest.mark.parametrize(
    "group",
    [
        ("a", "a"), ("Ann", "ann"), ("caf\u00e9", "cafe\u0301"), ("CAF\u00c9", "cafe\u0301"), ("Ru\u00dfe", "russe"),
        ("Ann Lee", "Ann  Lee "), ("An\u200bn", "Ann"), ("\u03bf\u03c2", "\u039f\u03a3"),
    ],
)  # fmt: skip
def test_names_that_look_alike_are_refused_together(group: tuple[str, str]) -> None:
    with pytest.raises(checks.UserError, match=r"set: 2 names of people are equal .* in 1 groups") as caught:
        Names(["bob", *group, "zoe"], "set")
    assert all(ascii(name) in str(caught.value) for name in group)
    with pytest.raises(checks.UserError, match="2 names of people"):
        from_array(np.zeros((2, 3, 8, 8), np.uint8), [0, 1], group)  # the root of it: no set of faces holds them


def test_many_equal_names_are_counted_and_some_shown() -> None:
    listed = [f"{letter}{i}" for i in range(9) for letter in "aA"]
    with pytest.raises(checks.UserError, match=r"18 names of people are equal.*in 9 groups.*; and 4 more") as caught:
        Names(listed)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["", " ", "\u200b", "a\nb", "a\x00b", "\x7f", "a/b", "..", "a\u2028b", "\ud800", "\u202eb"]
)
def test_names_that_do_harm_are_refused(name: str) -> None:
    with pytest.raises(checks.UserError, match="1 names of people cannot be used") as caught:
        Names(["ann", name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "O'Neil, J.",
        "\u674e \u5c0f\u9f99",
        "n000001",
        "m.0107_f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
)
def test_ordinary_names_are_fine(name: str) -> None:
    assert Names([name, "other"]) == (name, "other")


@given(st.text(max_size=8), st.text(max_size=8))
def test_keys_ignore_case_and_the_encoding_of_accents(one: str, other: str) -> None:
    import unicodedata

    for form in ("NFC", "NFD"):
        assert names.key(unicodedata.normalize(form, one)) == names.key(one)
    assert names.key(one.casefold()) == names.key(one)
    assert names.key(names.key(one)) == names.key(one)
    assert bool(names.equal([one, other])) == (names.key(one) == names.key(other))


@given(st.text())
def test_problems_are_safe_to_print(text: str) -> None:
    assert str(Problem(text, text)).isprintable()


@given(first=st.integers(0, 20_000), count=st.integers(0, 40), data=st.data())
def test_numbered_names_are_the_list_of_them(first: int, count: int, data: st.DataObject) -> None:
    lazy, listed = Numbered("p", range(first, first + count)), [f"p{i:04d}" for i in range(first, first + count)]
    assert (list(lazy), len(lazy), list(reversed(lazy))) == (listed, count, listed[::-1])
    cut = data.draw(st.slices(count))
    assert list(lazy[cut]) == listed[cut]
    place = data.draw(st.integers(-count - 2, count + 1))
    if -count <= place < count:
        assert lazy[np.int64(place)] == listed[place]
        assert lazy.index(listed[place]) == listed.index(listed[place])
        assert lazy.count(listed[place]) == 1
    else:
        with pytest.raises(IndexError):
            lazy[place]
    for name in (
        "p",
        "p1",
        "p01",
        "p-001",
        "p+001",
        "p0_1",
        "q0001",
        "",
        "p" + "1" * 5000,
        "p\u0661\u0661\u0661\u0661",
        None,
        3,
    ):
        assert (name in lazy) == (name in listed)
    with pytest.raises(ValueError, match="'x' is none of the"):
        lazy.index("x")
    assert pickle.loads(pickle.dumps(lazy)) == lazy == Numbered("p", range(first, first + count))  # noqa: S301
    assert hash(lazy) == hash(Numbered("p", range(first, first + count)))
    assert lazy != Numbered("q", range(first, first + count)) or not count
    with pytest.raises(AttributeError, match="cannot be changed"):
        lazy.prefix = "q"
