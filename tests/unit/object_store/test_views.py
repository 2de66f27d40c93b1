"""Reading: zero-copy, pinned until the last buffer is gone, private where writable."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store import views
from raydask.object_store.client import StoreClient
from tests.unit.object_store.local_store import LocalStore

MIB = 1 << 20


class Released:
    """An ``on_release`` that can be asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def view_of(
    store: LocalStore,
    client: StoreClient,
    object_id: ObjectID,
    on_release: Callable[[], None],
    *,
    writable: bool = False,
) -> memoryview:
    offset, size = store.state.locate(object_id)
    return client.view(offset, size, writable=writable, on_release=on_release)


def private_pages(address: int) -> int:
    """Return the KiB of private pages in the mapping that holds `address`."""
    found = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                start, end = (int(part, 16) for part in first.split("-"))
                found = start <= address < end
            elif found and first == "Private_Dirty:":
                return int(line.split()[1])
    return 0


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100, 4096, 4097, 3 * MIB + 5])
def test_a_view_has_the_bytes_of_its_object(store: LocalStore, size: int, writable: bool) -> None:
    client = store.client()
    data = os.urandom(size)
    released = Released()
    view = view_of(store, client, store.put(client, data), released, writable=writable)
    assert view == data
    assert (view.readonly, view.format, view.nbytes) == (not writable, "B", size)
    del view
    assert released.times == 1


@pytest.mark.parametrize("writable", [False, True])
def test_an_array_derived_from_the_view_keeps_it(store: LocalStore, writable: bool) -> None:
    client = store.client()
    original = np.arange(100_000)
    object_id = store.put(client, original.tobytes())
    released = Released()
    view = view_of(store, client, object_id, released, writable=writable)
    array = np.frombuffer(view[8:], np.int64)
    assert array.flags.writeable is writable
    part = array.reshape(3, -1).T[5:7]
    del view, array
    gc.collect()
    assert released.times == 0
    assert (part == original[1:].reshape(3, -1).T[5:7]).all()
    del part
    assert released.times == 1


def test_out_of_band_buffers_keep_the_view(store: LocalStore) -> None:
    client = store.client()
    arrays = [np.arange(1000.0), np.arange(50_000)]
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    raw = [bytes(buffer.raw()) for buffer in buffers]
    object_id = store.put(client, b"".join(raw))
    released = Released()
    view = view_of(store, client, object_id, released)
    ends = np.cumsum([len(part) for part in raw])
    loaded: list[Any] = pickle.loads(
        pickled, buffers=[view[end - len(part) : end] for end, part in zip(ends, raw, strict=True)]
    )
    del view
    assert all((a == b).all() for a, b in zip(loaded, arrays, strict=True))
    del loaded[0]
    assert released.times == 0
    loaded.clear()
    assert released.times == 1


def test_a_view_in_a_reference_cycle_goes_with_the_collector(store: LocalStore) -> None:
    client = store.client()
    released = Released()
    cycle: list[object] = [view_of(store, client, store.put(client, b"x" * 100), released)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert released.times == 1


def test_a_view_may_be_released_in_another_thread(store: LocalStore) -> None:
    client = store.client()
    threads: list[str] = []
    holder = [
        view_of(
            store,
            client,
            store.put(client, b"x" * 100),
            lambda: threads.append(threading.current_thread().name),
        )
    ]
    other = threading.Thread(target=holder.clear, name="other")
    other.start()
    other.join()
    assert threads == ["other"]


def test_reading_copies_nothing(store: LocalStore) -> None:
    client = store.client()
    reservation = client.create(4 * MIB)
    object_id = store.seal(client, reservation)
    array = np.frombuffer(view_of(store, client, object_id, Released()), np.uint8)
    written = np.frombuffer(reservation.buffer, np.uint8)
    assert array.ctypes.data == written.ctypes.data


def test_what_a_writable_view_changes_nobody_else_sees(store: LocalStore) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * (2 * MIB))
    mine = view_of(store, client, object_id, Released(), writable=True)
    other = view_of(store, client, object_id, Released(), writable=True)
    shared = view_of(store, client, object_id, Released())
    mine[MIB : MIB + 3] = b"bcd"
    assert bytes(mine[MIB - 1 : MIB + 4]) == b"abcda"
    assert other == shared == b"a" * (2 * MIB)
    assert view_of(store, client, object_id, Released(), writable=True) == shared


