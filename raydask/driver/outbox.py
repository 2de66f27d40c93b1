"""What this process has to tell its node, in the order in which it came about.

Messages of one kind that follow one another become one message, so a loop that submits
thousands of tasks costs one frame for each batch.  A batch goes when its process blocks,
when it is large, or when it is a millisecond old; the first one after a pause goes at once.

Order is what makes holding safe: a task that depends on an object is told before its ref is
released, and what a process acquires is told before the end of whatever lent it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from raydask.driver.references import ReferenceTable
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire.connection import BlockingConnection, ConnectionLost
from raydask.wire.framing import encode
from raydask.wire.messages import (
    Acquire,
    ObjectValue,
    Pin,
    Put,
    Release,
    Results,
    RetireRegions,
    Submit,
    TaskResult,
    Unpin,
)

BATCH_SECONDS = 0.001
BATCH_SIZE = 64


class Outbox:
    """The outgoing side of a process's connection to its node.

    Parameters
    ----------
    connection : BlockingConnection
    references : ReferenceTable
    take_retired : callable
        Gives the parts of the object store that this process got and will not use.
    arm : callable
        Called when something stays behind that must go within a millisecond.
    clock : callable
        Gives seconds that never go back.
    """

    def __init__(
        self,
        connection: BlockingConnection,
        references: ReferenceTable,
        take_retired: Callable[[], list[tuple[int, int]]],
        arm: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._references = references
        self._take_retired = take_retired
        self._arm = arm
        self._clock = clock
        self._lock = threading.RLock()
        self._entries: list[object] = []
        self._submit: Submit | None = None
        self._put: Put | None = None
        self._results: Results | None = None
        self._count = 0
        self._flushed_at = 0.0
        self.unsent_templates: dict[int, TaskTemplate] = {}

    def add_spec(self, spec: TaskSpec) -> None:
        """Add a task, and the template it names if that is new to the connection."""
        with self._lock:
            submit = self._submit
            if submit is None:
                self._close_batches()
                submit = self._submit = Submit([], [])
                self._entries.append(submit)
            if self.unsent_templates:
                template = self.unsent_templates.pop(spec.template, None)
                if template is not None:
                    submit.templates.append((spec.template, template))
            submit.specs.append(spec)
            self._added()

    def add_put(self, value: ObjectValue) -> None:
        """Add an object that this process made."""
        with self._lock:
            put = self._put
            if put is None:
                self._close_batches()
                put = self._put = Put([])
                self._entries.append(put)
            put.values.append(value)
            self._added()

    def add_result(self, result: TaskResult) -> None:
        """Add a finished task; it is sent by the next `flush`, not by itself."""
        with self._lock:
            results = self._results
            acquired = self._references.take_acquired()
            pinned = self._references.take_pinned()
            if results is None or acquired or pinned:
                self._close_batches()
                if acquired:
                    self._entries.append(Acquire(acquired))
                if pinned:
                    self._entries.append(Pin(pinned))
                results = self._results = Results([])
                self._entries.append(results)
            results.results.append(result)

    def add(self, message: object) -> None:
        """Add any other message."""
        with self._lock:
            self._close_batches()
            self._entries.append(message)
            self._added()

    def flush(self, *messages: object) -> bool:
        """Send everything, and then `messages`; say whether there was anything.

        Raises
        ------
        ConnectionLost
        """
        references = self._references
        with self._lock:
            references.settle()
            entries = self._entries
            acquired = references.take_acquired()
            if acquired:
                entries.append(Acquire(acquired))
            pinned = references.take_pinned()
            if pinned:
                entries.append(Pin(pinned))
            entries.extend(messages)
            unpinned = references.take_unpinned()
            if unpinned:
                entries.append(Unpin(unpinned))
            released = references.take_released()
            if released:
                entries.append(Release(released))
            retired = self._take_retired()
            if retired:
                entries.append(RetireRegions(retired))
            if not entries:
                return False
            self._entries = []
            self._close_batches()
            self._count = 0
            self._flushed_at = self._clock()
            if len(entries) == 1:
                self._connection.send(encode(entries[0]))
            else:
                self._connection.send(b"".join([encode(entry) for entry in entries]))
            return True

    @property
    def is_due(self) -> bool:
        """Whether something waits that nobody has sent for as long as a batch may wait.

        Asked by the background thread a thousand times a second: it takes no lock.
        """
        references = self._references
        waits = self._entries or references.dropped or references.unused or references.has_news
        return bool(waits) and self.age >= BATCH_SECONDS

    @property
    def age(self) -> float:
        """Seconds since the last flush."""
        return self._clock() - self._flushed_at

    def _close_batches(self) -> None:
        self._submit = None
        self._put = None
        self._results = None

    def _added(self) -> None:
        self._count += 1
        if self._count >= BATCH_SIZE or self._clock() - self._flushed_at > BATCH_SECONDS:
            try:
                self.flush()
            except ConnectionLost:
                pass  # whoever reads the connection learns of it too, and says so
        elif self._count == 1:
            self._arm()
