"""Arrays are pickled with their memory beside the pickle, and come back as they were."""

from __future__ import annotations

import copyreg
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from raydask.serialization import Serialized, deserialize, serialize

pa = pytest.importorskip("pyarrow")

ROWS = 20_000


def pickle_size(serialized: Serialized) -> int:
    """The bytes that are not in a buffer, padding included."""
    return serialized.size - sum(buffer.nbytes for buffer in serialized._buffers)


def again(value: Any) -> Any:
    return deserialize(memoryview(bytearray(serialize(value).to_bytes())))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    MATRIX = np.matrix(np.arange(ROWS).reshape(100, -1))

ARRAYS = {
    "dates": np.arange(ROWS).astype("M8[ns]"),
    "dates of the other byte order": np.arange(ROWS).astype(">M8[s]"),
    "durations in columns": np.asfortranarray(np.arange(ROWS).astype("m8[us]").reshape(100, -1)),
    "records with dates": np.zeros(ROWS, dtype=[("at", "M8[s]"), ("x", "f4"), ("s", "S3")]),
    "strided": np.arange(2 * ROWS)[::2],
    "strided dates": np.arange(2 * ROWS).astype("M8[D]")[::-2],
    "block": np.arange(4 * ROWS).reshape(200, -1)[10:110, 10:],
    "axes exchanged": np.arange(24_000).reshape(20, 30, 40).transpose(1, 2, 0),
    "recarray": np.zeros(ROWS, dtype=[("x", "i8"), ("y", "M8[s]")]).view(np.recarray),
    "matrix": MATRIX,
    "masked": np.ma.masked_array(np.arange(ROWS), np.arange(ROWS) % 3 == 0, fill_value=7),
    "masked dates": np.ma.masked_array(np.arange(ROWS).astype("M8[s]"), mask=True),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_no_arrays_memory_is_in_its_pickle(name: str) -> None:
    array = ARRAYS[name]
    for value, inner in ((array, again(array)), ([array, lambda: 0], again([array, lambda: 0])[0])):
        assert pickle_size(serialize(value)) < 2_000
        assert type(inner) is type(array)
        assert (inner.dtype, inner.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(inner, array)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.one_of(
        numbers.scalar_dtypes(),
        numbers.array_dtypes(),
        numbers.nested_dtypes(),
    ).flatmap(lambda dtype: numbers.arrays(dtype, numbers.array_shapes(min_side=0, max_dims=3))),
    st.sampled_from(["as it is", "transposed", "every other"]),
)
def test_arrays_of_any_type_and_order_come_back(array: Any, order: str) -> None:
    if order == "transposed":
        array = array.T
    elif order == "every other":
        array = array[::2]
    back = again(array)

    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_a_masked_array_keeps_what_it_knows() -> None:
    bare = again(np.ma.masked_array(np.arange(5.0), fill_value=-1))
    hard = again(np.ma.masked_array(np.arange(5), [0, 1, 0, 0, 0], hard_mask=True))

    assert bare.mask is np.ma.nomask and bare.fill_value == -1
    hard[1] = 9
    assert hard.mask[1] and hard.data[1] == 1
    soft = again(np.ma.masked_array(np.arange(5), [0, 1, 0, 0, 0]))
    soft[1] = 9
    assert not soft.mask[1] and soft.data[1] == 9


def test_a_part_of_a_file_comes_back_without_it(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", dtype="f8", mode="w+", shape=(ROWS,))
    mapped[:] = np.arange(ROWS)
    serialized = serialize(mapped[10:20])

    assert serialized.size < 1_000
    back = again(mapped[10:20])
    assert type(back) is np.memmap
    np.testing.assert_array_equal(back, np.arange(10, 20))


def test_arrays_of_objects_come_back() -> None:
    for array in (
        np.array([None, "a", {}], dtype=object)[::2],
        np.array([(1, None)], dtype=[("x", "i4"), ("o", object)]),
        np.array([], dtype="V0"),
    ):
        back = again(array)
        assert back.dtype == array.dtype
        assert back.tolist() == array.tolist()


def test_nothing_is_registered_for_the_whole_process() -> None:
    serialize([np.arange(3), pa.array([1])])

    assert np.ndarray not in copyreg.dispatch_table
    assert pa.Int64Array not in copyreg.dispatch_table
    assert len(pickle.dumps(ARRAYS["dates"], 5, buffer_callback=[].append)) > ROWS


ARROW = {
    "numbers": pa.array(range(ROWS)),
    "nulls": pa.array([None if i % 3 else i for i in range(ROWS)]),
    "booleans": pa.array([i % 3 == 0 for i in range(ROWS)]),
    "strings": pa.array([f"text {i}" for i in range(ROWS)]),
    "large strings": pa.array([f"text {i}" for i in range(ROWS)], pa.large_string()),
    "views of strings": pa.array([f"a longer text {i}" for i in range(ROWS)], pa.string_view()),
    "dictionary": pa.array([f"text {i % 10}" for i in range(ROWS)]).dictionary_encode(),
    "lists": pa.array([[i, i + 1] for i in range(ROWS)]),
    "structs": pa.array([{"a": i, "b": str(i)} for i in range(ROWS)]),
    "dates": pa.array(np.arange(ROWS).astype("M8[ns]")),
    "run-end encoded": pa.RunEndEncodedArray.from_arrays(
        np.arange(1, ROWS + 1, dtype="i4"), pa.array(range(ROWS))
    ),
}

NOT_IN_PANDAS = {"run-end encoded", "views of strings"}
"""Nor can their slices be made smaller."""


@pytest.mark.parametrize("name", ARROW)
def test_a_slice_comes_back(name: str) -> None:
    array = ARROW[name].slice(1_003, 9)
    back = again(array)

    assert back.type == array.type
    assert back.to_pylist() == array.to_pylist()
    back.validate(full=True)


@pytest.mark.parametrize("name", sorted(set(ARROW) - NOT_IN_PANDAS))
def test_a_slice_takes_what_it_uses(name: str) -> None:
    array = ARROW[name].slice(1_003, 9)

    assert serialize(array).size < 4_000
    assert serialize([array, lambda: 0]).size < 6_000
    table = pa.table({"a": ARROW[name]})
    assert serialize(table.slice(5, 10)).size < 5_000
    assert serialize(table).size > 0.9 * table.nbytes


def test_slices_of_one_table_take_as_much_as_the_table() -> None:
    table = pa.table({"a": np.arange(10 * ROWS), "s": ["text"] * 10 * ROWS})
    parts = [table.slice(start, ROWS // 10) for start in range(0, 10 * ROWS, ROWS // 10)]

    assert serialize(parts).size < 1.3 * serialize(table).size
    assert pa.concat_tables(again(parts)) == table


def test_most_of_an_array_is_stored_without_another_copy() -> None:
    part = ARROW["numbers"].slice(0, ROWS - 10)
    (buffer,) = (each for each in serialize(part)._buffers if each.nbytes)

    assert buffer.nbytes == ARROW["numbers"].nbytes


def test_a_few_rows_of_a_frame_take_what_they_use() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "x": np.arange(ROWS),
            "at": np.arange(ROWS).astype("M8[s]"),
            "s": pd.array(["text"] * ROWS, dtype="string[pyarrow]"),
        }
    )
    few = frame.iloc[500:510]

    assert serialize(few).size < 5_000
    pd.testing.assert_frame_equal(again(few), few)


@pytest.mark.parametrize("kind", ["string[pyarrow]", *sorted(set(ARROW) - NOT_IN_PANDAS)])
def test_a_column_of_arrow_data_is_not_copied(kind: str) -> None:
    pd = pytest.importorskip("pandas")
    array = ARROW.get(kind, ARROW["strings"])
    dtype = kind if kind not in ARROW else pd.ArrowDtype(array.type)
    column = pd.Series(pd.array(array, dtype=dtype))
    chunked = column.array.__arrow_array__()
    theirs = {buffer.address for buffer in chunked.chunk(0).buffers() if buffer is not None}
    ours = {np.frombuffer(each, "u1").ctypes.data for each in serialize(column)._buffers}

    assert theirs <= ours
    for value in (column, column.iloc[:0], pd.concat([column, column]), column.iloc[7:9]):
        back = again(value)
        assert type(back.array) is type(value.array)
        pd.testing.assert_series_equal(back, value)
