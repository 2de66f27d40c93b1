"""What every control store promises, on each of them; see ``raydask.control.store``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from raydask.control.schema import SCHEMA_KEY, SCHEMA_VERSION, object_key, task_key
from raydask.control.store import (
    ControlStore,
    ControlStoreError,
    ControlStoreUnavailableError,
)
from raydask.ids import IDSource, NodeNumber, ProcessNumber, return_id
from tests.contract.conftest import Backend

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def task_entries(count: int) -> dict[str, bytes]:
    return {task_key(IDS.next_task_id()): b"document %d" % number for number in range(count)}


def test_what_is_written_is_read_in_the_order_asked(store: ControlStore) -> None:
    entries = task_entries(20)
    store.write(entries)

    keys = [*reversed(entries), "task:absent", next(iter(entries))]
    assert store.read(keys) == [entries.get(key) for key in keys]


def test_a_second_write_replaces_the_first(store: ControlStore) -> None:
    store.write({"job:a": b"1", "job:b": b"2"})
    store.write({"job:a": b"3"})

    assert store.read(["job:a", "job:b"]) == [b"3", b"2"]


@pytest.mark.parametrize("value", [b"", b"\r\n$3\r\n\0\xff", b"x" * 3_000_000], ids=len)
def test_values_are_any_bytes(store: ControlStore, value: bytes) -> None:
    store.write({"function:00": value, "function:01": value})

    assert store.read(["function:00", "function:01"]) == [value, value]


def test_keys_are_any_text(store: ControlStore) -> None:
    store.write({"kv:näme space:\n*[a]\\": b"1"})

    assert store.read(["kv:näme space:\n*[a]\\"]) == [b"1"]
    assert set(store.scan("kv:näme")) == {"kv:näme space:\n*[a]\\"}


def test_nothing_to_do_is_nothing_wrong(store: ControlStore) -> None:
    store.write({}, [])
    store.append_events([], 10)

    assert store.read([]) == []
    assert store.read_events() == []


def test_deletes_take_away_what_is_there_and_mind_nothing_else(store: ControlStore) -> None:
    store.write({"node:1": b"1", "node:2": b"2"})
    store.write({"node:3": b"3"}, ["node:1", "node:absent"])

    assert store.read(["node:1", "node:2", "node:3"]) == [None, b"2", b"3"]


def test_deletes_come_after_puts(store: ControlStore) -> None:
    store.write({"node:1": b"1"}, ["node:1"])

    assert store.read(["node:1"]) == [None]


def test_thousands_of_entries_in_one_call(store: ControlStore) -> None:
    entries = task_entries(5_000)
    store.write(entries)
    assert store.read(list(entries)) == list(entries.values())

    store.write({}, list(entries))
    assert not list(store.scan("task:"))


def test_scan_finds_the_keys_of_all_shards_and_no_others(store: ControlStore) -> None:
    entries = task_entries(2_500)
    objects = {object_key(return_id(IDS.next_task_id(), 0)): b"o" for _ in range(100)}
    store.write(entries | objects | {"job:1": b"j"})

    assert set(store.scan("task:")) == set(entries)
    assert set(store.scan("object:")) == set(objects)
    assert set(store.scan("actor:")) == set()


def test_scan_takes_the_prefix_literally(store: ControlStore) -> None:
    store.write({"kv:a*:1": b"", "kv:ab:1": b"", "kv:[ab]:1": b"", "kv:a\\:1": b""})

    assert set(store.scan("kv:a*")) == {"kv:a*:1"}
    assert set(store.scan("kv:[ab]")) == {"kv:[ab]:1"}
    assert set(store.scan("kv:a\\")) == {"kv:a\\:1"}


def test_numbers_are_handed_out_once(backend: Backend) -> None:
    stores = [backend.open() for _ in range(3)]
    assert stores[0].increment("nodes") == 1

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda each: each.increment("nodes"), stores * 20))
    for each in stores:
        each.close()

    assert sorted(numbers) == list(range(2, 62))


def test_counters_are_separate_and_readable(store: ControlStore) -> None:
    assert [store.increment("nodes"), store.increment("jobs"), store.increment("nodes")] == [
        1,
        1,
        2,
    ]
    assert store.read(["counter:nodes"]) == [b"2"]


def test_the_first_to_put_wins(store: ControlStore) -> None:
    assert store.put_if_absent("named_actor::a", b"1")
    assert not store.put_if_absent("named_actor::a", b"2")
    assert not store.put_if_absent("named_actor::a", b"1")
    assert store.read(["named_actor::a"]) == [b"1"]

    store.write({}, ["named_actor::a"])
    assert store.put_if_absent("named_actor::a", b"2")


def test_events_are_read_in_order_and_page_by_page(store: ControlStore) -> None:
    events = [b"event %d" % number for number in range(2_500)]
    store.append_events(events[:10], 10_000)
    store.append_events(events[10:], 10_000)

    found: list[bytes] = []
    after = "0-0"
    while page := store.read_events(after, 1_000):
        found += [event for _, event in page]
        after = page[-1][0]
    assert found == events


def test_equal_events_are_kept_apart(store: ControlStore) -> None:
    store.append_events([b"same", b"same"], 100)
    store.append_events([b"same", b"same"], 100)

    assert [event for _, event in store.read_events()] == [b"same"] * 4


def test_the_event_stream_is_capped(store: ControlStore) -> None:
    for start in range(0, 3_000, 100):
        store.append_events([b"%d" % number for number in range(start, start + 100)], 500)

    kept = [event for _, event in store.read_events(limit=10_000)]
    assert kept[-500:] == [b"%d" % number for number in range(2_500, 3_000)]
    assert len(kept) < 1_000


def test_used_memory_follows_what_is_held(store: ControlStore) -> None:
    keys = [f"job:{number}" for number in range(40)]
    before = store.used_memory()
    for key in keys:
        store.write({key: b"x" * 100_000})
    assert store.used_memory() - before > 3_900_000

    store.write({}, keys)
    assert store.used_memory() - before < 1_000_000


def test_the_state_outlives_its_client(backend: Backend) -> None:
    first = backend.open()
    first.write({"node:1": b"1"})
    first.close()

    second = backend.open()
    assert second.read(["node:1"]) == [b"1"]
    second.close()


def test_clear_removes_everything(backend: Backend) -> None:
    store = backend.open()
    store.write(task_entries(3_000) | {"job:a": b"1"})
    store.append_events([b"event"], 10)
    store.increment("nodes")
    store.clear()
    store.close()

    store = backend.open()
    assert set(store.scan("")) == {SCHEMA_KEY}
    assert store.read_events() == []
    assert store.increment("nodes") == 1
    store.close()


def test_a_closed_store_refuses_and_can_be_closed_again(store: ControlStore) -> None:
    store.close()
    store.close()

    with pytest.raises(ControlStoreError, match="start"):
        store.read(["node:1"])


def test_the_store_is_marked_with_the_schema_version(backend: Backend) -> None:
    store = backend.open()
    assert store.read([SCHEMA_KEY]) == [str(SCHEMA_VERSION).encode()]

    store.write({SCHEMA_KEY: b"999"})
    store.close()
    with pytest.raises(ControlStoreError, match="999"):
        backend.open()


def test_an_unreachable_store_says_so_and_serves_again_when_it_is_back(backend: Backend) -> None:
    store = backend.open()
    store.write({"node:1": b"1"})

    backend.unplug()
    with pytest.raises(ControlStoreUnavailableError):
        store.write({"node:1": b"2"})

    backend.plug()
    assert store.read(["node:1"]) == [b"1"]
    store.write({"node:1": b"3"})
    assert store.read(["node:1"]) == [b"3"]
    store.close()
