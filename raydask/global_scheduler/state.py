"""The global scheduler's core: nodes, actors, and what has no place yet. Pure.

A node's life here::

    (registers) --> connected --(connection ends)--> awaited --(5 s)--> DEAD
                        ^  |                            |                 ^
                        |  |                            |                 |
                        +--+--------(registers)---------+                 |
                           +--(lost by another node, and has to go)-------+
                           +--(says nothing for too long)-----------------+

After a restart every node that the control state calls ALIVE is awaited, from the first tick on.
An awaited node is given nothing new, but what it alone could run waits for it and is not called
infeasible.

Invariants
----------
- What is dead stays dead: all nodes are told, one that comes back all the same is told so of
  itself (`GlobalScheduler.refusal_of`), and what it still had to say is not taken in.  The head's
  node is awaited for ever: where it ends, the whole session does.
- A node is in the control state before other nodes are told where it is, and its death before
  anybody is told of that.
- The node where an actor was made is the authority on it, wherever the actor lives.  That one is
  dead because that node is, is a guess; a node that comes back with the actor corrects it.
- What could not be placed is tried again when a node registers that could run it.  Requests can
  be repeated: after a restart nodes send again whatever was not answered.
- Of dead actors the latest `DEAD_ACTORS_KEPT` are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raydask.control.tables import ActorEntry, NodeEntry
from raydask.control.tables import ActorState as ActorStateName
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Action, Disconnect, Persist, Send, WakeAfter
from raydask.global_scheduler.departures import Departures
from raydask.global_scheduler.groups import GroupTable
from raydask.global_scheduler.leases import Lessor
from raydask.global_scheduler.names import NameTable
from raydask.global_scheduler.partings import Partings
from raydask.global_scheduler.placing import Chooser, Unplaced
from raydask.global_scheduler.records import (
    ActorRecord,
    NameRecord,
    NodeRecord,
    RereadJournal,
    status_of,
    view_of,
)
from raydask.global_scheduler.silences import Silences
from raydask.global_scheduler.waiting import Waiting
from raydask.ids import ActorID, NodeNumber, TaskID, home_of
from raydask.task import RESOURCE_UNIT, in_units
from raydask.wire.messages import (
    HAS_LEFT,
    ActorFound,
    ActorPlaced,
    ActorState,
    Leases,
    NodesAppeared,
    NodesDied,
    RegisterNode,
)
from raydask.wire.status import NodeStatus

NODE_GRACE_SECONDS = 5.0
"""Of the time in which a node could have come back; see ``silences``."""
VIEW_SECONDS = 0.5
VIEW_NODES = 32
"""With more nodes views are rarer in proportion: each tells everybody about everybody."""
DEAD_ACTORS_KEPT = 1000
_EARLY_SECONDS = 0.002
"""By so much a timer may be early."""

_STATE_NAMES: dict[ActorState, ActorStateName] = {
    ActorState.PENDING: "PENDING",
    ActorState.ALIVE: "ALIVE",
    ActorState.RESTARTING: "RESTARTING",
    ActorState.DEAD: "DEAD",
}


class Journals(NamedTuple):
    """Where the control state's tables learn what has changed."""

    nodes: RereadJournal
    actors: RereadJournal
    names: RereadJournal
    groups: RereadJournal


