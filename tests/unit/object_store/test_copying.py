"""Copies: every size class, any layout that is contiguous, with the interpreter left free."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from raydask.errors import InternalError
from raydask.object_store.copying import RELEASE_FROM, SPLIT_FROM, copy_bytes, private_copy


@pytest.mark.parametrize(
    "size",
    [0, 1, RELEASE_FROM - 1, RELEASE_FROM, SPLIT_FROM - 1, SPLIT_FROM, SPLIT_FROM + 4097],
)
def test_every_byte_arrives(size: int) -> None:
    source = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    target = bytearray(size + 2)
    copy_bytes(memoryview(target)[1 : size + 1], memoryview(source))
    assert target[1:-1] == source
    assert (target[0], target[-1]) == (0, 0)


def test_sources_of_any_format_and_shape_are_copied_as_bytes() -> None:
    source = np.arange(300_000, dtype=np.float32).reshape(3, -1)
    source.setflags(write=False)
    target = bytearray(source.nbytes)
    copy_bytes(memoryview(target), source.data)
    assert target == source.tobytes()


@pytest.mark.parametrize("size", [1, 5000, SPLIT_FROM + 1])
def test_a_private_copy_can_be_written_and_outlives_its_source(size: int) -> None:
    source = bytearray(b"x" * size)
    copy = private_copy(memoryview(source).toreadonly())
    source[0] = ord("y")
    array = np.frombuffer(copy, "u1")
    del copy
    array[-1] += 1

    assert array.ctypes.data % 4096 == 0
    assert array.sum() == ord("x") * size + 1


def test_what_is_not_contiguous_is_refused() -> None:
    with pytest.raises(TypeError):
        copy_bytes(memoryview(bytearray(4)), memoryview(b"abcdefgh")[::2])


def test_different_sizes_are_refused() -> None:
    with pytest.raises(InternalError, match="cannot copy 1 bytes into 2"):
        copy_bytes(memoryview(bytearray(2)), memoryview(b"a"))


def test_no_buffer_stays_held() -> None:
    for size in (10, RELEASE_FROM, SPLIT_FROM):
        source, target = bytearray(size), bytearray(size)
        copy_bytes(memoryview(target), memoryview(source))
        source.append(1)  # raises BufferError while anybody holds the buffer
        target.append(1)


def test_large_copies_also_work_where_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source, target = bytes(range(256)) * (SPLIT_FROM // 256), bytearray(SPLIT_FROM)
    copy_bytes(memoryview(target), memoryview(source))
    assert target == source
