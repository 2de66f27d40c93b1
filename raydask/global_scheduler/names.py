"""Names of actors: each is claimed by one actor, and free again when that is dead. Pure.

A name is claimed before its actor is created, so that of two processes which want it one
creates the actor and the other learns of it.  A claim is *confirmed* by the first news of
the actor.  One that is not lapses after `CLAIM_SECONDS`, or when the node that claimed
it is dead.
"""

from __future__ import annotations

from collections.abc import Collection

from raydask.control.tables import NamedActorEntry
from raydask.global_scheduler.records import NameRecord, RereadJournal
from raydask.ids import ActorID, NodeNumber, home_of

CLAIM_SECONDS = 30.0


class NameTable:
    """All names that are taken.

    Parameters
    ----------
    journal : RereadJournal
        Of the table of named actors.
    """

    def __init__(self, journal: RereadJournal) -> None:
        self._journal = journal
        self._by_key: dict[tuple[str, str], NameRecord] = {}
        self._by_actor: dict[ActorID, NameRecord] = {}
        self._unconfirmed: dict[ActorID, NameRecord] = {}
        """In the order of their claims."""

    def reread(self, entry: NamedActorEntry, confirmed: bool, now: float) -> None:
        """Take over an entry of the control state; a claim gets its time anew."""
        actor_id = ActorID(bytes.fromhex(entry.actor))
        record = NameRecord(entry, home_of(actor_id), now)
        self._journal.adopt(record.key)
        self._keep(record)
        if not confirmed:
            self._unconfirmed[actor_id] = record

    def claim(
        self, key: tuple[str, str], actor_id: ActorID, handle: bytes, node: NodeNumber, now: float
    ) -> NameRecord | None:
        """Give the actor the name, or return the record of another actor that has it.

        Parameters
        ----------
        key : tuple of str
            Namespace and name.
        actor_id : ActorID
        handle : bytes
            For those who ask for the name.
        node : NodeNumber
            Of the process that claims it.
        now : float
        """
        holder = self._by_key.get(key)
        if holder is not None:
            return holder if holder.actor_id != actor_id else None
        self.release(actor_id)
        entry = NamedActorEntry(key[0], key[1], actor_id.hex(), 0, handle)
        record = NameRecord(entry, node, now)
        self._keep(record)
        self._unconfirmed[actor_id] = record
        self._journal.put(key, record)
        return None

    def find(self, key: tuple[str, str]) -> NameRecord | None:
        """Return who has the name, if anybody has."""
        return self._by_key.get(key)

    def confirm(self, actor_id: ActorID, job: int) -> NameRecord | None:
        """Note that the actor exists, and return its name, if it has one."""
        record = self._by_actor.get(actor_id)
        if record is not None:
            self._unconfirmed.pop(actor_id, None)
            if job and record.entry.job != job:
                record.entry.job = job
                self._journal.put(record.key, record)
        return record

    def give_back(self, record: NameRecord) -> bool:
        """Give an actor the name that it had, unless another has it now; say whether it has."""
        if record.key in self._by_key:
            return False
        self._keep(record)
        self._journal.put(record.key, record)
        return True

    def release(self, actor_id: ActorID) -> NameRecord | None:
        """Free the actor's name, and return what it was, if it had one."""
        record = self._by_actor.pop(actor_id, None)
        if record is not None:
            del self._by_key[record.key]
            self._unconfirmed.pop(actor_id, None)
            self._journal.forget(record.key)
        return record

    def lapse(self, now: float, dead: Collection[NodeNumber] = ()) -> None:
        """Free the names whose actors do not come."""
        for actor_id, record in list(self._unconfirmed.items()):
            if now - record.claimed_at >= CLAIM_SECONDS or record.node in dead:
                self.release(actor_id)

    def _keep(self, record: NameRecord) -> None:
        self._by_key[record.key] = record
        self._by_actor[record.actor_id] = record
