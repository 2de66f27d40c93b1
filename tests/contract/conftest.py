"""The backends that every implementation of a port is tried on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Protocol

import pytest

from raydask.control.memory_store import MemoryServer, MemoryStore
from raydask.control.redis_connection import parse_url
from raydask.control.redis_server import RedisServer
from raydask.control.redis_store import RedisStore
from raydask.control.store import ControlStore
from tests.contract.head import Head

PASSWORD = 'pass "word" \\ #1'


class Backend(Protocol):
    """Where the state of control stores is, apart from the clients that reach it."""

    def open(self) -> ControlStore:
        """Return a new started client."""

    def unplug(self) -> None:
        """Make the state unreachable."""

    def plug(self) -> None:
        """Make the state reachable again."""

    def close(self) -> None:
        """Close all clients and drop the state."""


class MemoryBackend:
    def __init__(self) -> None:
        self._server = MemoryServer()

    def open(self) -> ControlStore:
        store = MemoryStore(self._server)
        store.start()
        return store

    def unplug(self) -> None:
        self._server.reachable = False

    def plug(self) -> None:
        self._server.reachable = True

    def close(self) -> None:
        pass


class RedisBackend:
    """Real servers, one a shard."""

    def __init__(self, shards: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="rd")
        self.servers = [RedisServer(self.folder, shard, PASSWORD) for shard in range(shards)]
        self._stores: list[RedisStore] = []
        self.plug()

    def open(self) -> ControlStore:
        urls = [server.url for server in self.servers]
        store = RedisStore(urls, password=PASSWORD, attempts=2)
        store.start()
        self._stores.append(store)
        return store

    def unplug(self) -> None:
        for server in self.servers:
            server.kill()

    def plug(self) -> None:
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_ready(time.monotonic() + 20)

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.unplug()
        shutil.rmtree(self.folder)


class HeadBackend(RedisBackend):
    """Real servers that stores reach through a global scheduler, as from another machine."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        servers = [parse_url(server.url, PASSWORD) for server in self.servers]
        self._head = Head(servers, "the secret of the cluster")

    def open(self) -> ControlStore:
        store = RedisStore(self._head.addresses(), attempts=2)
        store.start()
        self._stores.append(store)
        return store

    def close(self) -> None:
        super().close()
        self._head.close()


@pytest.fixture(params=["memory", "redis", "redis-3-shards", "through-head-2-shards"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        chosen: Backend = MemoryBackend()
    elif request.param == "through-head-2-shards":
        chosen = HeadBackend(2)
    else:
        chosen = RedisBackend(3 if request.param == "redis-3-shards" else 1)
    yield chosen
    chosen.close()


@pytest.fixture
def store(backend: Backend) -> Iterator[ControlStore]:
    opened = backend.open()
    yield opened
    opened.close()


@pytest.fixture(params=[1, 3], ids=["redis", "redis-3-shards"])
def redis_backend(request: pytest.FixtureRequest) -> Iterator[RedisBackend]:
    backend = RedisBackend(request.param)
    yield backend
    backend.close()
