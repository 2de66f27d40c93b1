"""The control store in memory: an honest fake for tests and for the simulator.

`MemoryServer` stands for the Redis servers: it holds the state, outlives its clients, and
can be made unreachable.  `MemoryStore` is one client of it, and passes the same contract
suite as ``RedisStore``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from raydask.control.schema import counter_key
from raydask.control.store import ControlStoreError, ControlStoreUnavailableError, claim_schema


class MemoryServer:
    """The state that the clients of one pretended server share.

    Attributes
    ----------
    reachable : bool
        Set to False to make every client's next call fail as if the server were gone.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reachable = True
        self.values: dict[str, bytes] = {}
        self.events: list[tuple[int, bytes]] = []
        self.last_event = 0


class MemoryStore:
    """A ``ControlStore`` whose state is in this process."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self._server = server if server is not None else MemoryServer()
        self._open = False

    def start(self) -> None:
        """See ``ControlStore.start``."""
        self._open = True
        try:
            claim_schema(self)
        except ControlStoreError:
            self._open = False
            raise

    def close(self) -> None:
        """See ``ControlStore.close``."""
        self._open = False

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """See ``ControlStore.write``."""
        server = self._reached()
        with server.lock:
            server.values.update(puts)
            for key in deletes:
                server.values.pop(key, None)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See ``ControlStore.read``."""
        server = self._reached()
        with server.lock:
            return [server.values.get(key) for key in keys]

    def scan(self, prefix: str) -> Iterator[str]:
        """See ``ControlStore.scan``."""
        server = self._reached()
        with server.lock:
            found = [key for key in server.values if key.startswith(prefix)]
        yield from found

    def increment(self, counter: str) -> int:
        """See ``ControlStore.increment``."""
        server = self._reached()
        key = counter_key(counter)
        with server.lock:
            number = int(server.values.get(key, b"0")) + 1
            server.values[key] = str(number).encode()
        return number

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """See ``ControlStore.put_if_absent``."""
        server = self._reached()
        with server.lock:
            if key in server.values:
                return False
            server.values[key] = value
            return True

    def append_events(self, events: Sequence[bytes], max_entries: int) -> None:
        """See ``ControlStore.append_events``."""
        server = self._reached()
        with server.lock:
            for event in events:
                server.last_event += 1
                server.events.append((server.last_event, event))
            del server.events[: max(0, len(server.events) - max_entries)]

    def read_events(self, after: str = "0-0", limit: int = 1000) -> list[tuple[str, bytes]]:
        """See ``ControlStore.read_events``."""
        server = self._reached()
        position = int(after.partition("-")[0])
        with server.lock:
            following = [entry for entry in server.events if entry[0] > position]
        return [(f"{number}-0", event) for number, event in following[:limit]]

    def clear(self) -> None:
        """See ``ControlStore.clear``."""
        server = self._reached()
        with server.lock:
            server.values.clear()
            server.events.clear()

    def used_memory(self) -> int:
        """See ``ControlStore.used_memory``."""
        server = self._reached()
        with server.lock:
            entries = sum(len(key) + len(value) for key, value in server.values.items())
            return entries + sum(len(event) for _, event in server.events)

    def _reached(self) -> MemoryServer:
        if not self._open:
            raise ControlStoreError("the control store is not open: call start() first")
        if not self._server.reachable:
            raise ControlStoreUnavailableError(
                "the control store in memory was made unreachable: set its server's `reachable`"
            )
        return self._server
