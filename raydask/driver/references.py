"""How many refs and views of each object this process holds.

The node counts a process once for each object, however many refs to it exist here; this
table knows when the first comes and the last goes.  Three ways to come to hold an object:

* The process makes it, by submitting a task or by ``put``: the node takes that to mean
  that it holds it, and nothing is sent.
* A ref or a view is made of something received, while the sender's copy still holds it: an
  ``Acquire`` goes out before anything that could let go of the sender's.
* A running task was lent it (its dependencies, and refs inside its arguments): the node
  keeps those for the task.  What is still in use when the task ends is acquired then.

A view of the object store counts as a ref, so that no memory is reused under it.

``ObjectRef.__del__`` and the end of a view only append to ``dropped``, because they run
anywhere: inside the garbage collector, in any thread, under any lock.  The queue is
drained when the process next has something to say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from raydask.ids import ObjectID


class ReferenceTable:
    """Counts of one process.

    Attributes
    ----------
    counts : dict of ObjectID to int
        Refs and views that exist here.
    dropped : deque of ObjectID
        Refs and views that have ended and are not yet subtracted.
    private : set of ObjectID
        Results of direct calls that the node has never heard of.
    abandoned : set of ObjectID
        Results of direct calls that were let go before they came.  Where one comes by way of
        the node after all, the node counts this process as its holder and must be told.
    forget : callable
        Told of each object that this process has let go; says whether its value was here.
    closed : bool
        Whether the session has ended.
    """

    __slots__ = (
        "_acquired",
        "_lent",
        "_loans",
        "_lock",
        "_released",
        "abandoned",
        "closed",
        "counts",
        "dropped",
        "forget",
        "on_escape",
        "private",
    )

    def __init__(self) -> None:
        self.counts: dict[ObjectID, int] = {}
        self.dropped: deque[ObjectID] = deque()
        self.private: set[ObjectID] = set()
        self.abandoned: set[ObjectID] = set()
        self.closed = False
        self.forget: Callable[[ObjectID], bool] = _nothing_here
        self.on_escape: Callable[[ObjectID], None] = _nothing
        # Reentrant: a collection inside these methods may run finalizers that drop refs,
        # or a user's finalizer that makes one.
        self._lock = threading.RLock()
        self._acquired: dict[ObjectID, None] = {}
        self._released: dict[ObjectID, None] = {}
        self._lent: dict[ObjectID, int] = {}
        self._loans: set[ObjectID] = set()

    def adopt(self, object_id: ObjectID) -> None:
        """Count a ref or view that was made of something received."""
        with self._lock:
            count = self.counts.get(object_id)
            if count is not None:
                self.counts[object_id] = count + 1
                return
            self.counts[object_id] = 1
            if object_id in self._released:
                # The release has not been sent: the node still counts this process.
                del self._released[object_id]
            elif object_id in self._lent:
                self._loans.add(object_id)
            else:
                self._acquired[object_id] = None

    def lend(self, object_ids: Iterable[ObjectID]) -> None:
        """Note that a task now running holds these objects for the process."""
        with self._lock:
            for object_id in object_ids:
                self._lent[object_id] = self._lent.get(object_id, 0) + 1

    def end_loan(self, object_ids: Iterable[ObjectID]) -> list[ObjectID]:
        """Note that the task has ended; return what this process still uses of it.

        Those are acquired: see that the node learns of it before it learns of the task's end.
        """
        self.settle()
        kept = []
        with self._lock:
            for object_id in object_ids:
                left = self._lent[object_id] - 1
                if left:
                    self._lent[object_id] = left
                else:
                    del self._lent[object_id]
                if object_id in self._loans:
                    self._loans.discard(object_id)
                    self._acquired[object_id] = None
                    kept.append(object_id)
        return kept

    def settle(self) -> None:
        """Subtract what has been dropped."""
        dropped = self.dropped
        if not dropped:
            return
        counts = self.counts
        private = self.private
        released = self._released
        with self._lock:
            while dropped:
                object_id = dropped.popleft()
                left = counts[object_id] - 1
                if left:
                    counts[object_id] = left
                    continue
                del counts[object_id]
                was_here = self.forget(object_id)
                if object_id in private:
                    private.discard(object_id)
                    if not was_here:
                        self.abandoned.add(object_id)
                elif object_id in self._loans:
                    self._loans.discard(object_id)
                elif object_id in self._acquired:
                    del self._acquired[object_id]
                else:
                    released[object_id] = None

    def came_by_node(self, object_ids: Iterable[ObjectID]) -> None:
        """Note that the node gave these: it counts this process among their holders."""
        with self._lock:
            for object_id in object_ids:
                self.private.discard(object_id)
                if object_id in self.abandoned:
                    self.abandoned.discard(object_id)
                    self._released[object_id] = None

    @property
    def has_news(self) -> bool:
        """Whether there is anything that the node must learn."""
        return bool(self._acquired or self._released)

    def take_acquired(self) -> list[ObjectID]:
        """Return what the node must learn that this process holds."""
        if not self._acquired:
            return []
        with self._lock:
            acquired, self._acquired = self._acquired, {}
        return list(acquired)

    def take_released(self) -> list[ObjectID]:
        """Return what the node must learn that this process let go."""
        if not self._released:
            return []
        with self._lock:
            released, self._released = self._released, {}
        return list(released)


def _nothing(object_id: ObjectID) -> None:
    pass


def _nothing_here(object_id: ObjectID) -> bool:
    return False
