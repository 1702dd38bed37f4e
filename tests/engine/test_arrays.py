"""Arrays that are handed over: to everybody they are what Flower would have sent, and nobody can change another's."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedveil.engine import _flower, _parcel, arrays
from fedveil.engine._shared import Memory, Slots, Writer
from fedveil.federation import packed
from fedveil.federation.instruction import BadInstruction

VALUES = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
RECORDS = st.one_of(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=3).map(lambda d: arrays.record(d, local=True)),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=2).map(lambda d: arrays.record(d, local=False)),
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-9, 9), st.lists(st.floats(-1, 1)))).map(MetricRecord),
    st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.booleans(), st.binary(), st.lists(st.text()))).map(
        ConfigRecord
    ),
)
CONTENTS = st.dictionaries(st.text(min_size=1, max_size=5), RECORDS, max_size=4).map(RecordDict)


def sent(content):
    """What arrives over a network, in Flower's own form."""
    _flower.identify()
    return _flower.from_bytes(_flower.to_bytes(Message(content, dst_node_id=1, message_type="train"))).content


@given(VALUES)
def test_bytes_of_a_local_array_are_flowers_own(values):
    local, theirs = arrays.LocalArray(values), Array(values)
    assert (local.dtype, local.shape, local.stype, local.data) == (
        theirs.dtype, theirs.shape, theirs.stype, theirs.data,
    )  # fmt: skip
    assert local.values.tobytes() == values.tobytes()
    assert values.flags.writeable  # the sender's own stays as it was
    with pytest.raises(ValueError, match="read-only"):
        local.values[...] = 0


@given(CONTENTS, st.integers(0, 4096))
def test_a_parcel_arrives_as_it_would_over_a_network_whatever_room_there_is(content, room):
    memory = bytearray(room)
    parts = _parcel.apart(content, Writer(memoryview(memory)).put)
    for found in (_parcel.together(parts, memoryview(memory)), _parcel.own(content), _parcel.copied(content)):
        assert sent(found) == sent(content)


@given(CONTENTS)
def test_the_room_that_a_content_is_said_to_take_is_enough(content):
    parts = _parcel.apart(content, Writer(memoryview(bytearray(_parcel.size_of(content)))).put)
    items = [item for _, kind, items in parts if kind is ArrayRecord for _, item in items]
    assert not any(isinstance(item, np.ndarray) and item.size for item in items)


def test_who_replaces_bytes_changes_only_its_own():
    values = np.arange(3, dtype=np.float32)
    content = RecordDict({"a": arrays.record({"w": values}, local=True)})
    mine, other = _parcel.own(content), _parcel.own(content)
    mine["a"]["w"].data = b"spoilt"
    assert (mine["a"]["w"].data, arrays.is_local(mine["a"])) == (b"spoilt", False)
    assert other["a"]["w"].values.tolist() == content["a"]["w"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.zeros(4, np.float32), "float32"), (np.zeros(3, np.float64), "float"), (np.zeros(3, np.int32), "int32"),
        (np.array([1, np.nan, 0], np.float32), "finite"), (np.array(["a"], object), "object"),
    ],
)  # fmt: skip
def test_values_that_were_handed_over_are_checked_like_bytes(value, what):
    """The check of what arrives stands on every path."""
    with pytest.raises(BadInstruction, match=what):
        packed.tensors({"w": arrays.LocalArray(value)}, {"w": (3,)})


@given(hnp.arrays(np.float32, 5, elements=st.floats(width=32)))
def test_a_sum_tells_what_a_mask_tells(values):
    assert packed.all_finite(values) == bool(np.isfinite(values).all())


@pytest.mark.parametrize("place", [0, 12_345, 39_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("shape", [(40_000,), (200, 200), "columns"])
def test_so_it_does_of_large_arrays_that_nobody_may_change(place, value, shape):
    values = np.full(40_000, 3e38 if value == 3e38 else 1.0, np.float32)  # their sum overflows, and all are finite
    values[place] = value
    values = values.reshape(200, 200).T if shape == "columns" else values.reshape(shape)
    values.setflags(write=False)
    assert packed.all_finite(values) == bool(np.isfinite(value))


def test_room_for_an_answer_needs_no_copy():
    memory = bytearray(4096)
    writer = Writer(memoryview(memory))
    arrays.use_room(writer.room)
    one, two = arrays.room((3, 5)), arrays.room((2000,))
    arrays.use_room(None)
    one[...] = 7
    assert memory[:4] == np.float32(7).tobytes()
    assert writer.put(one) == _parcel.Place("float32", (3, 5), 0)
    assert two.size == 2000  # it did not fit, and is elsewhere
    assert writer.put(two) is None


def test_a_piece_is_free_when_nobody_looks_at_it():
    slots = Slots(2)
    slots.widen(64)
    begin = slots.free.pop()
    whole = slots.view(begin)
    part = np.frombuffer(whole, np.float32, 2, 8).reshape(1, 2)
    del whole
    assert slots.free == [64]
    del part
    assert sorted(slots.free) == [0, 64]
    held = slots.view(slots.free.pop())
    slots.widen(128)  # what is looked at stays where it is, and is not given out
    del held
    assert sorted(slots.free) == [128, 256]
    slots.memory.close()


def test_who_has_mapped_less_maps_again():
    parent, child = Memory("test"), None
    parent.grown(10)[:3] = b"abc"
    child = Memory(handle=parent.handle)
    assert child.seen(10)[:3] == b"abc"
    parent.grown(100_000)[99_999:] = b"z"
    assert child.seen(100_000)[99_999:100_000] == b"z"
    with pytest.raises(TypeError):
        child.seen(10)[:1] = b"x"  # it may only look
    parent.close()
