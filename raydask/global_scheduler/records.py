"""What the global scheduler knows of each node, actor and name. Pure.

A record's `entry` is its document in the control state; beside it stands what only the
living need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from raydask.control.tables import ActorEntry, NamedActorEntry, NodeEntry, encode
from raydask.control.tables import ActorState as ActorStateName
from raydask.control.write_behind_state import Journal
from raydask.ids import ActorID, NodeNumber
from raydask.placement import ungrouped
from raydask.task import in_units
from raydask.wire.messages import ClusterView, Heartbeat
from raydask.wire.status import NodeStatus


class RereadJournal(Journal, Protocol):
    """A journal that also takes over what an earlier process has written."""

    def adopt(self, identifier: Any, /) -> None:
        """Note that the control state holds the entry already."""


class NodeRecord:
    """A node that is alive, or whose return is awaited.

    Attributes
    ----------
    number : NodeNumber
    entry : NodeEntry
    total, available : dict of str to int
        In steps of 1 / ``RESOURCE_UNIT``; `available` and the queue are the node's last
        report, corrected by what has been placed there since.
    queued : int
    queue_seconds : float
    reported : Heartbeat
        The last one, as it came.
    link, data : str
        Where other nodes connect to it; empty where they cannot.
    versions : dict of str to str
        What its processes run; empty until it has registered here.
    reserved : dict of str to int
        What placement groups have of its total.
    turn : int
        Counts what was spread: this, when the node had its last of it.
    lost_at : float or None
        When the connection ended, in seconds that count (``silences``); None while there is one.
    """

    __slots__ = (
        "available",
        "data",
        "entry",
        "link",
        "lost_at",
        "number",
        "queue_seconds",
        "queued",
        "reported",
        "reserved",
        "total",
        "turn",
        "versions",
    )

    def __init__(self, entry: NodeEntry, total: dict[str, int]) -> None:
        self.number = NodeNumber(entry.number)
        self.entry = entry
        self.total = total
        self.available = dict(total)
        self.queued = 0
        self.queue_seconds = 0.0
        self.reported = Heartbeat(entry.number, {}, 0, 0.0, 0)
        self.link = ""
        self.data = ""
        self.versions: dict[str, str] = {}
        self.reserved: dict[str, int] = {}
        self.turn = 0
        self.lost_at: float | None = None

    def document(self) -> bytes:
        """Return the entry's JSON."""
        return encode(self.entry)


class NameRecord:
    """A name and the actor that has it.

    Attributes
    ----------
    key : tuple of str
        Namespace and name.
    actor_id : ActorID
    entry : NamedActorEntry
    node : NodeNumber
        The node on which it was claimed.
    claimed_at : float
    """

    __slots__ = ("actor_id", "claimed_at", "entry", "key", "node")

    def __init__(self, entry: NamedActorEntry, node: NodeNumber, claimed_at: float) -> None:
        self.key = (entry.namespace, entry.name)
        self.actor_id = ActorID(bytes.fromhex(entry.actor))
        self.entry = entry
        self.node = node
        self.claimed_at = claimed_at

    def document(self) -> bytes:
        """Return the entry's JSON."""
        return encode(self.entry)


class ActorRecord:
    """An actor.

    Attributes
    ----------
    actor_id : ActorID
    entry : ActorEntry
    presumed_dead : bool
        Whether it counts as dead only because its node did not come back, or came back
        without it; the node's word will correct that.
    state_before : ActorStateName
    former_name : NameRecord or None
        What it was and had before it was presumed dead.
    """

    __slots__ = ("actor_id", "entry", "former_name", "presumed_dead", "state_before")

    def __init__(self, actor_id: ActorID, entry: ActorEntry) -> None:
        self.actor_id = actor_id
        self.entry = entry
        self.presumed_dead = False
        self.former_name: NameRecord | None = None
        self.state_before: ActorStateName = entry.state

    @property
    def is_dead(self) -> bool:
        """Whether it is dead, presumed or known."""
        return self.entry.state == "DEAD"

    def document(self) -> bytes:
        """Return the entry's JSON."""
        return encode(self.entry)


def status_of(node: NodeRecord, infeasible: int) -> NodeStatus:
    """Return what is known of a node for people, with how much of its has no place."""
    return NodeStatus(
        node.number,
        node.lost_at is None,
        in_units(ungrouped(node.total)),
        in_units(ungrouped(node.available)),
        node.entry.object_store_bytes,
        node.reported.store_used,
        node.reported.tasks,
        node.reported.objects,
        node.queued,
        infeasible,
        node.reported.workers,
        node.reported.drivers,
        node.entry.address,
        node.versions,
        node.reported.sent,
        node.entry.labels,
    )


def view_of(nodes: Iterable[NodeRecord]) -> ClusterView:
    """Return what every node is told of these."""
    return ClusterView(
        {
            int(node.number): (
                ungrouped(node.total),
                ungrouped(node.available),
                float(node.queued),
            )
            for node in nodes
        }
    )
