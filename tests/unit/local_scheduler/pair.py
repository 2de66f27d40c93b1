"""A home and a host of its actors: two cores that talk to each other."""

from __future__ import annotations

from typing import Any

from raydask.ids import (
    ActorID,
    FunctionID,
    ObjectID,
    ProcessNumber,
    TaskID,
    is_peer,
    node_of_peer,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import Send
from raydask.task import ActorOptions, TaskKind, TaskTemplate
from raydask.wire.messages import ActorState
from tests.unit.local_scheduler.node import ACTOR, Node

HOME, HOST = 1, 2
WORKER = 51
"""Of the host's."""
CALLER = ProcessNumber(1)
RESTARTABLE = TaskTemplate(
    FunctionID(b"a"),
    "A",
    TaskKind.ACTOR_CREATION,
    max_retries=0,
    actor=ActorOptions(max_restarts=1),
)


class Pair:
    """A home and a host; what one says to the other arrives at once, unless it is held up."""

    def __init__(self) -> None:
        self.nodes = {HOME: Node(), HOST: Node(drivers=0, number=HOST)}
        self.home, self.host = self.nodes[HOME], self.nodes[HOST]
        self.held_up: set[type] = set()
        self._read = dict.fromkeys(self.nodes, 0)
        self._late: list[tuple[int, int, object]] = []
        self.home.tell(events.NodesCame([HOST]))
        self.host.tell(events.NodesCame([HOME]))
        self.host.workers(WORKER, WORKER + 1)

    def pass_on(self) -> None:
        """Deliver what nodes have said to each other, and what they say to that."""
        while any(self._read[number] < len(node.actions) for number, node in self.nodes.items()):
            for number, node in self.nodes.items():
                new = node.actions[self._read[number] :]
                self._read[number] = len(node.actions)
                for action in new:
                    if isinstance(action, Send) and is_peer(action.process):
                        self._say(number, node_of_peer(action.process), action.message)

    def _say(self, sender: int, receiver: int, message: object) -> None:
        if type(message) in self.held_up:
            self._late.append((sender, receiver, message))
        elif receiver in self.nodes:
            self.nodes[receiver].tell(events.PeerSaid(sender, message))

    def let_through(self) -> None:
        """Deliver what has been held up."""
        self.held_up.clear()
        late, self._late = self._late, []
        for sender, receiver, message in late:
            self._say(sender, receiver, message)
        self.pass_on()

    def create(
        self, template: TaskTemplate = ACTOR, inputs: list[ObjectID] | None = None
    ) -> ActorID:
        """Make an actor that is placed on the host, where a worker is given its creation."""
        actor_id = ActorID(self.home.submit(template, inputs))
        self.place(actor_id)
        return actor_id

    def place(self, actor_id: ActorID, node: int = HOST) -> None:
        self.home.tell(events.ActorWasPlaced(actor_id, node))
        self.pass_on()

    def created(self, template: TaskTemplate = ACTOR) -> ActorID:
        """Make an actor that lives on the host."""
        actor_id = self.create(template)
        self.end_creation(actor_id)
        return actor_id

    def end_creation(self, actor_id: ActorID, **how: Any) -> None:
        self.host.end(self.host.where(TaskID(actor_id)), TaskID(actor_id), **how)
        self.pass_on()

    def follow(self, node: int, process: ProcessNumber, actor_id: ActorID) -> None:
        self.nodes[node].tell(events.ActorFollowed(process, actor_id))
        self.pass_on()

    def state(self, actor_id: ActorID) -> ActorState:
        return self.home.core.actors.records[actor_id].state


def told(node: Node, process: ProcessNumber, kind: type) -> list[Any]:
    """What a process has been told of one kind, the last at the end."""
    return [
        action.message
        for action in node.actions
        if isinstance(action, Send) and action.process == process
        if isinstance(action.message, kind)
    ]
