"""Where in people's programs objects were made, when processes are told to say so. Pure.

A process says it before or after the node hears of the object; of the result of an actor's
call the node may never hear.  So entries are not bound to the objects' records: from
time to time those that no object has are dropped, all but the latest.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from raydask.ids import ObjectID

KEPT_UNKNOWN = 50_000
"""How many entries are kept of objects that are not known, or not yet."""


class CallSiteTable:
    """The call sites of objects.

    Parameters
    ----------
    known : container of ObjectID
        The objects that exist.

    Attributes
    ----------
    sites : dict of ObjectID to str
    """

    def __init__(self, known: Container[ObjectID]) -> None:
        self._known = known
        self._prune_at = 2 * KEPT_UNKNOWN
        self.sites: dict[ObjectID, str] = {}

    def note(self, site: str, object_ids: Iterable[ObjectID]) -> None:
        """Note where these were made."""
        self.sites.update(dict.fromkeys(object_ids, site))
        if len(self.sites) >= self._prune_at:
            self._prune()

    def _prune(self) -> None:
        known = self._known
        unknown = [object_id for object_id in self.sites if object_id not in known]
        for object_id in unknown[:-KEPT_UNKNOWN]:
            del self.sites[object_id]
        # Twice what is left: so the pruning costs each entry no more than a few looks.
        self._prune_at = 2 * max(KEPT_UNKNOWN, len(self.sites))