class GlobalScheduler:
    """The core of one cluster's global scheduler.

    Parameters
    ----------
    journals : Journals
    cluster : str
        The cluster's identity.
    patience : float
        Seconds that a node may say nothing.
    """

    def __init__(
        self, journals: Journals, cluster: str = "", patience: float = float("inf")
    ) -> None:
        self._cluster = cluster
        self._node_journal = journals.nodes
        self._actor_journal = journals.actors
        self._nodes: dict[NodeNumber, NodeRecord] = {}
        self._buried: dict[NodeNumber, str] = {}
        """Nodes that are dead, and why."""
        self._partings = Partings()
        self._departures = Departures()
        self._silences = Silences(patience)
        self._lessor = Lessor()
        self._wakes_at = float("-inf")
        self._actors: dict[ActorID, ActorRecord] = {}
        self._dead: dict[ActorID, ActorRecord] = {}
        self._names = NameTable(journals.names)
        self._actions: list[Action] = []
        self._groups = GroupTable(
            self._nodes,
            journals.groups,
            self._send,
            lambda: self._actions.append(Persist()),
            self._departures,
            self._noted,
        )
        self._waiting = Waiting(
            self._nodes,
            self._departures,
            self._groups,
            Chooser(self._nodes, self._buried, self._groups, self._departures),
            self._send,
            self._place_actor,
            self._noted,
        )
        self._now = 0.0
        self._view_changed = False
        self._viewed_at = float("-inf")
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.EntriesReread: self._on_reread,
            events.NodeRegistered: self._on_registered,
            events.LoadReported: self._on_load,
            events.NodeLost: self._on_lost,
            events.NodeComplained: self._on_complained,
            events.NodeLeaves: self._on_leaves,
            events.DemandsStated: lambda event: self._lessor.demand(event.node, event.demands),
            events.TasksPassedUp: self._on_passed_up,
            events.TasksWithdrawn: self._on_withdrawn,
            events.ActorRequested: self._on_actor_requested,
            events.ActorReported: self._on_actor_reported,
            events.NameClaimed: self._on_name_claimed,
            events.NameAsked: self._on_name_asked,
            events.GroupRequested: self._groups.create,
            events.GroupRemovalRequested: self._groups.remove,
            events.GroupsAsked: self._groups.describe,
            events.ReservationAnswered: self._groups.answered,
            events.JobEnded: self._groups.job_ended,
            events.ClockTicked: self._on_tick,
        }

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take in what happened and return what is to be done, in this order.

        Parameters
        ----------
        event : Event
        now : float
            Seconds since 1970.
        """
        self._now = self._groups.now = now
        if self._is_of_here(event):
            self._handlers[type(event)](event)
        self._serve_groups()
        if self._view_changed:
            self._show_view()
        self._divide()
        actions, self._actions = self._actions, []
        return actions

    def _is_of_here(self, event: events.Event) -> bool:
        """Say whether an event is no late word of a node that is dead."""
        if isinstance(event, events.EntriesReread | events.NodeRegistered | events.ClockTicked):
            return True
        return event.node in self._nodes

    def _send(self, node: NodeNumber, message: object) -> None:
        self._actions.append(Send(node, message))

    # --- a predecessor's state --------------------------------------------------------------

    def _on_reread(self, event: events.EntriesReread) -> None:
        for entry in event.nodes:
            if entry.state == "DEAD":
                self._buried[NodeNumber(entry.number)] = entry.death_cause
            else:
                total = {
                    name: round(amount * RESOURCE_UNIT) for name, amount in entry.resources.items()
                }
                record = NodeRecord(entry, total)
                record.lost_at = self._silences.moment(self._now)
                self._nodes[record.number] = record
        for actor_entry in sorted(event.actors, key=lambda entry: entry.died):
            actor = ActorRecord(ActorID(bytes.fromhex(actor_entry.id)), actor_entry)
            self._actors[actor.actor_id] = actor
            self._actor_journal.adopt(actor.actor_id)
            if actor.is_dead:
                self._keep_dead(actor)
        for name_entry in event.names:
            owner = self._actors.get(ActorID(bytes.fromhex(name_entry.actor)))
            self._names.reread(name_entry, confirmed=owner is not None, now=self._now)
            if owner is not None and owner.is_dead:
                self._names.release(owner.actor_id)
        for actor in list(self._actors.values()):
            if not actor.is_dead and home_of(actor.actor_id) not in self._nodes:
                self._presume_dead(actor, f"its node {home_of(actor.actor_id)} is dead")
        self._groups.reread(event.groups)

    # --- nodes ------------------------------------------------------------------------------

    def refusal_of(self, message: RegisterNode, head: bool) -> str:
        """Return why a node that wants to register must end instead; empty if it may."""
        if message.cluster and message.cluster != self._cluster:
            return f"it is part of cluster {message.cluster}, and this is {self._cluster}"
        return "" if head else self._buried.get(NodeNumber(message.node), "")

    def _on_registered(self, event: events.NodeRegistered) -> None:
        message = event.message
        known = self._nodes.get(event.node)
        entry = NodeEntry(
            number=event.node,
            state="ALIVE",
            hostname=message.host,
            address=message.address,
            pid=message.pid,
            resources=in_units(message.resources),
            labels=message.labels,
            object_store_bytes=message.object_store_memory,
            started=known.entry.started if known is not None else self._now,
            head=event.head,
        )
        if event.head:
            # One that an earlier session on the same control state had is its head no more.
            for other in self._nodes.values():
                other.entry.head = False
        node = self._nodes[event.node] = NodeRecord(entry, message.resources)
        node.link, node.data = message.link, message.data
        node.versions = message.versions
        self._buried.pop(event.node, None)
        self._silences.heard(event.node)
        self._lessor.add_node(node.number, node.total)
        self._node_journal.put(node.number, node)
        self._reconcile(node.number, set(message.actors))
        self._view_changed = True
        # Before anything is placed there: those who asked must know the node.
        self._introduce(node, known)
        self._groups.registered(node, message.bundles, message.jobs)
        self._waiting.node_came(node, is_new=known is None)
        self._actions.append(Send(node.number, view_of(self._connected())))

    def _introduce(self, node: NodeRecord, known: NodeRecord | None) -> None:
        """Tell a node of all others, and the others of it."""
        others = [other for other in self._nodes.values() if other is not node]
        linked = [(int(other.number), other.link, other.data) for other in others if other.link]
        if linked:
            self._actions.append(Send(node.number, NodesAppeared(linked)))
        self._actions += self._departures.introduce(node.number)
        if self._buried:
            dead = [(int(number), cause) for number, cause in self._buried.items()]
            self._actions.append(Send(node.number, NodesDied(dead)))
        if node.link and (known is None or (known.link, known.data) != (node.link, node.data)):
            self._actions.append(Persist())
            news = NodesAppeared([(int(node.number), node.link, node.data)])
            self._actions += [
                Send(other.number, news) for other in self._connected() if other is not node
            ]

    def _reconcile(self, number: NodeNumber, running: set[ActorID]) -> None:
        """Compare what is known of a node's actors with what the node says."""
        actors = [actor for actor in self._actors.values() if home_of(actor.actor_id) == number]
        for actor in actors:
            if actor.presumed_dead and actor.actor_id in running:
                self._revive(actor)
        for actor in actors:
            if not actor.is_dead and actor.actor_id not in running:
                self._presume_dead(actor, f"node {number} came back without it")

    def _on_load(self, event: events.LoadReported) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        self._silences.heard(event.node)
        before, message = node.reported, event.message
        node.reported = message
        # What has been placed there since may be in a view already, or in none.
        for known in ((node.available, node.queued), (before.available, before.queued)):
            if known != (message.available, message.queued):
                self._view_changed = True
        expected = node.available
        # A copy: placements are subtracted from it.
        node.available = dict(message.available)
        node.queued = message.queued
        node.queue_seconds = message.queue_seconds
        self._lessor.report(node.number, message.available, message.lent)
        self._groups.reported(node, expected)

    def _on_lost(self, event: events.NodeLost) -> None:
        node = self._nodes.get(event.node)
        if node is not None:
            node.lost_at = self._silences.moment(self._now)
            self._view_changed = True
            self._silences.forget(node.number)
            self._lessor.await_node(node.number)
            self._groups.lost(node.number)

    def _on_complained(self, event: events.NodeComplained) -> None:
        cause = self._buried.get(event.about)
        if cause is not None:
            self._actions.append(Send(event.node, NodesDied([(int(event.about), cause)])))
        elif event.node in self._nodes:
            self._partings.complain(event.node, event.about, event.cause, self._now)

    def _on_leaves(self, event: events.NodeLeaves) -> None:
        node = self._nodes.get(event.node)
        if node is None:
            return
        if node.number not in self._departures:
            self._actions += self._departures.begin(node.number, self._connected())
            self._groups.nodes_changed()
        self._lessor.let_leave(node.number)
        if event.done and not node.entry.head:
            self._partings.forget(node.number)
            self._declare_dead(node.number, HAS_LEFT)
            self._waiting.nodes_went()

    def _on_tick(self, event: events.ClockTicked) -> None:
        self._names.lapse(self._now)
        head = next((node.number for node in self._nodes.values() if node.entry.head), None)
        due = self._silent(head) + self._gone()
        for number, _ in due:
            self._partings.forget(number)
        # Of a machine that has lost its network the others may know sooner than the kernel here.
        in_touch = {
            node.number for node in self._connected() if not self._silences.is_quiet(node.number)
        }
        due += self._partings.decide(self._now, head=head, in_touch=in_touch)
        for number, cause in due:
            self._declare_dead(number, cause)
        if due:
            # What waited for a node that is now dead may have become infeasible.
            self._waiting.nodes_went()

    def _gone(self) -> list[tuple[NodeNumber, str]]:
        cause = f"its connection ended and it did not come back within {NODE_GRACE_SECONDS:g} s"
        return [
            (node.number, cause)
            for node in self._nodes.values()
            if node.lost_at is not None
            and not node.entry.head
            and self._silences.listened - node.lost_at >= NODE_GRACE_SECONDS - _EARLY_SECONDS
        ]

    def _silent(self, head: NodeNumber | None) -> list[tuple[NodeNumber, str]]:
        patience = self._silences.patience
        cause = f"it has said nothing for {patience:g} s: its process is stopped or stuck"
        silent = self._silences.look(self._now, () if head is None else (head,))
        return [(number, cause) for number in silent]

    def _declare_dead(self, number: NodeNumber, cause: str) -> None:
        """Tell all nodes, the dead one too, that it is dead."""
        node = self._nodes.get(number)
        if node is not None:
            self._mark_dead(node, cause)
        news = NodesDied([(int(number), cause)])
        self._actions += [Send(other.number, news) for other in self._connected()]
        self._buried[number] = cause
        self._departures.forget(number)
        self._silences.forget(number)
        self._lessor.remove_node(number)
        if node is not None:  # it may never have come to this global scheduler
            self._actions.append(Disconnect(number))
            self._bury(node)

    def _mark_dead(self, node: NodeRecord, cause: str) -> None:
        """Have in the control state that a node is dead, before anybody is told."""
        entry = node.entry
        entry.state = "DEAD"
        entry.died = self._now
        entry.death_cause = cause
        self._node_journal.put(node.number, node)
        self._actions.append(Persist())

    def _bury(self, node: NodeRecord) -> None:
        """Forget a node that is dead, and note that what lived there is too."""
        del self._nodes[node.number]
        self._view_changed = True
        self._waiting.node_died(node.number)
        for actor in list(self._actors.values()):
            if not actor.is_dead and home_of(actor.actor_id) == node.number:
                self._presume_dead(
                    actor, f"its node {node.number} is dead: {node.entry.death_cause}"
                )
        self._names.lapse(self._now, dead=(node.number,))
        self._groups.buried(node.number)

    def _connected(self) -> list[NodeRecord]:
        return [node for node in self._nodes.values() if node.lost_at is None]

    def _show_view(self) -> None:
        """Show everybody all nodes, unless that has been done just now."""
        connected = self._connected()
        pause = VIEW_SECONDS * max(1.0, len(connected) / VIEW_NODES)
        if not 0 <= self._now - self._viewed_at < pause:
            self._view_changed = False
            self._viewed_at = self._now
            view = view_of(self._connected())
            self._actions += [Send(node.number, view) for node in connected]

    def status(self) -> list[NodeStatus]:
        """Return what is known of each node, for whoever watches over the cluster."""
        infeasible = self._waiting.reported()
        return [
            status_of(node, infeasible[number] + self._groups.infeasible_of(number))
            for number, node in sorted(self._nodes.items())
        ]

    # --- leases -----------------------------------------------------------------------------

    def _divide(self) -> None:
        """Divide what nodes can spare, if it is time to; else have this called in time."""
        wait = self._lessor.due_in(self._now)
        if wait is None:
            return
        if self._lessor.due(self._now):
            for home, leases in self._lessor.divide(self._now).items():
                self._actions.append(Send(home, Leases(leases)))
        elif not self._now < self._wakes_at - _EARLY_SECONDS <= self._now + wait:
            self._wakes_at = self._now + wait
            self._actions.append(WakeAfter(wait))

    # --- places -----------------------------------------------------------------------------

    def _on_passed_up(self, event: events.TasksPassedUp) -> None:
        self._waiting.add(
            Unplaced(event.node, task.task_id, task.resources, False, task.strategy)
            for task in event.tasks
        )

    def _on_withdrawn(self, event: events.TasksWithdrawn) -> None:
        for task_id in event.task_ids:
            self._waiting.withdraw(task_id)

    def _noted(self, node: NodeRecord) -> None:
        """Have others know what is free at a node after something was placed there."""
        self._view_changed = True
        self._lessor.report(node.number, node.available, node.reported.lent)

    def _serve_groups(self) -> None:
        """Try to place groups, and what waited for a group that has changed."""
        self._groups.advance()
        changed = self._groups.take_changed()
        if changed:
            self._waiting.groups_changed(changed)

    def _place_actor(self, actor_id: ActorID, asking: NodeNumber, target: NodeNumber) -> None:
        actor = self._actors.get(actor_id)
        if actor is not None:
            actor.entry.node = target
            self._actor_journal.put(actor_id, actor)
        self._actions += [Persist(), Send(asking, ActorPlaced(actor_id, target))]

    # --- actors -----------------------------------------------------------------------------

    def _on_actor_requested(self, event: events.ActorRequested) -> None:
        actor = self._known_or_new(event.actor_id, event.job)
        if actor.presumed_dead:
            self._revive(actor)
        if actor.is_dead:
            return
        if actor.entry.state == "ALIVE":
            place = ActorPlaced(actor.actor_id, actor.entry.node)
            self._actions.append(Send(event.node, place))
            return
        entry = actor.entry
        entry.class_name = event.class_name
        entry.job = event.job
        entry.max_restarts = event.max_restarts
        entry.detached = event.detached
        entry.node = 0
        self._actor_journal.put(actor.actor_id, actor)
        item = Unplaced(event.node, TaskID(event.actor_id), event.resources, True, event.strategy)
        self._waiting.add([item])

    def _on_actor_reported(self, event: events.ActorReported) -> None:
        if event.state == ActorState.DEAD and event.actor_id not in self._actors:
            # It failed before it asked for a place.
            self._names.release(event.actor_id)
            return
        actor = self._known_or_new(event.actor_id, 0)
        state = _STATE_NAMES[event.state]
        if actor.presumed_dead and event.state != ActorState.DEAD:
            self._revive(actor)
        elif actor.is_dead and not actor.presumed_dead:
            return
        entry = actor.entry
        if event.state == ActorState.ALIVE:
            if entry.state != "ALIVE" or entry.restarts != event.restarts:
                entry.started = self._now
            entry.node = event.host
        entry.restarts = event.restarts
        entry.pid = event.pid
        entry.death_cause = event.cause
        if event.state == ActorState.DEAD:
            actor.presumed_dead = False
            actor.former_name = None
            self._bury_actor(actor)
            return
        entry.state = state
        self._actor_journal.put(actor.actor_id, actor)

    def _known_or_new(self, actor_id: ActorID, job: int) -> ActorRecord:
        actor = self._actors.get(actor_id)
        name = self._names.confirm(actor_id, job)
        if actor is None:
            entry = ActorEntry(id=actor_id.hex(), class_name="", state="PENDING", job=job)
            actor = self._actors[actor_id] = ActorRecord(actor_id, entry)
            if name is not None:
                entry.namespace, entry.name = name.key
        return actor

    def _presume_dead(self, actor: ActorRecord, cause: str) -> None:
        actor.presumed_dead = True
        actor.state_before = actor.entry.state
        actor.entry.death_cause = cause
        actor.former_name = self._bury_actor(actor)

    def _bury_actor(self, actor: ActorRecord) -> NameRecord | None:
        """Note that an actor is dead, and return the name it had."""
        actor.entry.state = "DEAD"
        actor.entry.died = self._now
        self._waiting.withdraw(TaskID(actor.actor_id))
        self._actor_journal.put(actor.actor_id, actor)
        self._keep_dead(actor)
        return self._names.release(actor.actor_id)

    def _keep_dead(self, actor: ActorRecord) -> None:
        self._dead[actor.actor_id] = actor
        if len(self._dead) > DEAD_ACTORS_KEPT:
            oldest = next(iter(self._dead))
            del self._dead[oldest]
            del self._actors[oldest]
            self._actor_journal.forget(oldest)

    def _revive(self, actor: ActorRecord) -> None:
        """Take back that an actor is dead."""
        del self._dead[actor.actor_id]
        actor.presumed_dead = False
        actor.entry.state = actor.state_before
        actor.entry.died = 0.0
        actor.entry.death_cause = ""
        name, actor.former_name = actor.former_name, None
        if name is not None and not self._names.give_back(name):
            actor.entry.name = actor.entry.namespace = ""
        self._actor_journal.put(actor.actor_id, actor)

    # --- names ------------------------------------------------------------------------------

    def _on_name_claimed(self, event: events.NameClaimed) -> None:
        self._names.lapse(self._now)
        key = (event.namespace, event.name)
        holder = self._names.claim(key, event.actor_id, event.handle, event.node, self._now)
        if holder is None:
            self._actions.append(Persist())
        self._answer(event.node, event.number, holder)

    def _on_name_asked(self, event: events.NameAsked) -> None:
        self._names.lapse(self._now)
        self._answer(event.node, event.number, self._names.find((event.namespace, event.name)))

    def _answer(self, node: NodeNumber, number: int, found: NameRecord | None) -> None:
        if found is None:
            message = ActorFound(number, ActorID(b""), b"")
        else:
            message = ActorFound(number, found.actor_id, found.entry.handle)
        self._actions.append(Send(node, message))
