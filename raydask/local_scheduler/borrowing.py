"""Objects of other nodes that this one holds: how their homes learn of it. Pure.

A home counts a node that holds an object of its, as it counts processes of its own.  Nobody lets
go before the receiver has registered: whatever keeps an object alive for this node in the
meantime (the task that it was lent with, the object that its ref came in, the promise of a
result) is given up only when the homes have answered.  So each thing that could let go waits for
all that was borrowed before it; mostly nothing is, and it goes at once.

An object that is let go of and borrowed again, before the first has been said, is simply kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from raydask.ids import ObjectID, home_of
from raydask.local_scheduler.records import ObjectRecord
from raydask.wire.messages import Borrow, Release

Tell = Callable[[int, object], None]
_HERE = 0


class Borrowing:
    """What one node has borrowed, and what waits until homes know.

    Parameters
    ----------
    tell : callable
        Sends a node a message.
    act : callable
        Has something done on this node.
    """

    def __init__(self, tell: Tell, act: Callable[[Any], None]) -> None:
        self._tell = tell
        self._act = act
        self._numbers = 0
        self._new: dict[int, list[ObjectID]] = {}
        self._unanswered: dict[int, int] = {}
        """The home that each number was sent to, oldest first."""
        self._new_releases: dict[ObjectID, None] = {}
        self._new_words: list[tuple[int, object]] = []
        """What nodes, or this one, are to be told, since the last event."""
        # Both oldest first, with the last number that each has to wait for.
        self._releases: dict[ObjectID, int] = {}
        self._words: deque[tuple[int, int, object]] = deque()
        self._looked_for = 0
        """The oldest number that was unanswered when these were looked at last."""

    def borrow(self, record: ObjectRecord) -> None:
        """Have the object's home count this node as a holder."""
        remote = record.remote
        assert remote is not None
        remote.borrowed = True
        object_id = record.object_id
        if object_id in self._new_releases:
            del self._new_releases[object_id]
        elif self._releases.pop(object_id, None) is None:
            self._new.setdefault(home_of(object_id), []).append(object_id)

    def release(self, record: ObjectRecord) -> None:
        """Let go of an object that was borrowed."""
        remote = record.remote
        assert remote is not None
        remote.borrowed = False
        self._new_releases[record.object_id] = None

    def say(self, node: int, message: object) -> None:
        """Tell a node something that may let it let go, once all that is borrowed is known."""
        self._new_words.append((node, message))

    def then(self, action: object) -> None:
        """Have something done here, once all that is borrowed is known."""
        self._new_words.append((_HERE, action))

    def answered(self, number: int) -> None:
        """Note that a home knows what was borrowed under this number."""
        self._unanswered.pop(number, None)

    def node_lost(self, node: int) -> None:
        """Wait for nothing of a node that is dead, and tell it nothing."""
        self._new.pop(node, None)
        for number in [each for each, home in self._unanswered.items() if home == node]:
            del self._unanswered[number]
        for releases in (self._releases, self._new_releases):
            for object_id in [each for each in releases if home_of(each) == node]:
                del releases[object_id]
        self._words = deque(each for each in self._words if each[1] != node)
        self._new_words = [each for each in self._new_words if each[0] != node]

    def flush(self) -> None:
        """Say what can be said now; called after each event."""
        if self._new:
            for home, object_ids in self._new.items():
                self._numbers += 1
                self._unanswered[self._numbers] = home
                self._tell(home, Borrow(self._numbers, object_ids))
            self._new = {}
        if self._new_words:
            self._words.extend((self._numbers, *each) for each in self._new_words)
            self._new_words = []
        if self._new_releases:
            self._releases.update(dict.fromkeys(self._new_releases, self._numbers))
            self._new_releases = {}
        if self._words or self._releases:
            self._say_what_can_be_said()

    @property
    def has_to_tell(self) -> bool:
        """Whether others have to be told something that waits for an answer."""
        return bool(self._words or self._new_words)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for an answer."""
        releases = self._releases or self._new_releases
        return not (self._unanswered or self._new or releases or self.has_to_tell)

    def _oldest(self) -> int:
        """Return the first number that has not been answered, or one that is larger than all."""
        return next(iter(self._unanswered), self._numbers + 1)

    def _say_what_can_be_said(self) -> None:
        # What is new waits for all that is unanswered: only when the oldest of that has been
        # answered is there anything that can go.
        oldest = self._oldest()
        if oldest == self._looked_for:
            return
        self._looked_for = oldest if self._unanswered else 0
        words = self._words
        while words and words[0][0] < oldest:
            _, node, message = words.popleft()
            if node == _HERE:
                self._act(message)
            else:
                self._tell(node, message)
        self._release_what_can_be(oldest)

    def _release_what_can_be(self, oldest: int) -> None:
        batches: dict[int, list[ObjectID]] = {}
        for object_id, after in self._releases.items():
            if after >= oldest:
                break
            batches.setdefault(home_of(object_id), []).append(object_id)
        for home, object_ids in batches.items():
            for object_id in object_ids:
                del self._releases[object_id]
            self._tell(home, Release(object_ids))
