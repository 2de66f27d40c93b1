"""The server over its real socket; the control state in memory, and once on Redis."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from raydask.control.memory_store import MemoryServer, MemoryStore
from raydask.control.store import ControlStore
from raydask.control.tables import ActorEntry, NodeEntry, decode, encode
from raydask.control.write_behind import WriteBehind
from raydask.errors import InternalError
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Action
from raydask.global_scheduler.events import EntriesReread
from raydask.global_scheduler.server import (
    GlobalSchedulerServer,
    journals_of,
    reread,
    run_until_told,
)
from raydask.global_scheduler.state import GlobalScheduler
from raydask.ids import ActorID, IDSource, NodeNumber, ProcessNumber
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import units
from tests.unit.global_scheduler.node import DEADLINE, Node, create_actor

CLUSTER = "a1b2c3"
IDS = IDSource(NodeNumber(1), ProcessNumber(1))


class Server:
    """A server in this process, with its own clients of a store."""

    def __init__(self, store: ControlStore, path: Path) -> None:
        self._store = store
        self._path = str(path)
        self._writer = WriteBehind(store, 0.01)
        self._server = GlobalSchedulerServer(
            GlobalScheduler(journals_of(self._writer), CLUSTER),
            self._writer,
            store,
            CLUSTER,
        )

    async def __aenter__(self) -> GlobalSchedulerServer:
        self._store.start()
        self._writer.start()
        self._server.handle(reread(self._store))
        await self._server.start(self._path)
        return self._server

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._writer.close(time.monotonic() + DEADLINE)
        self._store.close()


def test_the_socket_is_the_users_alone_and_goes_with_the_server(folder: Path) -> None:
    path = folder / "global.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def scenario() -> None:
        async with Server(MemoryStore(), path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            await (await Node.join(path)).close()

    asyncio.run(scenario())
    assert not path.exists()


def test_what_is_answered_is_in_the_control_state(folder: Path) -> None:
    path, state, actor_id = folder / "global.sock", MemoryServer(), ActorID(IDS.next_task_id())

    async def scenario() -> None:
        async with Server(MemoryStore(state), path):
            node = await Node.join(path)
            node.send(wire.ClaimName(3, "counter", "space", actor_id, b"handle"))
            assert await node.receive(wire.ActorFound) == wire.ActorFound(3, ActorID(b""), b"")
            assert "named_actor:space:counter" in state.values
            node.send(create_actor(actor_id))
            assert await node.receive(wire.ActorPlaced) == wire.ActorPlaced(actor_id, 1)
            entry = decode(state.values[f"actor:{actor_id.hex()}"], ActorEntry)
            assert (entry.name, entry.node) == ("counter", 1)
            await node.close()

    asyncio.run(scenario())


def test_the_control_state_says_on_which_node_an_actor_lives(folder: Path) -> None:
    path, state, actor_id = folder / "global.sock", MemoryServer(), ActorID(IDS.next_task_id())

    async def scenario() -> None:
        async with Server(MemoryStore(state), path):
            home = await Node.join(path)
            home.send(
                create_actor(actor_id),
                wire.ActorChanged(actor_id, wire.ActorState.ALIVE, 2, 99, 0, ""),
                wire.FindActor(4, "nobody", "space"),
            )
            await home.receive(wire.ActorFound)
            await home.close()

    asyncio.run(scenario())
    entry = decode(state.values[f"actor:{actor_id.hex()}"], ActorEntry)
    assert (entry.state, entry.node) == ("ALIVE", 2)


def test_answers_keep_their_order(folder: Path) -> None:
    path, actor_id = folder / "global.sock", ActorID(IDS.next_task_id())
    task = wire.PassedUp(IDS.next_task_id(), "f", units(CPU=1))

    async def scenario() -> None:
        async with Server(MemoryStore(), path):
            node = await Node.join(path)
            node.send(
                wire.Heartbeat(1, units(CPU=4), 0, 0.0, 0),
                wire.ClaimName(1, "counter", "space", actor_id, b"handle"),
                wire.FindActor(2, "counter", "space"),
                wire.PassUp(1, [task]),
            )
            claimed = await node.receive(wire.ActorFound)
            found = await node.receive(wire.ActorFound)
            placed = await node.receive(wire.Placed)
            assert (claimed.number, claimed.actor_id) == (1, b"")
            assert (found.number, found.actor_id, found.handle) == (2, actor_id, b"handle")
            assert placed.placements == [(task.task_id, 1)]
            await node.close()

    asyncio.run(scenario())


@pytest.mark.expect_log("not safe from a crash", required=False)
@pytest.mark.expect_log("control state is (not )?being written", required=False)
def test_work_goes_on_without_the_control_state(folder: Path) -> None:
    path, state, actor_id = folder / "global.sock", MemoryServer(), ActorID(IDS.next_task_id())

    async def scenario() -> None:
        async with Server(MemoryStore(state), path):
            node = await Node.join(path)
            state.reachable = False
            node.send(create_actor(actor_id))
            assert (await node.receive(wire.ActorPlaced)).actor_id == actor_id
            state.reachable = True
            await node.close()

    asyncio.run(scenario())
    assert f"actor:{actor_id.hex()}" in state.values


@pytest.mark.expect_log("FindActor is not expected here")
@pytest.mark.expect_log("node 1 is cut off")
def test_who_breaks_the_protocol_is_cut_off_and_nobody_else(folder: Path) -> None:
    path, actor_id = folder / "global.sock", ActorID(IDS.next_task_id())

    async def scenario() -> None:
        async with Server(MemoryStore(), path):
            good = await Node.join(path, 2)
            stranger = Node(*await asyncio.open_unix_connection(path))
            stranger.send(wire.FindActor(1, "counter", "space"))
            await stranger.ended()
            bad = await Node.join(path, 1)
            bad.send(wire.ActorChanged(actor_id, 77, 1, 0, 0, ""))
            await bad.ended()
            good.send(wire.FindActor(4, "counter", "space"))
            assert (await good.receive(wire.ActorFound)).number == 4
            await good.close()

    asyncio.run(scenario())


def test_a_node_on_a_new_connection_replaces_the_old_one(folder: Path) -> None:
    path = folder / "global.sock"

    async def scenario() -> None:
        async with Server(MemoryStore(), path):
            old = await Node.join(path)
            new = await Node.join(path)
            await old.ended()
            new.send(wire.FindActor(4, "counter", "space"))
            assert (await new.receive(wire.ActorFound)).number == 4
            await new.close()

    asyncio.run(scenario())


def test_what_comes_on_an_old_connection_is_not_taken_in() -> None:
    store = MemoryStore()
    store.start()
    writer = WriteBehind(store, 0.01)
    heard: list[events.Event] = []

    class Core(GlobalScheduler):
        def handle(self, event: events.Event, now: float) -> list[Action]:
            heard.append(event)
            return super().handle(event, now)

    server = GlobalSchedulerServer(Core(journals_of(writer), CLUSTER), writer, store, CLUSTER)
    old, new = (server._make_protocol(from_network=False) for _ in range(2))
    registration = wire.RegisterNode(1, 7, "here", "host", units(CPU=4), {}, 10, [])
    for protocol in (old, new):
        assert protocol.on_message is not None
        protocol.on_message(protocol, registration)
    del heard[:]
    for protocol in (old, new):
        assert protocol.on_message is not None
        protocol.on_message(protocol, wire.Heartbeat(1, units(CPU=4), 0, 0.0, 0))

    assert len(heard) == 1
    store.close()


@pytest.mark.expect_log("actor:00 in the control state is passed over")
def test_a_document_that_cannot_be_read_is_passed_over() -> None:
    store = MemoryStore()
    store.start()
    node = NodeEntry(1, "ALIVE", "host", "here", 7)
    store.write({"actor:00": b"{", "node:1": encode(node)})

    assert reread(store) == EntriesReread([node], [], [])
    store.close()


class BrokenCore(GlobalScheduler):
    """A core with a bug."""

    def handle(self, event: events.Event, now: float) -> list[Action]:
        if isinstance(event, events.NameAsked):
            raise KeyError("a bug")
        return super().handle(event, now)


def test_a_bug_ends_the_process_so_that_a_new_one_takes_over(folder: Path) -> None:
    path, store = folder / "global.sock", MemoryStore()
    store.start()
    writer = WriteBehind(store, 0.01)
    writer.start()
    server = GlobalSchedulerServer(BrokenCore(journals_of(writer)), writer, store, CLUSTER)

    async def scenario() -> None:
        await server.start(str(path))
        serving = asyncio.ensure_future(run_until_told(server, os.getppid()))
        node = await Node.join(path)
        node.send(wire.FindActor(1, "counter", "space"))
        await node.ended()
        await asyncio.wait_for(serving, DEADLINE)

    with pytest.raises(InternalError, match="gives way to a new one") as raised:
        asyncio.run(scenario())
    assert isinstance(raised.value.__cause__, KeyError)
    writer.close(time.monotonic() + DEADLINE)
    store.close()
