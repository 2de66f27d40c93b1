"""Placement groups: bundles of resources that are reserved together, or not at all. Pure.

A group's life here::

    PENDING --all nodes have said yes--> CREATED --a node with a bundle dies--> RESCHEDULING
       |                                 |    ^                                  |   |
       |                                 |    +------all nodes have said yes-----+   |
       +---------------------------------+--------removed, its job has ended---------+--> gone

Places for the bundles that have none are chosen from what is known to be free (``bundles``), and
each node is asked to reserve its own.  Nodes make the group's resources at once, but nobody is told
of them before all have said yes, so that is the moment at which the group is committed.  When one
refuses, or is lost, the others are told to give back what they were asked for: a node reads that
after the question, so their answers need not be awaited.

Invariants
----------
- Of a group's missing bundles all are placed by one attempt, or none.
- A node that has refused knows better than this one: it is asked for nothing more until it has
  reported its load.
- A group that has been answered for, a restarted global scheduler knows.  Nodes say when they
  register what they have reserved: of what is not committed here they are relieved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from raydask.control.tables import PlacementGroupEntry, encode
from raydask.global_scheduler import events
from raydask.global_scheduler.bundles import effort, kind_of, place_bundles
from raydask.global_scheduler.departures import Departures
from raydask.global_scheduler.policy import describe_infeasible, is_feasible
from raydask.global_scheduler.records import NodeRecord, RereadJournal
from raydask.global_scheduler.rounds import Rounds
from raydask.ids import NodeNumber, PlacementGroupID, home_of_job
from raydask.placement import GroupStrategy, supplied, ungrouped
from raydask.task import RESOURCE_UNIT, in_units
from raydask.wire.messages import (
    CreateGroup,
    GroupJudged,
    GroupsAnswered,
    PlacementGroupInfo,
    ReserveBundles,
    ReturnBundles,
)

ENDED_JOBS_KEPT = 1000


class GroupRecord:
    """A placement group.

    Attributes
    ----------
    group_id : PlacementGroupID
    entry : PlacementGroupEntry
        Its document in the control state.
    bundles : list of dict of str to int
        In steps of 1 / ``RESOURCE_UNIT``.
    nodes : list of NodeNumber
        Of each bundle where it is reserved; 0 while it is not.
    attempt : int
        Counts the attempts to place what is missing.
    asked : dict of NodeNumber to list of int
        The bundles that the attempt under way has asked each node for; empty if there is none.
    agreed : set of NodeNumber
        Those of them that have said yes.
    infeasible : str
        Why the cluster could not hold it; empty if it could.
    told : bool or None
        Whether the node of its job was told that; None if that is not known.
    judged : int
        Which state of the nodes that has been found for; 0 if what is missing has changed since.
    """

    __slots__ = (
        "agreed",
        "asked",
        "attempt",
        "bundles",
        "entry",
        "group_id",
        "infeasible",
        "judged",
        "nodes",
        "told",
    )

    def __init__(self, entry: PlacementGroupEntry) -> None:
        self.group_id = PlacementGroupID(bytes.fromhex(entry.id))
        self.entry = entry
        self.bundles = [
            {name: round(amount * RESOURCE_UNIT) for name, amount in bundle.items()}
            for bundle in entry.bundles
        ]
        self.nodes = [NodeNumber(number) for number in entry.nodes]
        self.attempt = 0
        self.asked: dict[NodeNumber, list[int]] = {}
        self.agreed: set[NodeNumber] = set()
        self.infeasible = ""
        self.told: bool | None = False
        self.judged = 0

    @property
    def missing(self) -> list[int]:
        """The bundles that have no place."""
        return [index for index, number in enumerate(self.nodes) if not number]

    @property
    def strictly_taken(self) -> set[NodeNumber]:
        """The nodes with bundles of it that may have no others of it."""
        strictly = self.entry.strategy == "STRICT_SPREAD"
        return {number for number in self.nodes if number} if strictly else set()

    def at(self, node: NodeNumber) -> list[int]:
        """Return the bundles that a node has."""
        return [index for index, number in enumerate(self.nodes) if number == node]

    def document(self) -> bytes:
        """Return the entry's JSON."""
        self.entry.nodes = [int(number) for number in self.nodes]
        return encode(self.entry)

    def info(self) -> PlacementGroupInfo:
        """Return what is told of it to those who ask."""
        entry = self.entry
        return PlacementGroupInfo(
            self.group_id,
            entry.state,
            entry.strategy,
            entry.job,
            self.bundles,
            [int(number) for number in self.nodes],
            entry.name,
            entry.namespace,
            entry.detached,
            self.infeasible,
        )


