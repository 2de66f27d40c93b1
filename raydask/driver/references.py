"""How many refs and views of each object this process holds.

The node counts a process once for each object, however many refs to it exist here; this
table knows when the first comes and the last goes.  Three ways to come to hold an object:

* The process makes it, by submitting a task or by ``put``: the node takes that to mean
  that it holds it, and nothing is sent.
* A ref or a view is made of something received, while the sender's copy still holds it: an
  ``Acquire`` goes out before anything that could let go of the sender's.
* A running task was lent it (its dependencies, and refs inside its arguments): the node
  keeps those for the task.  What is still in use when the task ends is acquired then.

A view of the object store counts as a ref, so that no memory is reused under it.  Besides,
the object must stay where it is, and not be moved to disk, as long as it is *in use*: while a
view of it, a `get` that is about to make one, or a call that was sent its place exists.  The
node *pins* an object each time it tells this process its place, and the process gives all
those pins back when the object is in use no more and its place is not in the mailbox.  What
a running task was lent is pinned for the task; what is in use when the task ends is pinned
anew, in the same breath as it is acquired.

``ObjectRef.__del__`` and the end of a view only append to ``dropped`` and ``unused``, because
they run anywhere: inside the garbage collector, in any thread, under any lock.  The queues
are drained when the process next has something to say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from raydask.ids import ObjectID


class Use:
    """Keeps a stored object where it is as long as this exists.

    Parameters
    ----------
    object_id : ObjectID
        Whose place this process was told, in a mailbox entry or a loan that still stands.
    table : ReferenceTable
    """

    __slots__ = ("_object_id", "_table")

    def __init__(self, object_id: ObjectID, table: ReferenceTable) -> None:
        self._object_id = object_id
        self._table = table
        table.use(object_id)

    def __del__(self) -> None:
        self._table.unused.append(self._object_id)


class ReferenceTable:
    """Counts of one process.

    Attributes
    ----------
    counts : dict of ObjectID to int
        Refs and views that exist here.
    dropped : deque of ObjectID
        Refs that have ended and are not yet subtracted.
    unused : deque of ObjectID
        Views and other uses that have ended and are not yet subtracted.
    in_use : dict of ObjectID to int
        Views and other uses of each stored object's place; each counts as a ref too.
    told : dict of ObjectID to int
        How often the node has told an object's place and has not been given the pin back.
    private : set of ObjectID
        Results of direct calls that the node has never heard of.
    abandoned : set of ObjectID
        Results of direct calls that were let go before they came.  Where one comes by way of
        the node after all, the node counts this process as its holder and must be told.
    forget : callable
        Told of each object that this process has let go; says whether its value was here.
    is_kept : callable
        Says whether an object's place is in the mailbox.
    closed : bool
        Whether the session has ended.
    """

    __slots__ = (
        "_acquired",
        "_idle",
        "_lent",
        "_loans",
        "_pinned",
        "_released",
        "abandoned",
        "closed",
        "counts",
        "dropped",
        "forget",
        "in_use",
        "is_kept",
        "lock",
        "on_escape",
        "private",
        "told",
        "unused",
    )

    def __init__(self) -> None:
        self.counts: dict[ObjectID, int] = {}
        self.dropped: deque[ObjectID] = deque()
        self.unused: deque[ObjectID] = deque()
        self.in_use: dict[ObjectID, int] = {}
        self.told: dict[ObjectID, int] = {}
        self.private: set[ObjectID] = set()
        self.abandoned: set[ObjectID] = set()
        self.closed = False
        self.forget: Callable[[ObjectID], bool] = _nothing_here
        self.is_kept: Callable[[ObjectID], bool] = _nothing_here
        self.on_escape: Callable[[ObjectID], None] = _nothing
        # Reentrant: a collection inside these methods may run finalizers that drop refs,
        # or a user's finalizer that makes one.
        self.lock = threading.RLock()
        self._acquired: dict[ObjectID, None] = {}
        self._released: dict[ObjectID, None] = {}
        self._lent: dict[ObjectID, int] = {}
        self._loans: set[ObjectID] = set()
        self._pinned: dict[ObjectID, None] = {}
        self._idle: set[ObjectID] = set()

    def adopt(self, object_id: ObjectID) -> None:
        """Count a ref or view that was made of something received."""
        with self.lock:
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

    def use(self, object_id: ObjectID) -> None:
        """Count a use of a stored object's place; end it by appending to ``unused``."""
        with self.lock:
            self.adopt(object_id)
            self.in_use[object_id] = self.in_use.get(object_id, 0) + 1

    def place_told(self, object_id: ObjectID) -> None:
        """Note that the node has told where an object is, and has pinned it for that."""
        with self.lock:
            self.told[object_id] = self.told.get(object_id, 0) + 1

    def may_be_idle(self, object_id: ObjectID) -> None:
        """Note that a mailbox has dropped an object's place."""
        with self.lock:
            self._idle.add(object_id)

    def lend(self, object_ids: Iterable[ObjectID]) -> None:
        """Note that a task now running holds these objects for the process."""
        with self.lock:
            for object_id in object_ids:
                self._lent[object_id] = self._lent.get(object_id, 0) + 1

    def end_loan(self, object_ids: Iterable[ObjectID]) -> list[ObjectID]:
        """Note that the task has ended; return what this process still uses of it.

        Those are acquired or pinned: see that the node learns of it before it learns of the
        task's end.
        """
        self.settle()
        kept = []
        with self.lock:
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
                if object_id in self.in_use and object_id not in self.told:
                    self.told[object_id] = 1
                    self._pinned[object_id] = None
                    kept.append(object_id)
        return kept

    def settle(self) -> None:
        """Subtract what has been dropped."""
        dropped = self.dropped
        if self.unused:
            self._settle_uses()
        if not dropped:
            return
        counts = self.counts
        private = self.private
        released = self._released
        with self.lock:
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

    def _settle_uses(self) -> None:
        unused = self.unused
        in_use = self.in_use
        with self.lock:
            while unused:
                object_id = unused.popleft()
                left = in_use[object_id] - 1
                if left:
                    in_use[object_id] = left
                else:
                    del in_use[object_id]
                    self._idle.add(object_id)
                self.dropped.append(object_id)

    def came_by_node(self, object_ids: Iterable[ObjectID]) -> None:
        """Note that the node gave these: it counts this process among their holders."""
        with self.lock:
            for object_id in object_ids:
                self.private.discard(object_id)
                if object_id in self.abandoned:
                    self.abandoned.discard(object_id)
                    self._released[object_id] = None

    @property
    def has_news(self) -> bool:
        """Whether there is anything that the node must learn."""
        return bool(self._acquired or self._released or self._idle)

    def take_acquired(self) -> list[ObjectID]:
        """Return what the node must learn that this process holds."""
        if not self._acquired:
            return []
        with self.lock:
            acquired, self._acquired = self._acquired, {}
        return list(acquired)

    def take_pinned(self) -> list[ObjectID]:
        """Return what the node must learn that this process goes on to read."""
        if not self._pinned:
            return []
        with self.lock:
            pinned, self._pinned = self._pinned, {}
        return list(pinned)

    def take_unpinned(self) -> list[ObjectID]:
        """Return the objects whose pins are given back, each as often as it was pinned."""
        if not self._idle:
            return []
        given_back: list[ObjectID] = []
        with self.lock:
            idle, self._idle = self._idle, set()
            for object_id in idle:
                told = self.told.get(object_id)
                if told and object_id not in self.in_use and not self.is_kept(object_id):
                    del self.told[object_id]
                    given_back += [object_id] * told
        return given_back

    def take_released(self) -> list[ObjectID]:
        """Return what the node must learn that this process let go."""
        if not self._released:
            return []
        with self.lock:
            released, self._released = self._released, {}
        return list(released)


def _nothing(object_id: ObjectID) -> None:
    pass


def _nothing_here(object_id: ObjectID) -> bool:
    return False
