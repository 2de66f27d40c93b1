"""A store on one machine without its processes: real memory, real state, direct calls."""

from __future__ import annotations

import threading

from raydask.errors import ObjectStoreFullError
from raydask.ids import ObjectID
from raydask.object_store.backing import Backing
from raydask.object_store.client import Reservation, StoreClient
from raydask.object_store.state import StoreState


class LocalStore:
    """Clients whose node is a ``StoreState`` called directly, by one thread at a time."""

    def __init__(self, size: int, slab_size: int) -> None:
        self.backing = Backing.create(size)
        self.state = StoreState(self.backing.size, slab_size)
        self.requests: list[int] = []
        self.clients: list[StoreClient] = []
        self._objects = 0
        self._lock = threading.Lock()
        """Held for the state, which a node's one thread has for itself."""

    def client(self) -> StoreClient:
        """Return a started client with a number of its own, counted from 0."""
        number = len(self.clients)

        def request_region(size: int) -> int:
            self.requests.append(size)
            with self._lock:
                offset = self.state.grant(number, size)
            if offset is None:
                raise ObjectStoreFullError("no room")
            return offset

        client = StoreClient(
            self.backing.fd,
            self.backing.size,
            request_region,
            slab_size=self.state.slab_size,
        )
        client.start()
        self.clients.append(client)
        return client

    def seal(self, client: StoreClient, reservation: Reservation) -> ObjectID:
        """Seal as the node does when the client's batch arrives."""
        number = self.clients.index(client)
        with self._lock:
            for offset, size in client.take_retired():
                self.state.abandon(number, offset, size)
            self._objects += 1
            object_id = ObjectID(self._objects.to_bytes(20, "big"))
            self.state.seal(number, object_id, reservation.offset, reservation.size)
            self.state.check()
        return object_id

    def put(self, client: StoreClient, data: bytes) -> ObjectID:
        """Create, write and seal."""
        reservation = client.create(len(data))
        client.copy_into(reservation.buffer, memoryview(data))
        return self.seal(client, reservation)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.backing.close()
