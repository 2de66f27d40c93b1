"""Identifiers say where and by whom they were made."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from raydask import ids
from raydask.ids import NodeNumber, ProcessNumber

NUMBERS = st.integers(0, 2**32 - 1)


@settings(derandomize=True, deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS)
def test_identifiers_carry_their_origin(node: int, process: int, index: int) -> None:
    source = ids.IDSource(NodeNumber(node), ProcessNumber(process))
    task = source.next_task_id()
    returned = ids.return_id(task, index)
    put = source.next_put_id()

    assert (len(task), len(returned), len(put)) == (16, 20, 20)
    assert ids.home_of(task) == ids.home_of(returned) == ids.home_of(put) == node
    assert ids.process_of(task) == ids.process_of(returned) == ids.process_of(put) == process
    assert (ids.task_of(returned), ids.index_of(returned)) == (task, index)
    assert ids.task_of(put) == source.root_task_id
    assert (ids.is_put(put), ids.is_put(returned)) == (True, index >= ids.PUT_INDEX)
    assert ids.creation_object(ids.actor_of(task)) == ids.return_id(task, 0)


def test_no_identifier_comes_twice_from_several_threads() -> None:
    source = ids.IDSource(NodeNumber(1), ProcessNumber(2))
    made: list[bytes] = []

    def make() -> None:
        for _ in range(500):
            made.append(source.next_task_id())
            made.append(source.next_put_id())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == len(made) == 4000
    assert source.root_task_id not in made


def test_functions_are_known_by_their_code() -> None:
    assert ids.function_id(b"a") == ids.function_id(b"a") != ids.function_id(b"b")
    assert len(ids.function_id(b"")) == ids.FUNCTION_ID_SIZE
