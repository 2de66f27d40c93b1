"""The write barrier, on a store in memory whose writes can be held up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pytest

from raydask.control.memory_store import MemoryServer, MemoryStore
from raydask.control.schema import job_key
from raydask.control.write_behind import WriteBehind
from raydask.control.write_behind_state import DirtyTable, FixedDocument
from raydask.local_scheduler.lineage import Lineage
from raydask.local_scheduler.write_barrier import WriteBarrier

DEADLINE = 20.0


async def next_turn() -> None:
    """Return when all is done that was to be done in this turn of the loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


class GatedStore(MemoryStore):
    """A store whose writes wait at a gate, and are counted."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.gate = threading.Event()
        self.writes = 0

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        self.gate.wait()
        self.writes += 1
        super().write(puts, deletes)


class NumbersAreEntries:
    """A lineage in which a message is the list of the jobs that it depends on."""

    def __init__(self, jobs: DirtyTable[int]) -> None:
        self._jobs = jobs

    def of(self, message: object) -> int:
        return max(map(self._jobs.hurry, cast(list[int], message)), default=0)


class Sender:
    """A barrier, and what it has let through."""

    def __init__(self, patience: float = DEADLINE) -> None:
        self.server = MemoryServer()
        self.store = GatedStore(self.server)
        self.store.start()
        self.writer = WriteBehind(self.store)
        self.writer.start()
        self.jobs = self.writer.table(job_key)
        self.said: list[tuple[int, object]] = []
        self._loop = asyncio.get_running_loop()
        self.barrier = WriteBarrier(
            cast(Lineage, NumbersAreEntries(self.jobs)),
            self.writer,
            self._say,
            self._loop,
            patience,
        )
        self._changed = asyncio.Event()

    def _say(self, node: int, message: object) -> None:
        for number in cast(list[int], message):
            if self.store.gate.is_set() and self.server.reachable:
                assert f"job:{number}" in self.server.values
        self.said.append((node, message))
        self._changed.set()

    def forget(self, *numbers: int) -> None:
        for number in numbers:
            self.jobs.forget(number)

    def mark(self, *numbers: int) -> None:
        for number in numbers:
            self.jobs.put(number, FixedDocument(b"x"))

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = self._loop.time() + DEADLINE
        while not condition():
            assert self._loop.time() < deadline
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), DEADLINE)

    async def until_it_stands(self) -> None:
        deadline = self._loop.time() + DEADLINE
        while self.barrier._open_until:
            assert self._loop.time() < deadline
            await next_turn()

    def close(self) -> None:
        self.store.gate.set()
        self.barrier.close()
        self.writer.close(time.monotonic() + DEADLINE)


def test_a_message_waits_for_its_entries_and_what_follows_it_stays_behind() -> None:
    async def scenario() -> None:
        sender = Sender()
        sender.mark(1, 2)
        sender.barrier.send(7, [])
        sender.barrier.send(7, [1])
        sender.barrier.send(7, [])
        sender.barrier.send(8, [])
        sender.barrier.send(7, [2])
        assert sender.said == [(7, []), (8, [])]

        sender.store.gate.set()
        await sender.until(lambda: len(sender.said) == 5)
        assert sender.said[2:] == [(7, [1]), (7, []), (7, [2])]
        assert sender.store.writes == 1, "what is said in one turn is one batch"
        sender.barrier.send(8, [1, 2])
        assert sender.said[-1] == (8, [1, 2]), "what is written costs nothing"
        sender.close()

    asyncio.run(scenario())


def test_what_is_said_while_a_batch_is_in_flight_goes_with_the_next() -> None:
    async def scenario() -> None:
        sender = Sender()
        sender.mark(*range(100))
        sender.barrier.send(7, [0])
        await next_turn()  # in which it is handed on
        for number in range(1, 100):
            sender.barrier.send(7 + number % 2, [number])
            await next_turn()

        sender.store.gate.set()
        await sender.until(lambda: len(sender.said) == 100)
        assert sender.store.writes == 2
        assert [m for node, m in sender.said if node == 7] == [[i] for i in range(0, 100, 2)]
        sender.close()

    asyncio.run(scenario())


@pytest.mark.expect_log("not been written for")
@pytest.mark.expect_log("is being written again: tasks")
@pytest.mark.expect_log("control state is not being written")
@pytest.mark.expect_log("control state is being written again$")
def test_the_barrier_opens_when_the_store_is_away_and_stands_again_when_it_is_back() -> None:
    async def scenario() -> None:
        sender = Sender(patience=0.05)
        sender.server.reachable = False
        sender.store.gate.set()
        sender.mark(1, 2, 3)
        sender.barrier.send(7, [1])
        sender.barrier.send(7, [])
        assert not sender.said
        await sender.until(lambda: len(sender.said) == 2)
        sender.barrier.send(7, [2])
        assert sender.said == [(7, [1]), (7, []), (7, [2])]

        sender.server.reachable = True
        await sender.until_it_stands()
        sender.barrier.send(7, [3])
        assert len(sender.said) == 3
        await sender.until(lambda: len(sender.said) == 4)
        sender.close()

    asyncio.run(scenario())


def test_nothing_is_said_to_a_node_that_is_forgotten() -> None:
    async def scenario() -> None:
        sender = Sender()
        sender.mark(1, 2)
        sender.barrier.send(7, [1])
        sender.barrier.send(8, [2])
        sender.barrier.forget_node(7)
        sender.store.gate.set()
        await sender.until(lambda: bool(sender.said))
        assert sender.said == [(8, [2])]
        sender.close()

    asyncio.run(scenario())


def test_entries_that_go_before_they_are_written_keep_nothing_back() -> None:
    async def scenario() -> None:
        sender = Sender()
        sender.store.gate.set()
        sender.mark(1)
        sender.barrier.send(7, [1])
        sender.barrier.send(7, [])
        sender.forget(1)
        sender.server.values["job:1"] = b""  # for `_say`, which looks for it
        await next_turn()
        assert sender.said == [(7, [1]), (7, [])]
        assert sender.store.writes == 0, "there was nothing to write"
        sender.close()

    asyncio.run(scenario())


def test_entries_that_go_while_a_batch_is_in_flight_keep_nothing_back() -> None:
    async def scenario() -> None:
        sender = Sender()
        sender.mark(1, 2)
        sender.barrier.send(7, [1])
        await next_turn()  # in which it is handed on
        sender.barrier.send(8, [2])
        sender.forget(2)
        sender.server.values["job:2"] = b""
        sender.store.gate.set()
        await sender.until(lambda: len(sender.said) == 2)
        assert sender.store.writes == 1
        sender.close()

    asyncio.run(scenario())