def test_another_process_sees_no_private_change(store: LocalStore) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * MIB)
    mine = view_of(store, client, object_id, Released(), writable=True)
    mine[:5] = b"dirty"
    child = os.fork()
    if child == 0:
        again = view_of(store, client, object_id, Released(), writable=True)
        shared = view_of(store, client, object_id, Released())
        again[:5] = b"child"
        inherited_is_a_snapshot = bytes(mine[:5]) == b"dirty"
        os._exit(0 if shared == b"a" * MIB and inherited_is_a_snapshot else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(mine[:5]) == b"dirty"


def test_no_stale_page_shows_when_the_bytes_are_used_again(store: LocalStore) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * MIB)
    offset, _ = store.state.locate(object_id)
    mine = view_of(store, client, object_id, Released(), writable=True)
    mine[:] = b"z" * MIB
    del mine
    store.state.free(object_id)
    again = store.put(client, b"b" * MIB)
    assert store.state.locate(again)[0] == offset
    assert view_of(store, client, again, Released(), writable=True) == b"b" * MIB


def test_private_pages_are_returned_before_the_release_is_told(store: LocalStore) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * (4 * MIB))
    told: list[int] = []
    address = 0

    def on_release() -> None:
        told.append(private_pages(address))

    array = np.frombuffer(view_of(store, client, object_id, on_release, writable=True), np.uint8)
    address = array.ctypes.data
    array[: 2 * MIB] = 7
    assert private_pages(address) == 2048
    del array
    assert told == [0]


def test_a_writable_view_is_a_copy_where_no_mapping_is_to_be_had(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * 100)
    monkeypatch.setattr(views, "map_file", lambda *_, **__: None)
    released = Released()
    mine = view_of(store, client, object_id, released, writable=True)
    assert released.times == 1
    mine[:1] = b"b"
    assert bytes(mine) == b"b" + b"a" * 99
    assert view_of(store, client, object_id, Released()) == b"a" * 100


def test_the_system_may_refuse_a_mapping() -> None:
    assert views.map_file(-1, 0, 4096, writable=True) is None


def test_many_views_of_one_object_keep_no_descriptors(store: LocalStore) -> None:
    client = store.client()
    object_id = store.put(client, b"a" * 100)
    before = len(os.listdir("/proc/self/fd"))
    views = [view_of(store, client, object_id, Released(), writable=True) for _ in range(2000)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len({id(view) for view in views}) == 2000


@pytest.mark.parametrize("writable", [False, True])
def test_views_survive_the_client(store: LocalStore, writable: bool) -> None:
    client = store.client()
    released = Released()
    view = view_of(store, client, store.put(client, b"kept"), released, writable=writable)
    store.close()
    gc.collect()
    assert (bytes(view), released.times) == (b"kept", 0)
    del view
    assert released.times == 1


def test_the_last_page_of_the_arena_can_be_viewed(store: LocalStore) -> None:
    client = store.client()
    size = store.backing.size
    for writable in (False, True):
        view = client.view(size - 4096, 4096, writable=writable, on_release=lambda: None)
        assert view == bytes(4096)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1), (0, 65 * MIB), (64 * MIB, 0)])
def test_bytes_outside_the_arena_are_refused(store: LocalStore, offset: int, size: int) -> None:
    with pytest.raises(InternalError, match=r"no .* bytes at"):
        store.client().view(offset, size, writable=False, on_release=Released())


HOLDING_VIEWS_TO_THE_END = """
import numpy, sys
from tests.unit.object_store.local_store import LocalStore
store = LocalStore(64 << 20, 1 << 20)
client = store.client()
views = [client.view(0, 100, writable=w, on_release=lambda: print("told")) for w in (False, True)]
sys.kept = numpy.frombuffer(views[1], numpy.uint8)
cycle = [client.view(0, 100, writable=True, on_release=[].clear)]
cycle.append(cycle)
"""


def test_an_interpreter_that_ends_with_live_views_is_silent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDING_VIEWS_TO_THE_END],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) <= {"told"}
