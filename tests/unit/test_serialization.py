"""Values come back as they were, from each layout, without copies where that is promised."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber
from raydask.serialization import (
    BUFFER_ALIGNMENT,
    Serialized,
    deserialize,
    dumps_code,
    note_nested,
    serialize,
)

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


class Ref:
    """Pickles as refs do."""

    def __init__(self, object_id: ObjectID) -> None:
        self.object_id = object_id

    def __reduce__(self) -> tuple[Any, ...]:
        note_nested(self.object_id)
        return (Ref, (self.object_id,))


class Outer:
    """Serializes another value while it is pickled itself."""

    def __init__(self, before: Ref, inner: Ref, after: Ref) -> None:
        self.parts = (before, inner, after)

    def __reduce__(self) -> tuple[Any, ...]:
        before, inner, after = self.parts
        return (list, (iter([before, serialize(inner).to_bytes(), after]),))


class Picky:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not me")


def written(serialized: Serialized) -> bytearray:
    """The value as it lies in the object store."""
    target = bytearray(serialized.size)

    def copy(into: memoryview, source: memoryview) -> None:
        assert len(into) == source.nbytes
        into[:] = source

    serialized.write_into(memoryview(target), copy)
    return target


def both_ways(value: object) -> list[Any]:
    serialized = serialize(value)
    data = serialized.to_bytes()
    assert len(data) == serialized.size
    stored = written(serialized)
    assert bytes(stored) == data
    return [deserialize(data), deserialize(memoryview(stored))]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(VALUES)
def test_plain_values_come_back(value: object) -> None:
    assert both_ways(value) == [value, value]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000])
def test_bytes_come_back_as_bytes(size: int) -> None:
    value = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for each in both_ways(value):
        assert type(each) is bytes and each == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(20)[::2],
        np.array(5),
        np.array(["a", "bcd"]),
        np.array([None, {}], dtype=object),
        np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back(array: Any) -> None:
    for each in both_ways({"a": array, "b": [array]}):
        np.testing.assert_array_equal(each["a"], array)
        np.testing.assert_array_equal(each["b"][0], array)
        assert each["a"].dtype == array.dtype


def test_arrays_are_aligned_views_of_what_they_were_read_from() -> None:
    arrays = [np.arange(3, dtype="u1"), np.arange(100.0), np.zeros(0), np.arange(7)]
    stored = np.frombuffer(written(serialize(arrays)), dtype="u1")
    start = stored.__array_interface__["data"][0]
    for each in deserialize(memoryview(stored)):
        if each.nbytes:
            assert np.shares_memory(each, stored)
            assert (each.__array_interface__["data"][0] - start) % BUFFER_ALIGNMENT == 0


def test_views_of_read_only_memory_are_read_only() -> None:
    data = serialize(np.arange(10)).to_bytes()
    assert not deserialize(data).flags.writeable
    assert deserialize(memoryview(bytearray(data))).flags.writeable


def test_refs_inside_are_noted_in_order() -> None:
    refs = [Ref(IDS.next_put_id()) for _ in range(3)]
    assert serialize(refs).nested == [ref.object_id for ref in refs]
    assert serialize({"x": (refs[0], np.arange(5))}).nested == [refs[0].object_id]
    assert serialize(refs[0]).nested == [refs[0].object_id]
    assert serialize([1]).nested == []


def test_what_cloudpickle_pickles_again_is_noted_once() -> None:
    ref = Ref(IDS.next_put_id())
    assert serialize([ref, lambda: ref]).nested == [ref.object_id]
    code, nested = dumps_code(lambda: ref)
    assert nested == [ref.object_id]
    assert pickle.loads(code)().object_id == ref.object_id


def test_a_value_inside_a_value_notes_its_own() -> None:
    before, inner, after = (Ref(IDS.next_put_id()) for _ in range(3))
    assert serialize(Outer(before, inner, after)).nested == [before.object_id, after.object_id]


def test_nothing_is_noted_outside_or_by_other_threads() -> None:
    ref = Ref(IDS.next_put_id())
    pickle.dumps(ref)

    class Meanwhile:
        def __reduce__(self) -> tuple[Any, ...]:
            thread = threading.Thread(target=pickle.dumps, args=(ref,))
            thread.start()
            thread.join()
            return (int, ())

    assert serialize([Meanwhile()]).nested == []
    with pytest.raises(RuntimeError, match="not me"):
        serialize(Picky())
    pickle.dumps(ref)
    assert serialize([]).nested == []


def test_closures_and_local_classes_come_back() -> None:
    factor = 3

    class Local:
        def times(self, number: int) -> int:
            return number * factor

    for function, instance in both_ways((lambda number: number + factor, Local())):
        assert (function(1), instance.times(2)) == (4, 6)


MAIN = """
import sys
from raydask.serialization import serialize
class Point:
    def __init__(self, x): self.x = x
    def double(self): return Point(self.x * 2)
def shifted(point): return Point(point.x + 1)
sys.stdout.buffer.write(serialize((Point(4), shifted, {"__main__": 1})).to_bytes())
"""


def test_what_main_defines_can_be_read_elsewhere() -> None:
    data = subprocess.run(
        [sys.executable, "-c", MAIN], check=True, stdout=subprocess.PIPE, timeout=60
    ).stdout
    point, shifted, words = deserialize(data)

    assert (point.double().x, shifted(point).x, words) == (8, 5, {"__main__": 1})
