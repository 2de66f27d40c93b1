"""This node among others: who says what, and what it means. Pure.

The parts: `Borrowing` (objects of others that are held here), `Fetching` (objects that are brought
here and served from here), `PeerObjects` (what other nodes say of objects), `Lending` (tasks that
others run), `Guests` (tasks of others), `DistantActors` (actors that live elsewhere), `Hosting`
(actors of others that live here).  This module is what they have in common: the messages between
nodes, and the nodes that come and go.  There is one as soon as there is another node, and not
before: a node that is alone has none of it.

Another node is a process, to the tables of objects: it holds objects, is told values, pins what it
reads, and when it dies all of that ends as it does for a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydask.ids import (
    ActorID,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    home_of,
    home_of_job,
    node_of_peer,
    peer_process,
)
from raydask.local_scheduler.actions import EndProcess, Send
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.distant_actors import DistantActors
from raydask.local_scheduler.draining import Draining
from raydask.local_scheduler.evacuation import Evacuation
from raydask.local_scheduler.fetching import Arrived, Fetching
from raydask.local_scheduler.functions import FunctionTable
from raydask.local_scheduler.guests import Guests
from raydask.local_scheduler.hosting import Hosting
from raydask.local_scheduler.inputs import wanted_by
from raydask.local_scheduler.lending import Lending
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.peer_checks import PeerChecks, PeerError
from raydask.local_scheduler.peer_objects import Handlers, PeerObjects, without_owner
from raydask.local_scheduler.records import (
    ObjectRecord,
    Remote,
    TaskRecord,
    TemplateRecord,
    WorkerRecord,
)
from raydask.local_scheduler.room import Room
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.object_store.state import StoreState
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, TaskResult, ValueKind

_STORED = int(ValueKind.STORED)


class BetweenNodes:
    """What one node has to do with others.

    Parameters
    ----------
    node : NodeNumber
    work : TaskTable
    objects : ObjectTable
    pool : WorkerPool
    functions : FunctionTable
    store : StoreState
    room : Room
    outgoing : Outgoing
    actors : ActorTable
    new_template : callable
        Makes the record of a template, for a job and the node that lends its tasks.
    end_job : callable
        Ends all that there is of a job.
    kill_actor : callable
        Ends an actor of this node, or its process alone.
    """

    def __init__(
        self,
        node: NodeNumber,
        work: TaskTable,
        objects: ObjectTable,
        pool: WorkerPool,
        functions: FunctionTable,
        store: StoreState,
        room: Room,
        outgoing: Outgoing,
        actors: ActorTable,
        new_template: Callable[[TaskTemplate, int, int], TemplateRecord],
        end_job: Callable[[int], None],
        kill_actor: Callable[[ActorID, bool], None],
    ) -> None:
        self._node = node
        self._work = work
        self._objects = objects
        self._pool = pool
        self._store = store
        self._outgoing = outgoing
        self._end_job = end_job
        self._kill_actor = kill_actor
        self.nodes: set[int] = set()
        self._copies: dict[ObjectID, ObjectRecord] = {}
        """Copies of objects of others that nothing here holds, the oldest first."""
        self._taking_in = False
        self._now = 0.0
        self.borrowing = Borrowing(self._tell, self._act)
        self.fetching = Fetching(node, objects, store, room, outgoing, self._tell, self._arrived)
        self.lending = Lending(
            node,
            work,
            objects,
            pool,
            self.fetching,
            self.borrowing,
            outgoing,
            self.nodes,
            self._tell,
        )
        self.evacuation = Evacuation(objects, self.fetching, self._tell)
        self.draining: Draining | None = None
        """Set while this node itself leaves."""
        self.guests = Guests(work, objects, pool, store, functions, self.borrowing, new_template)
        self.distant = DistantActors(
            node, self.nodes, work, objects, actors, self.lending, outgoing, self._tell
        )
        self.hosting = Hosting(work, pool, self.borrowing)
        self.peer_objects = PeerObjects(
            node, self.nodes, work, objects, self.fetching, self.guests, self._tell, self._arrived
        )
        self._actors = actors
        self._checks = PeerChecks(node, work, objects, self.lending, self.guests)
        objects.abroad = self
        work.elsewhere = self
        self._handlers = self._table()

    def _table(self) -> Handlers:
        return {
            **self._on_tasks(),
            **self.peer_objects.handlers,
            **self._on_actors(),
            wire.Borrowed: lambda node, said: self.borrowing.answered(said.number),
            wire.Part: self._on_part,
            wire.Parted: self._on_parted,
            wire.ReturnValues: self._on_return_values,
        }

    def _on_tasks(self) -> Handlers:
        return {
            wire.Lend: self._on_lend,
            wire.LentResults: self._on_lent_results,
            wire.Progress: lambda node, said: self.lending.progressed(node, said.steps),
            wire.GiveBack: lambda node, said: self.lending.given_back(node, said.task_ids),
            wire.RecallTasks: self._on_recall,
            wire.CancelLent: self.guests.cancel,
            wire.EndGuestJob: self._on_end_job,
        }

    def _on_actors(self) -> Handlers:
        distant = self.distant
        return {
            wire.ActorCreated: distant.created,
            wire.ActorProcessDied: lambda node, said: distant.process_died(
                node, said.actor_id, said.cause
            ),
            wire.EndActorProcess: lambda node, said: self.hosting.end(said.actor_id, said.cause),
            wire.FollowActor: lambda node, said: self._actors.follow(
                peer_process(node), said.actor_id, self._now
            ),
            wire.ActorLocated: distant.located,
            wire.KillActor: lambda node, said: self._kill_actor(said.actor_id, said.no_restart),
        }

    @property
    def messages(self) -> frozenset[type]:
        """The kinds of messages that another node may send."""
        return frozenset(self._handlers)

    def _act(self, action: Any) -> None:
        self._outgoing.actions.append(action)

    def _tell(self, node: int, message: object) -> None:
        if node in self.nodes:
            self._outgoing.actions.append(Send(peer_process(node), message))

    # --- events ---------------------------------------------------------------------------

    def nodes_came(self, nodes: list[int]) -> None:
        """Note other nodes."""
        # Most pairs of many nodes never have anything to do with one another: what there is for
        # each comes into being with the first message.
        self.nodes.update(nodes)

    def said(self, node: int, message: object, now: float) -> None:
        """Take in what another node says, or have its link closed if that cannot be."""
        self._now = now
        if node not in self.nodes:
            return
        try:
            self._checks.check(node, message)
        except PeerError as error:
            reason = f"it sent a wrong {type(message).__name__}: {error}"
            self._outgoing.actions.append(EndProcess(peer_process(node), reason))
            return
        self._join(node)
        self._handlers[type(message)](node, message)

    def _join(self, node: int) -> None:
        """Let a node hold objects here, if it does not yet."""
        process = peer_process(node)
        if process not in self._objects.held:
            self._objects.join(process)

    def nodes_leave(self, nodes: list[int], now: float) -> None:
        """Begin nothing new with nodes that leave, and bring here what they keep."""
        self._now = now
        for node in nodes:
            if node in self.nodes and node not in self.evacuation.leaving:
                self.evacuation.begin(node)
                self.lending.node_leaves(node, now)

    def nodes_lost(self, lost: list[tuple[int, str]], now: float) -> None:
        """Do without nodes that have died."""
        self._now = now
        for node, cause in lost:
            if node not in self.nodes:
                continue
            self.nodes.discard(node)
            self.evacuation.node_lost(node)
            self.borrowing.node_lost(node)
            self._objects.leave(peer_process(node))
            self.hosting.node_lost(node)
            for job in self.guests.node_lost(node):
                self._end_guest_job(job)
            self.peer_objects.node_lost(node, cause)
            self.fetching.node_lost(node)
            self.lending.node_lost(node, cause, now)
            self.distant.node_lost(node, cause)

    def _end_guest_job(self, job: int) -> None:
        """End a job that has ended at its home; detached actors here may keep some of it."""
        self.guests.jobs.pop(job, None)
        self._end_job(job)

    def job_ended(self, job: int) -> None:
        """Have a job end on other nodes too."""
        self.lending.job_ended(job)
        self.guests.end_job(job)

    def balance(self, now: float) -> None:
        """Begin what can be begun, and say what is to be said; called after each event."""
        self._now = now
        self.evacuation.balance(now)
        self.lending.balance(now)
        self.fetching.advance(now)
        self.guests.flush()
        self.borrowing.flush()

    def make_room(self, wanted: int) -> None:
        """Drop copies that nothing here holds, the oldest first."""
        dropped: dict[int, list[ObjectID]] = {}
        for object_id, record in list(self._copies.items()):
            if wanted <= 0:
                break
            if record.count or self._store.pins(object_id):
                continue
            wanted -= record.size
            assert record.remote is not None
            record.remote.forgotten = True
            dropped.setdefault(home_of(object_id), []).append(object_id)
            self._objects.settle(record)
        for home, object_ids in dropped.items():
            self._tell(home, wire.CopiesDropped(object_ids))

    @property
    def is_busy(self) -> bool:
        """Whether the clock must tick often."""
        return self.lending.is_busy or self.fetching.is_busy or self.evacuation.is_busy

    # --- objects (Abroad) -----------------------------------------------------------------

    def meet(self, object_id: ObjectID) -> ObjectRecord | None:
        """Return a new record of an unknown object of another node's; None if it is ours."""
        home = home_of(object_id)
        if home == self._node:
            return None
        record = self._objects.records[object_id] = ObjectRecord(object_id, None)
        record.remote = Remote(is_ours=False)
        if home not in self.nodes:
            record.value = without_owner(object_id, f"node {home}, its home, is not there")
        return record

    def held(self, record: ObjectRecord) -> None:
        """Have an object's home count this node, if anything but guests holds it here."""
        remote = record.remote
        assert remote is not None
        self._copies.pop(record.object_id, None)
        if not remote.is_ours and not remote.borrowed and record.count > remote.guards:
            if home_of(record.object_id) in self.nodes:
                self.borrowing.borrow(record)

    def less(self, record: ObjectRecord) -> None:
        """Let go of an object that only those hold here who answer for it."""
        remote = record.remote
        assert remote is not None
        if remote.borrowed and record.count <= remote.guards:
            self.borrowing.release(record)

    def wanted(self, record: ObjectRecord) -> None:
        """Bring an object here that a process waits for."""
        self.fetching.want(record, urgent=True)

    def watched(self, record: ObjectRecord) -> None:
        """Ask an object's home whether it exists."""
        self.fetching.ask_home(record)

    def tell(self, process: ProcessNumber, record: ObjectRecord) -> None:
        """Tell another node what an object of ours is, or where."""
        self.peer_objects.tell(process, record)

    def let_go(self, record: ObjectRecord) -> bool:
        """Let go of an object that nothing here holds; say whether it goes."""
        remote = record.remote
        assert remote is not None
        object_id = record.object_id
        if not remote.is_ours:
            if remote.borrowed:
                self.borrowing.release(record)
            if self._stays(record):
                return False
        self.fetching.unwanted(record)
        self._copies.pop(object_id, None)
        if remote.is_ours:
            for node in remote.nodes:
                if node != self._node:
                    self._tell(node, wire.Forget([object_id]))
        return True

    def _stays(self, record: ObjectRecord) -> bool:
        """Say whether a copy is kept that may be of use again, until its home forgets it."""
        remote = record.remote
        assert remote is not None
        if record.waiters or record.dependents or remote.wanting:
            return True
        if self._store.pins(record.object_id):
            return True  # another node reads it: this is asked again when it has
        if remote.forgotten or home_of(record.object_id) not in self.nodes:
            return False
        if record.value is None:
            return self.fetching.is_served(record)
        if record.value.kind != _STORED or not remote.exists:
            return False  # its home would not know of it
        self._copies[record.object_id] = record
        return True

    def _arrived(self, arrived: Arrived) -> None:
        """Take in the value of an object that was elsewhere."""
        object_id = arrived.record.object_id
        self._work.came(arrived.record, arrived.value)
        if self.evacuation.leaving:
            self.evacuation.arrived(arrived.record)
        if arrived.value.kind == _STORED:
            self.fetching.pin_for_readers(object_id)

    # --- tasks (Elsewhere) ----------------------------------------------------------------

    def inputs_exist(self, task: TaskRecord) -> None:
        """Bring a guest's inputs here; decide where a task of this node runs."""
        if task.is_guest:
            self.bring(task)
        else:
            self.lending.place(task, self._work.now)

    def inputs_came(self, task: TaskRecord) -> None:
        """Note that all inputs of a task are here: it waits for no lease any more."""
        self.lending.forget(task)

    def input_unknown(self, record: ObjectRecord) -> None:
        """Ask an object's home for it, unless what is being taken in is about to tell."""
        if not self._taking_in:
            self.fetching.ask_home(record)

    def guest_ended(self, task: TaskRecord, result: TaskResult) -> None:
        """Report how a guest has ended."""
        self.guests.ended(task, result)

    def creation_ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        """Take in how the creation of another node's actor has ended."""
        self.hosting.creation_ended(worker, task, result, self._now)

    def creation_died(self, task: TaskRecord, cause: str) -> None:
        """Report that a worker has died while it created another node's actor."""
        self.hosting.creation_died(task, cause)

    def bring(self, task: TaskRecord) -> None:
        """Bring the inputs of a task here."""
        self.lending.bring(task)

    def decline(self, task: TaskRecord) -> None:
        """Give a guest back that this node has no place for any more."""
        home = node_of_peer(task.submitter)
        self._work.dismiss(task)
        self.borrowing.say(home, wire.GiveBack([task.spec.task_id]))

    def cancel(self, task: TaskRecord, *, force: bool, recursive: bool) -> None:
        """Cancel a task that another node has, with `recursive` also what it has submitted."""
        self.lending.cancel(task, force=force, recursive=recursive)

    def closed(self, task: TaskRecord) -> None:
        """Forget a task that does not wait any more for what is elsewhere."""
        self.lending.forget(task)
        for record in wanted_by(task, self._objects):
            remote = record.remote
            if remote is None or remote.wanting.pop(task, None) is None:
                continue
            if not remote.wanting and not record.waiters and not self.fetching.is_served(record):
                self.fetching.unwanted(record)

    # --- messages about tasks -------------------------------------------------------------

    def _on_lend(self, node: int, message: wire.Lend) -> None:
        self._taking_in = True
        self.guests.lend(node, message)
        self._taking_in = False
        for value in message.values:
            self.peer_objects.take_value(value)
        for place in message.located:
            self.peer_objects.take_place(place, node)
        for spec in message.specs:
            task = self._work.records.get(spec.task_id)
            if task is not None and task.missing:
                for record in wanted_by(task, self._objects):
                    if record.remote is not None and not record.remote.exists:
                        self.fetching.ask_home(record)
        if self.draining is not None:
            self.guests.give_back()

    def _on_lent_results(self, node: int, message: wire.LentResults) -> None:
        self.lending.results(node, message.results)
        if node in self.evacuation.leaving:
            records = self._objects.records
            values = (value for result in message.results for value in result.values)
            self.evacuation.bring(
                [records[value.object_id] for value in values if value.object_id in records]
            )

    def _on_recall(self, node: int, message: wire.RecallTasks) -> None:
        task_ids = self.guests.recall(node, message.task_ids)
        if task_ids:
            self.borrowing.say(node, wire.GiveBack(task_ids))

    def _on_end_job(self, node: int, message: wire.EndGuestJob) -> None:
        self.guests.forget_templates(node, message.job)
        # A job of this node's own is not for others to end.
        if node in self.guests.jobs.get(message.job, ()) and home_of_job(message.job) != self._node:
            self._end_guest_job(message.job)

    # --- results of calls -----------------------------------------------------------------

    def return_values(
        self, maker: ProcessNumber, node: int, holder: int, values: list[ObjectValue]
    ) -> None:
        """Give a process of another node what an actor here has made for it."""
        if node in self.nodes:
            self._join(node)
        sealed = []
        for value in values:
            record = self._objects.records.get(value.object_id)
            if record is not None and record.remote is not None and record.value is None:
                self.fetching.unwanted(record)  # an earlier answer is elsewhere; this one is here
            sealed.append(self._work.seal(maker, value))
        self.guests.return_values(node, holder, sealed)

    def _on_return_values(self, node: int, message: wire.ReturnValues) -> None:
        process = ProcessNumber(message.process)
        for value in message.values:
            self.lending.deliver(node, value, process)
            if value.kind == _STORED:
                # It is not brought here before anybody wants it here.
                self._outgoing.ready(process, value.object_id)
            else:
                self._objects.request(process, [value.object_id])

    # --- nodes that leave -----------------------------------------------------------------

    def _on_part(self, node: int, message: wire.Part) -> None:
        self.nodes_leave([node], self._now)
        settled = not self.lending.lent.get(node)
        self.borrowing.say(node, wire.Parted(message.number, settled))

    def _on_parted(self, node: int, message: wire.Parted) -> None:
        if self.draining is not None:
            self.draining.parted(node, message.number, settled=message.settled)

    def leave(self) -> None:
        """Give back guests and copies, to leave; called again and again."""
        self.guests.give_back()
        self.make_room(self._store.capacity)

    def what_is_left(self) -> str:
        """Say what of this node others still need; empty: nothing."""
        held, pinned = set[ObjectID](), set[ObjectID]()
        for node in self.nodes:
            process = peer_process(node)
            held |= self._objects.held.get(process, set())
            held |= self.guests.carried.get(node, {}).keys()
            pinned |= self._objects.pins.get(process, {}).keys()
        if held:
            return f"{len(held)} objects that other nodes hold"
        if pinned:
            return f"{len(pinned)} objects that other nodes read"
        if self.fetching.is_busy:
            return "objects on their way here"
        return "answers of other nodes" if self.borrowing.has_to_tell else ""
