"""A global scheduler that is killed, with its control state on Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydask.control.redis_server import RedisServer
from raydask.control.redis_store import RedisStore
from raydask.control.tables import ActorEntry, NodeEntry, decode
from raydask.ids import ActorID, IDSource, NodeNumber, ProcessNumber
from raydask.wire import messages as wire
from tests.architecture.source import ROOT
from tests.unit.global_scheduler.node import DEADLINE, Node, create_actor

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


@pytest.fixture
def redis(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(str(folder), 0, "secret")
    server.start()
    server.wait_ready(time.monotonic() + DEADLINE)
    yield server
    server.kill()


PROGRAM = """
import sys
from raydask.config import Config
from raydask.control.control_place import parse_place
from raydask.global_scheduler.server import run_global_scheduler
place = parse_place(sys.argv[2], "", "secret")
run_global_scheduler(sys.argv[1], place, "secret", Config(control_window=0.05), None)
"""


class Process:
    """A global scheduler in a process of its own."""

    def __init__(self, path: Path, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), url],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
        )

    def end(self, number: signal.Signals) -> tuple[int, bytes]:
        """Its exit status, and what it said."""
        self._process.send_signal(number)
        _, said = self._process.communicate(timeout=DEADLINE)
        return self._process.returncode, said


async def join_when_up(path: Path, actors: list[ActorID]) -> Node:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return await Node.join(path, 1, actors)
        except OSError:
            assert time.monotonic() < deadline, "it did not come up"
            await asyncio.sleep(0.01)


def test_a_killed_one_is_replaced_and_nothing_answered_is_forgotten(
    folder: Path, redis: RedisServer
) -> None:
    path, actor_id = folder / "global.sock", ActorID(IDS.next_task_id())

    async def before() -> None:
        node = await join_when_up(path, [])
        node.send(
            wire.ClaimName(1, "counter", "space", actor_id, b"handle"), create_actor(actor_id)
        )
        await node.receive(wire.ActorPlaced)
        assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
        await node.ended()

    async def after() -> None:
        node = await join_when_up(path, [actor_id])
        node.send(
            wire.ActorChanged(actor_id, wire.ActorState.ALIVE, 1, 99, 0, ""),
            wire.FindActor(2, "counter", "space"),
        )
        assert await node.receive(wire.ActorFound) == wire.ActorFound(2, actor_id, b"handle")
        await node.close()

    process = Process(path, redis.url)
    asyncio.run(before())
    process = Process(path, redis.url)
    asyncio.run(after())
    assert process.end(signal.SIGTERM) == (0, b"")
    assert not path.exists()

    store = RedisStore([redis.url], password="secret")
    store.start()
    actor, node = store.read([f"actor:{actor_id.hex()}", "node:1"])
    store.close()
    assert actor is not None
    assert node is not None
    assert decode(actor, ActorEntry).state == "ALIVE"
    assert decode(node, NodeEntry).resources == {"CPU": 4.0}
