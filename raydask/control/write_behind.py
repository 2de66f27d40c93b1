"""Writing control state behind: a process marks what changed, a thread writes it.

::

    loop thread                              writer thread          Redis
    table.put / forget   (0.1-0.2 µs)
    tick: collect a batch, encode it  ---->  store.write  -------->
    tick: the batch is still in flight       (retries as long
    tick: collect the next one               as it takes)

Invariants
----------
- All methods are called by one thread, the owner; the writer thread sees batches alone.
- One batch is in flight at a time, so batches are written in order, and a store that is
  slow or away holds up nothing but the next batch.  What waits meanwhile is bounded by
  the entries that are alive.
- `flush` is a write barrier that waits: when it returns, the store holds everything marked before.
- Where nobody may wait, single entries are asked for (``DirtyTable.hurry``), which gives them a
  number, and `written` says up to which number all are in the store.  `hand_on` makes a batch of
  what has been asked for since the last one, and what `watch` was given says when that is written.

The store belongs to whoever made it: it is started before, and closed after.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from raydask.control.store import (
    ControlStore,
    ControlStoreError,
    ControlStoreUnavailableError,
)
from raydask.control.write_behind_state import (
    Batch,
    DirtyTable,
    Identifier,
    WriteBehindState,
)
from raydask.errors import InternalError

_logger = logging.getLogger(__name__)

_BACKLOG_PAUSE = 0.02
_RETRY_PAUSE = 0.2


class WriteBehind:
    """Owns what is dirty and the thread that writes it.

    Parameters
    ----------
    store : ControlStore
        Started by the caller; from `start` to `close` used by the writer thread.
    window : float
        Seconds; an entry that lives shorter is never written, and one that lives on is
        in the store at most two windows later, if the store keeps up.
    budget : int
        The most entries that one `tick` encodes.  An entry takes 1 to 4 µs, mostly in its
        source's ``document``, so that 1000 keep the loop's turn under 5 ms.
    max_events : int
        The cap of the event stream.
    clock : callable
        Seconds, monotonic.

    Attributes
    ----------
    record : callable
        ``record(event)`` adds a ``TaskEvent`` (or any source of a document) to the
        stream.
    """

    def __init__(
        self,
        store: ControlStore,
        window: float = 1.0,
        *,
        budget: int = 1000,
        max_events: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._window = window
        self._budget = budget
        self._max_events = max_events
        self._clock = clock
        self._state = WriteBehindState(window, max_events)
        self.record = self._state.record
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._written = 0
        # Guards all that follows.
        self._changed = threading.Condition()
        self._in_flight: Batch | None = None
        self._on_written: Callable[[], None] | None = None
        self._closing = False
        self._failure: ControlStoreError | None = None
        self._crash: BaseException | None = None

    def table(self, key_of: Callable[[Identifier], str]) -> DirtyTable[Identifier]:
        """Return a new table; `key_of` is its key builder in ``raydask.control.schema``."""
        return self._state.table(key_of)

    @property
    def failure(self) -> ControlStoreError | None:
        """Why the batch in flight is being retried; None while all is well."""
        return self._failure

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def tick(self) -> float:
        """Hand the writer thread what is due, if it is free.

        Returns
        -------
        float
            Seconds after which to call again.

        Raises
        ------
        InternalError
            When the writer thread has died of a bug.
        """
        if self._is_idle():
            batch = self._state.collect(self._clock(), self._budget)
            if batch is not None:
                self._hand_over(batch)
        if self._state.due_count:
            return _BACKLOG_PAUSE
        # Not simply the window: a turn may have waited for a batch in flight, or for a timer that
        # fired a moment early, and is not to wait for a whole window more.
        return max(self._state.until_turn(self._clock()), _BACKLOG_PAUSE)

    @property
    def written(self) -> int:
        """The number, as ``DirtyTable.hurry`` gives them, up to which all is in the store.

        Raises
        ------
        InternalError
            When the writer thread has died of a bug.
        """
        self._is_idle()
        return self._written

    @property
    def asked(self) -> int:
        """The last number that was given."""
        return self._state.urgent.asked

    def watch(self, on_written: Callable[[], None]) -> None:
        """Have the writer thread call this whenever it has written a batch."""
        with self._changed:
            self._on_written = on_written

    def hand_on(self) -> None:
        """Hand the writer thread what was asked for, if it is free and there is anything.

        Raises
        ------
        InternalError
            When the writer thread has died of a bug.
        """
        if self._state.urgent and self._is_idle():
            batch = self._state.collect(self._clock(), self._budget)
            if batch is not None:
                self._hand_over(batch)

    def flush(self, deadline: float) -> None:
        """Return when the store holds everything that was marked before the call.

        Parameters
        ----------
        deadline : float
            On the clock.

        Raises
        ------
        ControlStoreUnavailableError
            When that is not so by the deadline; everything stays marked or in flight.
        """
        self._state.expedite()
        while self._wait_until_idle(deadline):
            batch = self._state.collect(self._clock(), self._budget)
            if batch is None:
                return
            self._hand_over(batch)
        raise ControlStoreUnavailableError(
            f"{self._state.dirty_count} entries of control state and a batch in flight could "
            f"not be written in time ({self._failure or 'the store is slow'}): check that "
            "Redis runs and can be reached"
        )

    def close(self, deadline: float) -> None:
        """Flush and end the writer thread; after the deadline, end it with work undone.

        Raises
        ------
        ControlStoreUnavailableError
            As `flush`; the thread is told to end all the same.
        """
        try:
            self.flush(deadline)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join(max(0.0, deadline - self._clock()))

    def _is_idle(self) -> bool:
        with self._changed:
            self._raise_crash()
            if self._in_flight is not None:
                return False
        self._written = self._state.urgent.collected
        return True

    def _wait_until_idle(self, deadline: float) -> bool:
        with self._changed:
            while self._in_flight is not None and self._crash is None:
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return self._is_idle()

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise InternalError(
                "the thread that writes control state died; please report this with its cause"
            ) from self._crash

    def _hand_over(self, batch: Batch) -> None:
        with self._changed:
            self._in_flight = batch
            self._changed.notify_all()

    def _run(self) -> None:
        """The writer thread."""
        try:
            while True:
                with self._changed:
                    while self._in_flight is None and not self._closing:
                        self._changed.wait()
                    batch = self._in_flight
                if batch is None or not self._write(batch):
                    return
                with self._changed:
                    self._in_flight = None
                    self._changed.notify_all()
                    on_written = self._on_written
                if on_written is not None:
                    on_written()
        except BaseException as crash:
            with self._changed:
                self._crash = crash
                self._changed.notify_all()

    def _write(self, batch: Batch) -> bool:
        """Write a batch, however often it fails; return False if told to give up."""
        puts, deletes, events = batch
        if puts or deletes:
            if not self._persist(lambda: self._store.write(puts, deletes)):
                return False
        if events:
            if not self._persist(lambda: self._store.append_events(events, self._max_events)):
                return False
        return True

    def _persist(self, request: Callable[[], None]) -> bool:
        while True:
            try:
                request()
            except ControlStoreError as failure:
                if self._failure is None:
                    _logger.warning("control state is not being written: %s", failure)
                self._failure = failure
            else:
                if self._failure is not None:
                    _logger.warning("control state is being written again")
                    self._failure = None
                return True
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, _RETRY_PAUSE):
                    return False
