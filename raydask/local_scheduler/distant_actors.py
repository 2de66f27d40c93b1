"""Actors of this node that live on others, and actors of others that processes here follow. Pure.

An actor's home decides all about it, wherever the global scheduler has placed it.  Where that is
another node, the home lends it the creation and is told how that ended, and when the process has
died (`Hosting` is the other side of this); the death of the node is the death of all processes
there.

Processes follow an actor through their own node.  That follows the actor at its home, once for
all of them, and keeps what it was told last.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from raydask.ids import ActorID, ObjectID, ProcessNumber, TaskID, home_of, peer_process
from raydask.local_scheduler.actions import Send
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.lending import Lending
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import ActorRecord, TaskRecord, TaskState
from raydask.local_scheduler.tasks import TaskTable
from raydask.wire.messages import (
    ActorCreated,
    ActorLocated,
    ActorState,
    EndActorProcess,
    FollowActor,
    KillActor,
    TaskResult,
)


class Ending(NamedTuple):
    """An actor's creation that its host is to end, and what that may still read."""

    node: int
    held: list[ObjectID]


class _Followed:
    """An actor of another node that processes here follow."""

    __slots__ = ("located", "processes")

    def __init__(self) -> None:
        self.located: ActorLocated | None = None
        self.processes: set[ProcessNumber] = set()


