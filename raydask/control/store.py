"""The port through which processes reach the control state, and its errors.

A store maps string keys to byte values, and holds one capped stream of events.  Which
keys there are is the business of ``raydask.control.schema``.

Invariants of every implementation
----------------------------------
- Thread-safe; each method blocks until the store has answered.  A scheduler's loop calls
  none of them: it goes through ``WriteBehind``.
- After a lost connection a method reconnects and resends a bounded number of times.
  Resending changes nothing but this: a counter may skip a number.
- A started store may not be used in a forked child.

``tests/contract/test_control_store.py`` holds implementations to this page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from raydask.control.schema import SCHEMA_KEY, SCHEMA_VERSION
from raydask.errors import RaydaskError


class ControlStoreError(RaydaskError):
    """The control store refused a request, or was used before `start` or after `close`."""


class ControlStoreUnavailableError(ControlStoreError, ConnectionError):
    """The control store could not be reached, after all retries."""


class ControlStore(Protocol):
    """Control state: entries by key, counters, and a capped stream of events.

    Every method raises `ControlStoreUnavailableError` when the store cannot be reached,
    and `ControlStoreError` when it refuses.
    """

    def start(self) -> None:
        """Connect, and claim the store for this schema version or check that it is of it."""

    def close(self) -> None:
        """Let the connections go; the state stays.  Closing twice is allowed."""

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Store `puts` and then delete `deletes`, in one round trip per shard.

        Not atomic: a reader may see some of it, and so may everyone after a crash.
        Keys to delete need not exist.
        """

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of `keys`, in their order; None for a key that is absent."""

    def scan(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in no order.

        A key that was there all the time comes at least once; one that was written or
        deleted meanwhile may or may not.  A key may come twice.
        """

    def increment(self, counter: str) -> int:
        """Return a number that nobody else got from `counter`, larger than all before.

        The first is 1.  After a lost connection a number may be skipped.
        """

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """Store `value` unless `key` has one; return whether it was stored."""

    def append_events(self, events: Sequence[bytes], max_entries: int) -> None:
        """Append to the event stream, then drop its oldest entries beyond `max_entries`.

        The newest `max_entries` are always kept; some hundred more may be.
        """

    def read_events(self, after: str = "0-0", limit: int = 1000) -> list[tuple[str, bytes]]:
        """Return up to `limit` ``(entry id, event)`` that follow entry `after`, oldest first."""

    def clear(self) -> None:
        """Remove all that the store holds, the mark of its schema too, and nothing else.

        For who ends the cluster: nobody may write meanwhile, and the store is to be closed.
        """

    def used_memory(self) -> int:
        """Return how many bytes of memory the state takes, over all shards.

        On servers that others use too: what all of them take.
        """


def claim_schema(store: ControlStore) -> None:
    """Mark the store as holding this version of the schema.

    Raises
    ------
    ControlStoreError
        When it holds control state of another version.
    """
    version = str(SCHEMA_VERSION).encode()
    if store.put_if_absent(SCHEMA_KEY, version):
        return
    (found,) = store.read([SCHEMA_KEY])
    if found != version:
        raise ControlStoreError(
            f"the control store holds schema version {(found or b'none').decode()!r}, and this "
            f"raydask writes version {SCHEMA_VERSION}: use an empty Redis, or empty this one "
            "with FLUSHDB when no cluster uses it"
        )
