"""When placement groups that wait are tried again. Pure.

News begins a *round*, in which each group that waits is tried once: another node, a bundle that was
given back, a report that more is free of something that one of them waits for.  Trying takes time
in proportion to the nodes and bundles that are looked at, and the global scheduler has other things
to do.  So a round is done in parts of no more than about `LARGEST_PART` looks, and after a part
there is a pause, longer where more was looked at: more than ten times as long as it took.

Within a round, a group that is like one for which no room was found is not tried: there is no more
room than then, or news of it, which begins another round.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from raydask.ids import PlacementGroupID

PAUSE_SECONDS = 0.05
"""Between the beginnings of two parts, at least."""
SMALL_PART = 2_000
"""Looks at a node; after more of them the pause is longer in proportion.  They take about 3 ms."""
LARGEST_PART = 20_000
"""Looks after which the rest of a round waits for the next part."""


class Rounds:
    """Which groups are to be tried, and when."""

    def __init__(self) -> None:
        self._has_news = False
        self._left: list[PlacementGroupID] = []
        """Still to be tried in this round, the next one last."""
        self._began_at = float("-inf")
        self._looks = 0
        """Of the last part, and of attempts since."""
        self._awaited: set[str] = set()
        """Resources of which there was too little in this round."""
        self._hopeless: set[Hashable] = set()

    def note_news(self) -> None:
        """Have all groups tried that wait, when it is time to."""
        self._has_news = True

    def could_help(self, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
        """Say whether a node has more than before of something that is waited for."""
        return any(after.get(name, 0) > before.get(name, 0) for name in self._awaited)

    def due(self, now: float) -> bool:
        """Say whether it is time to try groups."""
        if not (self._has_news or self._left):
            return False
        pause = PAUSE_SECONDS * max(1.0, self._looks / SMALL_PART)
        # A clock that was set back must not stop everything.
        return not 0 <= now - self._began_at < pause

    def begin(self, now: float, groups: Iterable[PlacementGroupID]) -> None:
        """Begin another part: of the round under way, or of a new one with all these groups."""
        self._began_at = now
        self._looks = 0
        if not self._left:
            self._has_news = False
            self._left = list(groups)[::-1]
            self._awaited.clear()
            self._hopeless.clear()

    def take(self) -> PlacementGroupID | None:
        """Return the next group; None at the end of the part."""
        if not self._left or self._looks >= LARGEST_PART:
            return None
        return self._left.pop()

    def spend(self, looks: int) -> None:
        """Note that nodes are looked at so many times."""
        self._looks += looks

    def found_no_room(self, like: Hashable | None, bundles: Sequence[Mapping[str, int]]) -> None:
        """Note that there is no room for such bundles, nor for groups that are `like` this one."""
        for bundle in bundles:
            self._awaited.update(bundle)
        if like is not None:
            self._hopeless.add(like)

    def is_hopeless(self, like: Hashable) -> bool:
        """Say whether no room was found in this round for a group like this."""
        return like in self._hopeless
