"""A global scheduler in a thread, through which stores reach their servers."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence

import uvloop

from raydask.config import Config
from raydask.control.control_place import ControlPlace
from raydask.control.memory_store import MemoryStore
from raydask.control.redis_connection import RedisAddress
from raydask.control.through_head import ThroughHead
from raydask.control.write_behind import WriteBehind
from raydask.global_scheduler.server import GlobalSchedulerServer, journals_of
from raydask.global_scheduler.state import GlobalScheduler
from raydask.wire.authentication import GREETING, NONCE_SIZE, PROOF_SIZE, ClientProver
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at

DEADLINE = 20.0


class Head:
    """The network side of a global scheduler with these Redis servers."""

    def __init__(self, servers: Sequence[RedisAddress], secret: str) -> None:
        self._servers = list(servers)
        self._secret = secret
        self._listener = listen_at(Endpoint("127.0.0.1", 0))
        self._endpoint = endpoint_of(self._listener)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="head")
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    def addresses(self) -> list[ThroughHead]:
        return [
            ThroughHead(self._endpoint, self._secret, shard, dial=dial)
            for shard in range(len(self._servers))
        ]

    def close(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        store = MemoryStore()
        store.start()
        writer = WriteBehind(store, 0.1)
        writer.start()
        core = GlobalScheduler(journals_of(writer), "cluster")
        place = ControlPlace(self._servers)
        server = GlobalSchedulerServer(core, writer, store, "cluster", place)
        with tempfile.TemporaryDirectory(prefix="hd") as folder:
            await server.start(os.path.join(folder, "global.sock"))
            await server.listen(self._listener, self._secret, Config())
            self._ready.set()
            await self._told.wait()
            server.close()
        writer.close(time.monotonic() + DEADLINE)
        store.close()


def dial(
    endpoint: Endpoint, secret: str, tls: ssl.SSLContext | None, timeout: float
) -> socket.socket:
    """Connect and prove."""
    sock = socket.create_connection(endpoint, timeout)
    try:
        prover = ClientProver(secret, os.urandom(NONCE_SIZE))
        sock.sendall(prover.feed(_receive(sock, len(GREETING) + NONCE_SIZE)))
        prover.feed(_receive(sock, PROOF_SIZE))
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("closed")
        data += piece
    return data
