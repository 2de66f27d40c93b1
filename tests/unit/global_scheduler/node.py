"""A node's end of its connection to a global scheduler."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TypeVar

from raydask.ids import ActorID
from raydask.wire import messages as wire
from raydask.wire.authentication import GREETING, NONCE_SIZE, PROOF_SIZE, ClientProver
from raydask.wire.endpoint import Endpoint
from raydask.wire.framing import FrameDecoder, encode
from tests.unit.global_scheduler.cluster import units

Message = TypeVar("Message")

DEADLINE = 20.0


class Node:
    """A node's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder()
        self._came: list[object] = []

    @classmethod
    async def join(cls, path: Path, number: int = 1, actors: list[ActorID] | None = None) -> Node:
        node = cls(*await asyncio.open_unix_connection(path))
        node.send(wire.RegisterNode(number, 7, "here", "host", units(CPU=4), {}, 10, actors or []))
        await node.receive(wire.ClusterView)
        return node

    @classmethod
    async def connect(
        cls, endpoint: Endpoint, secret: str, tls: ssl.SSLContext | None = None
    ) -> Node:
        """A connection over the network that has proved that it knows the secret."""
        reader, writer = await asyncio.open_connection(*endpoint, ssl=tls)
        prover = ClientProver(secret, bytes(NONCE_SIZE))
        greeting = await asyncio.wait_for(reader.readexactly(len(GREETING) + NONCE_SIZE), DEADLINE)
        writer.write(prover.feed(greeting))
        prover.feed(await asyncio.wait_for(reader.readexactly(PROOF_SIZE), DEADLINE))
        assert prover.done
        return cls(reader, writer)

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive_raw(self, size: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(size), DEADLINE)

    def send(self, *messages: object) -> None:
        self._writer.write(b"".join(encode(message) for message in messages))

    async def receive(self, kind: type[Message]) -> Message:
        """The next message of this kind; others are dropped."""
        while True:
            while self._came:
                message = self._came.pop(0)
                if isinstance(message, kind):
                    return message
            data = await asyncio.wait_for(self._reader.read(65536), DEADLINE)
            assert data, "the connection has ended"
            self._came += self._decoder.feed(data)

    async def ended(self) -> None:
        while await asyncio.wait_for(self._reader.read(65536), DEADLINE):
            pass
        await self.close()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def create_actor(actor_id: ActorID) -> wire.CreateActor:
    return wire.CreateActor(1, actor_id, "Counter", units(CPU=1), "counter", "space", 0, False, 1)
