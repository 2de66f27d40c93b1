"""Writing: slabs, regions, threads, what is handed back."""

from __future__ import annotations

import os
import random
import threading

import pytest

from raydask.errors import InternalError, ObjectStoreFullError, UsageError
from raydask.ids import ObjectID
from raydask.object_store.client import Reservation, StoreClient
from raydask.object_store.sizes import ALIGNMENT
from raydask.object_store.state import StoreState
from tests.unit.object_store.local_store import LocalStore

SLAB = 1 << 20


def test_small_objects_share_a_slab_and_cost_one_request(store: LocalStore) -> None:
    client = store.client()
    reservations = [client.create(1000 * number) for number in range(1, 11)]
    assert store.requests == [SLAB]
    assert [r.size for r in reservations] == [1000 * number for number in range(1, 11)]
    assert all(len(r.buffer) == r.size and not r.buffer.readonly for r in reservations)
    for reservation in reversed(reservations):
        store.seal(client, reservation)
    assert len(store.state) == 10


def test_a_large_object_gets_a_region_of_its_own(store: LocalStore) -> None:
    client = store.client()
    reservation = client.create(SLAB // 4 + 1)
    assert store.requests == [SLAB // 4 + ALIGNMENT]
    store.seal(client, reservation)
    assert store.state.unsealed == 0


def test_a_replaced_slab_returns_its_tail(store: LocalStore) -> None:
    client = store.client()
    first = [client.create(SLAB // 4 - ALIGNMENT) for _ in range(4)]
    after = client.create(SLAB // 4)
    assert store.requests == [SLAB, SLAB]
    assert client.take_retired() == [(first[0].offset + SLAB - 4 * ALIGNMENT, 4 * ALIGNMENT)]
    assert client.take_retired() == []
    store.state.abandon(0, first[0].offset + SLAB - 4 * ALIGNMENT, 4 * ALIGNMENT)
    for reservation in (after, *first):
        store.seal(client, reservation)
    assert store.state.unsealed == SLAB - SLAB // 4


def test_an_aborted_reservation_is_handed_back_whole(store: LocalStore) -> None:
    client = store.client()
    kept, given_up, last = client.create(10), client.create(5000), client.create(10)
    large = client.create(SLAB)
    client.abort(given_up)
    client.abort(large)
    store.seal(client, last)
    store.seal(client, kept)
    assert store.state.used == SLAB - 2 * ALIGNMENT
    assert store.state.unsealed == SLAB - 4 * ALIGNMENT


def test_a_small_object_fits_where_a_slab_does_not(store: LocalStore) -> None:
    client = store.client()
    store.seal(client, client.create(store.backing.size - 4 * ALIGNMENT))
    reservation = client.create(3 * ALIGNMENT)
    assert store.requests[1:] == [SLAB, 3 * ALIGNMENT]
    store.seal(client, reservation)
    with pytest.raises(ObjectStoreFullError):
        client.create(2 * ALIGNMENT)


def test_memory_is_used_again(store: LocalStore) -> None:
    client = store.client()
    places = set()
    for _ in range(5):
        object_id = store.put(client, bytes(8 << 20))
        places.add(store.state.locate(object_id)[0])
        store.state.free(object_id)
    assert len(places) == 1


def test_a_slab_that_another_thread_brought_meanwhile_is_not_wasted() -> None:
    store = LocalStore(64 << 20, SLAB)
    clients: list[StoreClient] = []
    inner: list[Reservation] = []

    def request_region(size: int) -> int:
        if not inner:  # what another thread would do during the round trip
            inner.append(Reservation(0, 0, memoryview(b"")))
            inner[0] = clients[0].create(100)
        offset = store.state.grant(0, size)
        assert offset is not None
        return offset

    client = StoreClient(store.backing.fd, store.backing.size, request_region, slab_size=SLAB)
    clients.append(client)
    client.start()
    outer = client.create(200 << 10)
    retired = client.take_retired()
    assert retired == [(outer.offset + (200 << 10), SLAB - (200 << 10))]
    assert client.create(100).offset == inner[0].offset + ALIGNMENT
    client.close()
    store.close()


def test_threads_never_share_a_byte() -> None:
    store = LocalStore(256 << 20, SLAB)
    client = store.client()
    written: list[tuple[int, ObjectID]] = []

    def write(seed: int) -> None:
        sizes = random.Random(seed)
        for _ in range(60):
            reservation = client.create(sizes.randrange(SLAB // 3))
            reservation.buffer[:] = bytes([seed]) * reservation.size
            written.append((seed, store.seal(client, reservation)))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 4 * 60
    for seed, object_id in written:
        offset, size = store.state.locate(object_id)
        view = client.view(offset, size, writable=False, on_release=lambda: None)
        assert bytes(view) == bytes([seed]) * size
    del view
    store.close()


def test_another_process_reads_what_was_sealed(store: LocalStore) -> None:
    object_id = store.put(store.client(), b"shared" * 1000)
    offset, size = store.state.locate(object_id)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # As a driver would: by path, with a client of its own.
        fd = os.open(store.backing.path, os.O_RDWR)
        client = StoreClient(fd, store.backing.size, lambda size: size)
        client.start()
        view = client.view(offset, size, writable=False, on_release=lambda: None)
        os.write(writer, bytes(view)[-12:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"sharedshared"
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_of_the_process_may_not_write(store: LocalStore) -> None:
    client = store.client()
    client.create(10)
    child = os.fork()
    if child == 0:
        try:
            client.create(10)
        except UsageError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_copies_of_different_sizes_are_refused(store: LocalStore) -> None:
    client = store.client()
    with pytest.raises(InternalError, match="cannot copy 4 bytes into 3"):
        client.copy_into(client.create(3).buffer, memoryview(b"four"))


def test_a_closed_client_refuses_and_closes_again(store: LocalStore) -> None:
    client = store.client()
    reservation = client.create(10)
    client.close()
    client.close()
    reservation.buffer[:] = bytes(10)  # the memory stays while somebody holds it
    with pytest.raises(UsageError):
        client.create(10)
    with pytest.raises(UsageError):
        client.view(0, 10, writable=False, on_release=lambda: None)


def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    store = LocalStore(64 << 20, SLAB)
    client = store.client()
    view = client.view(0, 10, writable=True, on_release=lambda: None)
    store.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    view.release()


def test_the_default_slab_suits_the_default_state() -> None:
    assert StoreState(1 << 30).slab_size == StoreClient(-1, 1 << 30, int)._slab_size
