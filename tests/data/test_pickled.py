"""Pickles are read and never run: what real verification sets hold, what hostile files try, and damage anywhere."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil.data import pickled

PARTS = [b"", b"\xff\xd8 some \x00 bytes", b"x" * 300, bytes(range(256)) * 300]


def plain(value: Any) -> Any:
    """Return a value with bytes for views, and arrays as lists with their type."""
    value = pickled.finished(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.tolist())
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


def read(data: bytes) -> Any:
    return plain(pickled.read(memoryview(data)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_lists_of_bytes_are_what_python_reads(protocol: int) -> None:
    value = (PARTS, [True, False, 1, 0, -70000, 2**40, None], "text", (), ("a", 1, 2, 3))
    data = pickle.dumps(value, protocol)
    assert read(data) == pickle.loads(data)  # noqa: S301 - written above


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_numbers_are_what_numpy_reads(protocol: int) -> None:
    value = [
        np.frombuffer(PARTS[1], np.uint8), np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([True, False]), np.bool_(True), np.int64(7), np.arange(3, dtype=">i4"), np.float32(0.5),
    ]  # fmt: skip
    data = pickle.dumps(value, protocol)
    for found, wanted in zip(pickled.read(memoryview(data)), value, strict=True):
        found = pickled.finished(found)
        assert np.array_equal(found, wanted)
        assert np.asarray(found).shape == wanted.shape


class Program:
    """What a hostile file holds: an object that names what is to be called."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, tuple[bytes, str]] = {
    "system": (pickle.dumps(([Program(os.system, ("true",))], [True])), "'posix'.'system': it is a program"),
    "subprocess": (pickle.dumps(Program(subprocess.getoutput, ("true",)), 2), "'commands'.'getoutput'"),
    "eval": (pickle.dumps(Program(eval, ("1",))), "'builtins'.'eval'"),
    "getattr": (pickle.dumps(Program(getattr, ("text", "encode"))), "it names"),
    "numpy function": (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "'numpy'.'load'"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"'numpy'.'ndarray.tofile'"),
    "objects": (pickle.dumps(np.array([object()])), "array of 'O8'"),
    "class": (pickle.dumps(Program), "it names"),
    "instance": (b"(ios\nsystem\n.", "instruction 0x69"),
    "new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "instruction 0x81"),
    "extension": (b"\x80\x02\x82\x01.", "instruction 0x82"),
    "persistent": (b"\x80\x02Ppeople\n.", "instruction 0x50"),
    "state of a list": (b"\x80\x02]}b.", "instruction 0x7d"),
    "called list": (b"\x80\x02])R.", "calls something"),
    "called class": (b"\x80\x02cnumpy\nndarray\n)R.", "calls something"),
    "endless name": (b"c" + b"a" * 500, "300 characters"),
    "long number": (b"I" + b"9" * 200 + b"\n.", "too many digits"),
    "far string": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "cut off"),
    "negative string": (b"\x80\x02T" + struct.pack("<i", -5) + b"x.", "cut off"),
    "huge array": (
        pickle.dumps(np.zeros(4, np.uint8), 2).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
        "needs 2147483647",
    ),
    "cut": (pickle.dumps(PARTS)[:-100], "cut off"),
    "empty": (b"", "cut off"),
    "goes on": (pickle.dumps([1]) + b"more", "4 bytes follow"),
    "two values": (b"\x80\x02K\x01K\x02.", "2 values"),
    "protocol": (b"\x80\x09.", "protocol 9"),
    "no mark": (b"\x80\x02K\x01t.", "mark is missing"),
    "nothing to take": (b"\x80\x02a.", "damaged"),
    "no pickle": (b"\x89PNG\r\n", "damaged|instruction|mark"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_is_refused_by_what_it_names(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(pickled.Refused, match=message):
        pickled.read(memoryview(data))


def test_one_part_copied_again_and_again_is_refused() -> None:
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x00"
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(pickled.Refused, match="far more than it holds"):
        pickled.read(memoryview(b"\x80\x02" + text + copy * 1000 + b"."))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_refused_or_plain(data: st.DataObject) -> None:
    whole = bytearray(
        pickle.dumps((PARTS[:3], [True, np.bool_(False)], np.arange(3)), data.draw(st.sampled_from([2, 4])))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except pickled.Refused:
        return
    assert found is None or isinstance(found, (list, tuple, str, int, float, bytes, pickled.Name, pickled.Type))