class GroupTable:
    """All placement groups.

    Parameters
    ----------
    nodes : mapping of NodeNumber to NodeRecord
        All that live or whose return is awaited.
    journal : RereadJournal
    send : callable
        Sends a node a message.
    persist : callable
        Has what is journaled in the control state before what is sent next.
    departures : Departures
        Which nodes leave.
    noted : callable
        Takes a node of which more or less is free now.

    Attributes
    ----------
    now : float
        Seconds since 1970; set by the core before each event.
    """

    def __init__(
        self,
        nodes: Mapping[NodeNumber, NodeRecord],
        journal: RereadJournal,
        send: Callable[[NodeNumber, object], None],
        persist: Callable[[], None],
        departures: Departures,
        noted: Callable[[NodeRecord], None],
    ) -> None:
        self._nodes = nodes
        self._journal = journal
        self._send = send
        self._persist = persist
        self._departures = departures
        self._noted = noted
        self._groups: dict[PlacementGroupID, GroupRecord] = {}
        self._refused: set[NodeNumber] = set()
        self._rounds = Rounds()
        self._epoch = 1
        """Counts the states of the nodes: which there are, which stay, what each has in all."""
        self._changed: set[PlacementGroupID] = set()
        self._ended: dict[int, None] = {}
        """The jobs that ended last."""
        self.now = 0.0

    def find(self, group_id: PlacementGroupID) -> GroupRecord | None:
        """Return a group; None if there is none of this identifier."""
        return self._groups.get(group_id)

    def take_changed(self) -> set[PlacementGroupID]:
        """Return the groups whose tasks may have, or have lost, a place since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def infeasible_of(self, node: NodeNumber) -> int:
        """Return how many groups of a node's jobs the cluster could not hold."""
        return sum(
            bool(group.infeasible) and home_of_job(group.entry.job) == node
            for group in self._groups.values()
        )

    # --- what processes ask for -------------------------------------------------------------

    def create(self, event: events.GroupRequested) -> None:
        """Take in a new group; answered when it is safe, not when it is reserved."""
        message = event.message
        refusal = ""
        if message.group_id in self._groups:
            pass  # it was asked for again after the global scheduler had gone
        elif refusal := self._refusal(message):
            pass
        else:
            entry = PlacementGroupEntry(
                id=message.group_id.hex(),
                state="PENDING",
                strategy=message.strategy,
                job=message.job,
                bundles=[in_units(bundle) for bundle in message.bundles],
                nodes=[0] * len(message.bundles),
                name=message.name,
                namespace=message.namespace,
                detached=message.detached,
                created=self.now,
            )
            group = self._groups[message.group_id] = GroupRecord(entry)
            self._journal.put(message.group_id, group)
            self._persist()
            self._try(group)
        self._send(event.node, GroupsAnswered(message.number, [], refusal))

    def _refusal(self, message: CreateGroup) -> str:
        """Return why a group may not be made; empty if it may."""
        name = (message.namespace, message.name)
        if message.name and any(
            (group.entry.namespace, group.entry.name) == name for group in self._groups.values()
        ):
            return f"a placement group named {message.name!r} exists already"
        if not message.detached:
            if message.job in self._ended:
                return "the job that it would end with has ended"
            if home_of_job(message.job) not in self._nodes:
                return "the node of the job that it would end with is dead"
        return ""

    def remove(self, event: events.GroupRemovalRequested) -> None:
        """End a group; answered also if there is none."""
        group = self._groups.get(event.group_id)
        if group is not None:
            self._end(group, "its placement group was removed")
            self._persist()
        self._send(event.node, GroupsAnswered(event.number, []))

    def describe(self, event: events.GroupsAsked) -> None:
        """Tell a node of all groups."""
        groups = [group.info() for group in self._groups.values()]
        self._send(event.node, GroupsAnswered(event.number, groups))

    def job_ended(self, event: events.JobEnded) -> None:
        """End a job's groups, but not its detached ones; none that are asked for late are made."""
        self._ended[event.job] = None
        if len(self._ended) > ENDED_JOBS_KEPT:
            del self._ended[next(iter(self._ended))]
        for group in list(self._groups.values()):
            if group.entry.job == event.job and not group.entry.detached:
                self._end(group, "its placement group has ended with its job")

    def _end(self, group: GroupRecord, cause: str) -> None:
        self._abandon(group, cause)
        for number in sorted(set(group.nodes) - {0}):
            node = self._nodes.get(number)
            if node is not None:
                indexes = group.at(number)
                self._send(number, ReturnBundles(group.group_id, indexes, cause))
                self._revoke(node, group, indexes)
        self._judge(group, "")
        del self._groups[group.group_id]
        self._journal.forget(group.group_id)
        self._changed.add(group.group_id)
        self._rounds.note_news()

    # --- nodes ------------------------------------------------------------------------------

    def reread(self, entries: Iterable[PlacementGroupEntry]) -> None:
        """Take over what an earlier global scheduler has left; its nodes are known already."""
        for entry in entries:
            group = GroupRecord(entry)
            self._groups[group.group_id] = group
            self._journal.adopt(group.group_id)
            for number in set(group.nodes) - {0}:
                node = self._nodes.get(number)
                if node is None:
                    self._miss(group, group.at(number))
                else:
                    self._keep(node, group, group.at(number))
        self._end_jobs_without_node()
        self._rounds.note_news()

    def _end_jobs_without_node(self) -> None:
        for group in list(self._groups.values()):
            if not group.entry.detached and home_of_job(group.entry.job) not in self._nodes:
                self._end(group, "the node of its job is dead")

    def registered(
        self,
        node: NodeRecord,
        bundles: Iterable[tuple[PlacementGroupID, int]],
        jobs: Iterable[int],
    ) -> None:
        """Compare what is known with the bundles that a node has, and with its jobs."""
        self._refused.discard(node.number)
        held: dict[PlacementGroupID, list[int]] = {}
        for group_id, index in bundles:
            held.setdefault(group_id, []).append(index)
        alive = set(jobs)
        for group in list(self._groups.values()):
            if group.asked.pop(node.number, None) is not None:
                self._abandon(group, "another node was out of touch")
            kept = held.get(group.group_id, [])
            here = group.at(node.number)
            if here:
                self._changed.add(group.group_id)
            self._keep(node, group, [index for index in here if index in kept])
            lost = [index for index in here if index not in kept]
            if lost:
                self._miss(group, lost)
            job = group.entry.job
            if home_of_job(job) == node.number:
                group.told = None
                if job not in alive and not group.entry.detached:
                    self._end(group, "its placement group has ended with its job")
        for group_id, indexes in held.items():
            known = self._groups.get(group_id)
            committed = known.at(node.number) if known is not None else []
            unknown = [index for index in indexes if index not in committed]
            if unknown:
                cause = "its placement group was removed"
                self._send(node.number, ReturnBundles(group_id, unknown, cause))
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Note that there are other nodes, or other ones that stay."""
        self._epoch += 1
        self._rounds.note_news()

    def reported(self, node: NodeRecord, before: Mapping[str, int]) -> None:
        """Note that a node has said what is free there; `before` is what that was thought to be."""
        if node.number in self._refused or self._rounds.could_help(before, node.available):
            self._refused.discard(node.number)
            self._rounds.note_news()

    def lost(self, number: NodeNumber) -> None:
        """Do not wait for the answers of a node that is out of touch."""
        for group in self._groups.values():
            if number in group.asked:
                self._abandon(group, "its node is out of touch")

    def buried(self, number: NodeNumber) -> None:
        """Place anew what a dead node had, and end the groups of its jobs."""
        self._refused.discard(number)
        for group in self._groups.values():
            if number in group.asked:
                self._abandon(group, "its node is dead")
            if number in group.nodes:
                self._miss(group, group.at(number))
        self.nodes_changed()
        self._end_jobs_without_node()

    def _miss(self, group: GroupRecord, indexes: list[int]) -> None:
        """Note that bundles have been lost."""
        for index in indexes:
            group.nodes[index] = NodeNumber(0)
        group.judged = 0
        if group.entry.state == "CREATED":
            group.entry.state = "RESCHEDULING"
        self._journal.put(group.group_id, group)
        self._changed.add(group.group_id)
        self._rounds.note_news()

    # --- attempts ---------------------------------------------------------------------------

    def advance(self) -> None:
        """Try to place what has no place, if there is news; called after each event."""
        rounds = self._rounds
        if not rounds.due(self.now):
            return
        rounds.begin(self.now, self._groups)
        while (group_id := rounds.take()) is not None:
            group = self._groups.get(group_id)
            if group is not None and not group.asked and group.missing:
                self._try(group)

    def _try(self, group: GroupRecord) -> None:
        """Ask for what is missing where there may be room, or say that there can be none."""
        is_judged = group.judged == self._epoch
        if is_judged and group.infeasible:
            return
        missing = group.missing
        bundles = [group.bundles[index] for index in missing]
        strategy = group.entry.strategy
        taken = group.strictly_taken
        like = (strategy, tuple(map(kind_of, bundles)))
        if is_judged and not taken and self._rounds.is_hopeless(like):
            return
        staying = self._departures.staying(self._nodes.values())
        nodes = {node.number: node for node in staying if node.number not in taken}
        places = self._find_room(nodes.values(), bundles, strategy)
        if places is not None:
            group.judged = self._epoch
            self._judge(group, "")
            self._ask(group, dict(zip(missing, places, strict=True)))
            return
        self._rounds.found_no_room(None if taken else like, bundles)
        if not is_judged:
            group.judged = self._epoch
            self._rounds.spend(effort(len(nodes), bundles))
            totals = {number: ungrouped(node.total) for number, node in nodes.items()}
            is_feasible = place_bundles(totals, bundles, strategy) is not None
            self._judge(group, "" if is_feasible else self._reason(group, nodes.values()))

    def _find_room(
        self,
        nodes: Iterable[NodeRecord],
        bundles: Sequence[Mapping[str, int]],
        strategy: GroupStrategy,
    ) -> list[NodeNumber] | None:
        able = [node for node in nodes if node.lost_at is None and node.number not in self._refused]
        self._rounds.spend(effort(len(able), bundles))
        free = {node.number: ungrouped(node.available) for node in able}
        places = place_bundles(free, bundles, strategy)
        if places is None:
            # What is known is up to a heartbeat old; the nodes know better, and are asked once.
            self._rounds.spend(effort(len(able), bundles))
            rest = {node.number: _less(node.total, node.reserved) for node in able}
            places = place_bundles(rest, bundles, strategy)
        return places

    def _ask(self, group: GroupRecord, places: dict[int, NodeNumber]) -> None:
        group.attempt += 1
        group.agreed = set()
        for index, number in places.items():
            group.asked.setdefault(number, []).append(index)
        for number, indexes in group.asked.items():
            node = self._nodes[number]
            for index in indexes:
                _add(node.available, group.bundles[index], -1)
                _add(node.reserved, group.bundles[index], 1)
            self._noted(node)
            wanted = [(index, group.bundles[index]) for index in indexes]
            self._send(number, ReserveBundles(group.group_id, group.attempt, wanted))

    def answered(self, event: events.ReservationAnswered) -> None:
        """Take in whether a node has reserved what it was asked to."""
        number = event.node
        group = self._groups.get(event.group_id)
        if group is None or group.attempt != event.attempt or number not in group.asked:
            return
        if not event.accepted:
            self._refused.add(number)
            self._rounds.note_news()
            self._abandon(group, "another node has refused")
            return
        group.agreed.add(number)
        if len(group.agreed) == len(group.asked):
            self._commit(group)

    def _commit(self, group: GroupRecord) -> None:
        for number, indexes in group.asked.items():
            for index in indexes:
                group.nodes[index] = number
            self._grant(self._nodes[number], group, indexes)
        group.asked = {}
        group.entry.state = "CREATED"
        self._journal.put(group.group_id, group)
        self._persist()
        self._changed.add(group.group_id)

    def _abandon(self, group: GroupRecord, cause: str) -> None:
        """End the attempt under way, if there is one."""
        asked, group.asked = group.asked, {}
        for number, indexes in asked.items():
            node = self._nodes.get(number)
            if node is None:
                continue
            self._send(number, ReturnBundles(group.group_id, indexes, cause))
            for index in indexes:
                _add(node.available, group.bundles[index], 1)
                _add(node.reserved, group.bundles[index], -1)
            self._noted(node)
        if asked:
            self._rounds.note_news()

    # --- what nodes have --------------------------------------------------------------------

    def _grant(self, node: NodeRecord, group: GroupRecord, indexes: list[int]) -> None:
        """Count the group's own resources among what a node has."""
        for index in indexes:
            made = supplied(group.bundles[index], group.group_id, index)
            _add(node.total, made, 1)
            _add(node.available, made, 1)

    def _keep(self, node: NodeRecord, group: GroupRecord, indexes: list[int]) -> None:
        """Count the same for a node that has the bundles from before it came to this record."""
        self._grant(node, group, indexes)
        for index in indexes:
            _add(node.reserved, group.bundles[index], 1)

    def _revoke(self, node: NodeRecord, group: GroupRecord, indexes: list[int]) -> None:
        for index in indexes:
            made = supplied(group.bundles[index], group.group_id, index)
            for amounts in (node.total, node.available):
                _add(amounts, made, -1)
                for name in made:
                    if amounts[name] <= 0:
                        del amounts[name]
            _add(node.available, group.bundles[index], 1)
            _add(node.reserved, group.bundles[index], -1)
        self._noted(node)

    # --- whether there can be a place -------------------------------------------------------

    def _judge(self, group: GroupRecord, infeasible: str) -> None:
        """Tell the group's users whether the cluster could hold it, when that has changed."""
        if bool(infeasible) != bool(group.infeasible):
            self._changed.add(group.group_id)
        group.infeasible = infeasible
        if bool(infeasible) != group.told:
            group.told = bool(infeasible)
            job = group.entry.job
            self._send(home_of_job(job), GroupJudged(group.group_id, job, infeasible))

    def _reason(self, group: GroupRecord, nodes: Iterable[NodeRecord]) -> str:
        nodes = list(nodes)
        name = repr(group.entry.name) if group.entry.name else group.group_id.hex()
        heading = f"no nodes can hold placement group {name}"
        for index in group.missing:
            if not any(is_feasible(node, group.bundles[index]) for node in nodes):
                detail = describe_infeasible(nodes, group.bundles[index], group.strictly_taken)
                return f"{heading}: of its bundle {index}, {detail}"
        return (
            f"{heading}: each of its {len(group.bundles)} bundles would fit somewhere, but not all "
            f"of them together, with strategy {group.entry.strategy} on {len(nodes)} nodes"
        )


def _add(amounts: dict[str, int], others: Mapping[str, int], times: int) -> None:
    for name, amount in others.items():
        amounts[name] = amounts.get(name, 0) + amount * times


def _less(amounts: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    return {name: amount - others.get(name, 0) for name, amount in ungrouped(amounts).items()}
