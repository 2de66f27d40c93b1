"""The server over TCP: nodes that join, those that may not, and the way to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from raydask.config import Config
from raydask.control.control_place import ControlPlace
from raydask.control.memory_store import MemoryServer, MemoryStore
from raydask.control.redis_connection import parse_url
from raydask.control.write_behind import WriteBehind
from raydask.global_scheduler.joining import cluster_identity
from raydask.global_scheduler.server import GlobalSchedulerServer, journals_of, reread
from raydask.global_scheduler.state import GlobalScheduler
from raydask.version import VERSION
from raydask.wire import messages as wire
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.tls import client_tls
from tests.unit.global_scheduler.cluster import units
from tests.unit.global_scheduler.node import DEADLINE, Node

SECRET = "a secret of the cluster"
LARGE = 4 << 20
CERTIFICATES = Path(__file__).parents[1] / "wire" / "certificates"
TLS = Config(
    tls_certificate=str(CERTIFICATES / "node.pem"),
    tls_key=str(CERTIFICATES / "node.key"),
    tls_authority=str(CERTIFICATES / "authority.pem"),
)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, DEADLINE))


class Head:
    """A server that listens on a network, and its control state."""

    def __init__(
        self,
        folder: Path,
        state: MemoryServer,
        urls: Sequence[str] = (),
        config: Config = Config(),  # noqa: B008  (immutable)
    ) -> None:
        self._config = config
        self.path = folder / "global.sock"
        self._store = MemoryStore(state)
        self._store.start()
        self.cluster = cluster_identity(self._store)
        self._writer = WriteBehind(self._store, 0.01)
        core = GlobalScheduler(journals_of(self._writer), self.cluster)
        place = ControlPlace([parse_url(url) for url in urls])
        self._server = GlobalSchedulerServer(core, self._writer, self._store, self.cluster, place)

    async def __aenter__(self) -> Head:
        self._writer.start()
        self._server.handle(reread(self._store))
        await self._server.start(str(self.path))
        listener = listen_at(Endpoint("127.0.0.1", 0))
        self.endpoint = endpoint_of(listener)
        await self._server.listen(listener, SECRET, self._config)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._writer.close(time.monotonic() + DEADLINE)
        self._store.close()

    async def connect(self) -> Node:
        return await Node.connect(self.endpoint, SECRET, client_tls(self._config))

    async def ask_to_join(self, version: str = VERSION) -> wire.Joined:
        node = await self.connect()
        node.send(wire.JoinCluster(version, ""))
        answer = await node.receive(wire.Joined)
        await node.ended()
        return answer

    async def register(self, number: int, cluster: str = "") -> Node:
        node = await self.connect()
        node.send(
            wire.RegisterNode(
                number, 7, "here", "host", units(CPU=4), {}, 10, [], f"h:{number}", "", cluster
            )
        )
        return node


def test_machines_that_join_get_numbers_that_nobody_else_has(folder: Path) -> None:
    async def scenario() -> None:
        state = MemoryServer()
        async with Head(folder, state) as head:
            one, two = await head.ask_to_join(), await head.ask_to_join()
            assert (one.node, two.node) == (1, 2)
            assert one.cluster == two.cluster == head.cluster
            assert (one.refusal, one.shards) == ("", 0)

    run(scenario())


def test_the_clusters_identity_outlives_the_global_scheduler(folder: Path) -> None:
    state = MemoryServer()

    async def scenario() -> str:
        async with Head(folder, state) as head:
            return head.cluster

    assert asyncio.run(scenario()) == asyncio.run(scenario())
    assert state.values["raydask:cluster"]


def test_machines_with_another_version_may_not_join(folder: Path) -> None:
    async def scenario() -> None:
        async with Head(folder, MemoryServer()) as head:
            answer = await head.ask_to_join("0.0.1")
            assert answer.node == 0
            assert "the new node has 0.0.1" in answer.refusal

    run(scenario())


def test_without_the_control_state_nobody_joins_and_learns_why(folder: Path) -> None:
    async def scenario() -> None:
        state = MemoryServer()
        async with Head(folder, state) as head:
            state.reachable = False
            answer = await head.ask_to_join()
            state.reachable = True
            assert "no node can join now" in answer.refusal

    run(scenario())


def test_nodes_come_over_both_ways_and_learn_of_one_another(folder: Path) -> None:
    async def scenario() -> None:
        async with Head(folder, MemoryServer()) as head:
            first = await Node.join(head.path, 1)
            second = await head.register(2, head.cluster)
            assert (await first.receive(wire.NodesAppeared)).nodes == [(2, "h:2", "")]
            third = await head.register(3)
            assert (await third.receive(wire.NodesAppeared)).nodes == [(2, "h:2", "")]
            third.send(wire.Demands([wire.ShapeDemand(1, units(CPU=1), 2)]))
            (lease,) = (await third.receive(wire.Leases)).leases
            assert (lease.node, lease.slots) == (1, 2)
            # All at once, and all are answered soon.
            for node in (first, second):
                node.send(wire.Demands([wire.ShapeDemand(1, units(CPU=1), 2)]))
            assert (await first.receive(wire.Leases)).leases
            assert (await second.receive(wire.Leases)).leases
            for node in (first, second, third):
                await node.close()

    run(scenario())


@pytest.mark.expect_log("node 3 may not register: node 2 cannot reach it")
def test_a_node_that_must_go_is_told_cut_off_and_does_not_come_back(folder: Path) -> None:
    async def scenario() -> None:
        async with Head(folder, MemoryServer()) as head:
            first = await Node.join(head.path, 1)
            second, third = await head.register(2), await head.register(3)
            second.send(wire.NodeUnreachable(3, "connection reset"))
            for node in (first, second, third):
                ((number, cause),) = (await node.receive(wire.NodesDied)).nodes
                assert (number, "node 2 cannot reach it" in cause) == (3, True)
            await third.ended()
            third = await head.register(3)
            assert (await third.receive(wire.NodesDied)).nodes[0][0] == 3
            await third.ended()
            await first.close()
            await second.close()

    run(scenario())


@pytest.mark.expect_log("node 2 may not register: it is part of cluster another")
def test_a_node_of_another_cluster_does_not_take_a_nodes_place(folder: Path) -> None:
    async def scenario() -> None:
        async with Head(folder, MemoryServer()) as head:
            good = await head.register(2, head.cluster)
            await good.receive(wire.ClusterView)
            stranger = await head.register(2, "another")
            assert (await stranger.receive(wire.NodesDied)).nodes[0][0] == 2
            await stranger.ended()
            good.send(wire.FindActor(4, "counter", "space"))
            assert (await good.receive(wire.ActorFound)).number == 4
            await good.close()

    run(scenario())


# --- the way to Redis ---------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Stands for a shard's server: it sends back what it gets, after its name."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._name)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"QUIT"):
            self._transport.close()
        else:
            self._transport.write(data)


class Shards:
    """Servers at unix sockets."""

    def __init__(self, folder: Path, count: int) -> None:
        self._paths = [str(folder / f"{number}.sock") for number in range(count)]
        self.urls = [f"unix://{path}" for path in self._paths]

    async def __aenter__(self) -> Shards:
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_unix_server(lambda number=number: Echo(b"shard%d" % number), path)
            for number, path in enumerate(self._paths)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()


@pytest.mark.parametrize("config", [Config(), TLS], ids=["plain", "TLS"])
def test_a_connection_is_joined_to_its_shard_with_all_that_follows(
    folder: Path, config: Config
) -> None:
    async def scenario() -> None:
        shards = Shards(folder, 2)
        async with shards, Head(folder, MemoryServer(), shards.urls, config) as head:
            assert (await head.ask_to_join()).shards == 2
            for shard in (1, 0):
                client = await head.connect()
                client.send(wire.Hello("control", 7, process=shard))
                client.send_raw(b"at once")
                assert await client.receive_raw(6 + 7) == b"shard%dat once" % shard
                data = bytes(range(256)) * (LARGE // 256)
                client.send_raw(data)
                assert await client.receive_raw(LARGE) == data
                client.send_raw(b"QUIT")
                await client.ended()

    run(scenario())


def test_joined_connections_end_with_the_server(folder: Path) -> None:
    async def scenario() -> None:
        shards = Shards(folder, 1)
        async with shards:
            async with Head(folder, MemoryServer(), shards.urls) as head:
                client = await head.connect()
                client.send(wire.Hello("control", 7, process=0))
                assert await client.receive_raw(6) == b"shard0"
            await client.ended()

    run(scenario())


@pytest.mark.expect_log("there is no shard 1")
@pytest.mark.expect_log("Hello is not expected here")
def test_there_is_no_way_to_what_is_not_there_or_around_the_guard(folder: Path) -> None:
    async def scenario() -> None:
        urls = [f"unix://{folder}/nobody.sock"]
        async with Head(folder, MemoryServer(), urls) as head:
            for shard in (0, 1):
                client = await head.connect()
                client.send(wire.Hello("control", 7, process=shard))
                await client.ended()
            local = Node(*await asyncio.open_unix_connection(head.path))
            local.send(wire.Hello("control", 7, process=0))
            await local.ended()

    run(scenario())