class DistantActors:
    """What one node has to do with actors elsewhere.

    Parameters
    ----------
    node : int
    nodes : container of int
        The other nodes that there are.
    work : TaskTable
    objects : ObjectTable
    actors : ActorTable
    lending : Lending
    outgoing : Outgoing
    tell : callable
        Sends a node a message.

    Attributes
    ----------
    ending : dict of ActorID to Ending
        Actors that have been ended while another node was creating them.
    """

    def __init__(
        self,
        node: int,
        nodes: Container[int],
        work: TaskTable,
        objects: ObjectTable,
        actors: ActorTable,
        lending: Lending,
        outgoing: Outgoing,
        tell: Callable[[int, object], None],
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._work = work
        self._objects = objects
        self._actors = actors
        self._lending = lending
        self._outgoing = outgoing
        self._tell = tell
        self._followed: dict[ActorID, _Followed] = {}
        self.ending: dict[ActorID, Ending] = {}
        actors.abroad = self
        lending.creation_failed = self.creation_failed
        lending.creation_given_back = self.creation_given_back

    # --- actors of this node (ActorsAbroad) -----------------------------------------------

    def begin(self, creation: TaskRecord) -> None:
        """Create an actor here, once what its creation needs is here."""
        self._work.creations.begin(creation)

    def host(self, actor: ActorRecord, node: int) -> None:
        """Have a node host an actor; ask for another place if it has died meanwhile, or leaves."""
        if self._lending.lends_to(node):
            actor.host = node
            self._lending.lend_creation(node, actor.creation)
        else:
            self._work.creations.ask_for_place(actor.creation)

    def end(self, actor: ActorRecord, cause: str) -> None:
        """End the process of an actor on the node that hosts it."""
        self._tell(actor.host, EndActorProcess(actor.actor_id, cause))
        creation = actor.creation
        if creation.lent_to:
            # It may read them until it has ended.
            held = [*creation.spec.dependencies, *creation.spec.borrowed]
            for object_id in held:
                self._objects.hold(object_id)
            self.ending[actor.actor_id] = Ending(actor.host, held)

    def _has_ended(self, actor_id: ActorID) -> None:
        ending = self.ending.pop(actor_id, None)
        for object_id in ending.held if ending is not None else ():
            self._objects.drop(object_id)

    # --- what hosts say -------------------------------------------------------------------

    def created(self, node: int, message: ActorCreated) -> None:
        """Note that an actor lives on the node that was to host it."""
        actor = self._hosted_by(node, message.actor_id)
        if actor is not None and actor.creation.state == TaskState.LENT:
            self._work.creations.created_elsewhere(
                actor, ProcessNumber(message.process), message.pid
            )

    def creation_failed(self, node: int, result: TaskResult) -> bool:
        """Take in that an actor could not be created; say whether that was awaited."""
        actor = self._hosted_by(node, ActorID(result.task_id))
        self._has_ended(ActorID(result.task_id))
        if actor is None or actor.creation.state != TaskState.LENT:
            return False
        self._work.creations.failed_elsewhere(actor, result)
        return True

    def creation_given_back(self, node: int, task_id: TaskID) -> None:
        """Find another place for an actor whose host has not begun to create it, and will not."""
        actor_id = ActorID(task_id)
        ending = self.ending.get(actor_id)
        if ending is not None and ending.node == node:
            self._has_ended(actor_id)
        actor = self._hosted_by(node, actor_id)
        if actor is not None and actor.creation.state == TaskState.LENT:
            self._work.creations.given_back(actor)

    def process_died(self, node: int, actor_id: ActorID, cause: str) -> None:
        """Decide what becomes of an actor whose process has died on its host."""
        self._has_ended(actor_id)
        actor = self._hosted_by(node, actor_id)
        if actor is not None:
            self._work.creations.actor_process_died(actor, cause)

    def _hosted_by(self, node: int, actor_id: ActorID) -> ActorRecord | None:
        actor = self._actors.records.get(actor_id)
        return actor if actor is not None and actor.host == node else None

    # --- following ------------------------------------------------------------------------

    def follow(self, process: ProcessNumber, actor_id: ActorID) -> None:
        """Tell a process where an actor of another node is, now and when that changes."""
        followed = self._followed.get(actor_id)
        if followed is None:
            home = home_of(actor_id)
            if home not in self._nodes:
                cause = f"node {home}, its home, is not there"
                lost = ActorLocated(actor_id, ActorState.DEAD, "", 0, cause)
                self._outgoing.actions.append(Send(process, lost))
                return
            followed = self._followed[actor_id] = _Followed()
            self._tell(home, FollowActor(actor_id))
        followed.processes.add(process)
        if followed.located is not None:
            self._outgoing.actions.append(Send(process, followed.located))

    def located(self, node: int, message: ActorLocated) -> None:
        """Pass on what an actor's home says of it."""
        followed = self._followed.get(message.actor_id)
        if followed is None or home_of(message.actor_id) != node:
            return
        address = ""
        if message.host == self._node:
            address = self._actors.address_of(ProcessNumber(message.process))
        self._pass_on(
            followed,
            ActorLocated(
                message.actor_id,
                message.state,
                address,
                message.incarnation,
                message.cause,
                message.host,
                message.process,
            ),
        )

    def _pass_on(self, followed: _Followed, located: ActorLocated) -> None:
        followed.located = located
        for process in followed.processes:
            self._outgoing.actions.append(Send(process, located))
        self._forget_if_over(followed)

    def _forget_if_over(self, followed: _Followed) -> None:
        located = followed.located
        if located is not None and located.state == ActorState.DEAD and not followed.processes:
            self._followed.pop(located.actor_id, None)

    def unfollow(self, process: ProcessNumber) -> None:
        """Forget a process that has gone."""
        for followed in list(self._followed.values()):
            followed.processes.discard(process)
            self._forget_if_over(followed)

    def kill(self, actor_id: ActorID, *, no_restart: bool) -> None:
        """Have an actor of another node ended."""
        self._tell(home_of(actor_id), KillActor(actor_id, no_restart))

    # --- nodes ----------------------------------------------------------------------------

    def node_lost(self, node: int, cause: str) -> None:
        """Note that with a node all actors that lived there, or had their home there, have gone."""
        self._actors.unfollow(peer_process(node))
        for actor_id in [each for each, ending in self.ending.items() if ending.node == node]:
            self._has_ended(actor_id)
        for actor in list(self._actors.records.values()):
            if actor.host == node:
                died = f"node {node}, where it lived, is dead: {cause}"
                self._work.creations.actor_process_died(actor, died)
        for actor_id, followed in list(self._followed.items()):
            if home_of(actor_id) == node:
                died = f"node {node}, its home, is dead: {cause}"
                incarnation = followed.located.incarnation if followed.located is not None else 0
                dead = ActorLocated(actor_id, ActorState.DEAD, "", incarnation, died)
                self._pass_on(followed, dead)
