"""A core with journals that remember, and short ways to tell it things."""

from __future__ import annotations

from typing import Any, TypeVar

from raydask.control.tables import (
    ActorEntry,
    NamedActorEntry,
    NodeEntry,
    PlacementGroupEntry,
    decode,
)
from raydask.control.write_behind_state import FixedDocument, Source
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Action, Send
from raydask.global_scheduler.state import GlobalScheduler, Journals
from raydask.ids import ActorID, IDSource, NodeNumber, PlacementGroupID, ProcessNumber, TaskID
from raydask.placement import Strategy
from raydask.task import RESOURCE_UNIT
from raydask.wire import messages as wire

Message = TypeVar("Message")

TICK_SECONDS = 0.25


def units(**amounts: float) -> dict[str, int]:
    """Whole resources in the wire's steps."""
    return {name: round(amount * RESOURCE_UNIT) for name, amount in amounts.items()}


class Rows:
    """A journal that keeps the latest document of each entry, as the control state would."""

    def __init__(self) -> None:
        self.sources: dict[Any, Source] = {}
        self.forgotten: list[Any] = []

    def put(self, identifier: Any, source: Source, /) -> None:
        self.sources[identifier] = source

    def forget(self, identifier: Any, /) -> None:
        self.sources.pop(identifier, None)
        self.forgotten.append(identifier)

    def adopt(self, identifier: Any, /) -> None:
        assert identifier in self.sources, "it is not there"

    def take_over(self, other: Rows) -> list[bytes]:
        """Begin with what another journal holds, and return its documents."""
        self.sources = {
            identifier: FixedDocument(source.document())
            for identifier, source in other.sources.items()
        }
        return [source.document() for source in self.sources.values()]


class Cluster:
    """One core and what it has sent; it has begun to listen unless ``began`` says no."""

    def __init__(self, patience: float = float("inf"), *, began: bool = True) -> None:
        self.nodes, self.actors, self.names, self.groups = Rows(), Rows(), Rows(), Rows()
        journals = Journals(self.nodes, self.actors, self.names, self.groups)
        self.core = GlobalScheduler(journals, "mine", patience)
        self.now = 1000.0
        self.actions: list[Action] = []
        self._sources = {
            number: IDSource(NodeNumber(number), ProcessNumber(1)) for number in (1, 2, 3)
        }
        if began:
            self.pause(0.0)

    def new_id(self, node: int = 1) -> TaskID:
        return self._sources[node].next_task_id()

    def tell(self, event: events.Event) -> list[Action]:
        actions = self.core.handle(event, self.now)
        self.actions += actions
        return actions

    def sent(self, kind: type[Message], node: int | None = None) -> list[Message]:
        """Take out what was sent of one kind, to one node or to any."""
        found = [
            action
            for action in self.actions
            if isinstance(action, Send)
            and isinstance(action.message, kind)
            and node in {None, action.node}
        ]
        self.actions = [action for action in self.actions if action not in found]
        return [each.message for each in found if isinstance(each.message, kind)]

    def join(
        self,
        number: int,
        actors: list[ActorID] | None = None,
        *,
        head: bool = False,
        link: str = "",
        labels: dict[str, str] | None = None,
        bundles: list[tuple[PlacementGroupID, int]] | None = None,
        jobs: list[int] | None = None,
        **amounts: float,
    ) -> None:
        """Have a node register; its data port is the one after its link's."""
        data = link and f"{link}1"
        message = wire.RegisterNode(
            number,
            7,
            "here",
            "host",
            units(**amounts),
            labels or {},
            10,
            actors or [],
            link,
            data,
            "mine",
            {},
            bundles or [],
            jobs or [],
        )
        self.tell(events.NodeRegistered(NodeNumber(number), message, head))

    def complain(self, by: int, about: int, cause: str = "connection reset") -> None:
        self.tell(events.NodeComplained(NodeNumber(by), NodeNumber(about), cause))

    def demand(self, home: int, count: int, **resources: float) -> None:
        demand = wire.ShapeDemand(1, units(**resources), count)
        self.tell(events.DemandsStated(NodeNumber(home), [demand]))

    def lose(self, number: int) -> None:
        self.tell(events.NodeLost(NodeNumber(number)))

    def beat(self, number: int, *, queued: int = 0, seconds: float = 0.0, **free: float) -> None:
        self.tell_load(wire.Heartbeat(number, units(**free), queued, seconds, 0))

    def tell_load(self, message: wire.Heartbeat) -> None:
        self.tell(events.LoadReported(NodeNumber(message.node), message))

    def after(self, seconds: float) -> None:
        """Let time pass in which the core hears what is said."""
        end = self.now + seconds
        while self.now < end - TICK_SECONDS:
            self.pause(TICK_SECONDS)
        self.now = end
        self.pause(0.0)

    def pause(self, seconds: float) -> None:
        """Let time pass without the core, and then its clock tick."""
        self.now += seconds
        self.tell(events.ClockTicked())

    def pass_up(
        self, node: int, count: int = 1, *, strategy: Strategy | None = None, **wanted: float
    ) -> list[TaskID]:
        tasks = [
            wire.PassedUp(self.new_id(node), "f", units(**wanted), strategy) for _ in range(count)
        ]
        self.tell(events.TasksPassedUp(NodeNumber(node), tasks))
        return [task.task_id for task in tasks]

    def create(self, node: int, actor_id: ActorID | None = None, **wanted: float) -> ActorID:
        actor_id = actor_id or ActorID(self.new_id(node))
        self.tell(
            events.ActorRequested(
                NodeNumber(node), actor_id, "Counter", units(**wanted), 2, False, 65537
            )
        )
        return actor_id

    def report(
        self,
        node: int,
        actor_id: ActorID,
        state: wire.ActorState,
        cause: str = "",
        *,
        host: int = 0,
    ) -> None:
        """Have an actor's home report it; it lives there unless another host is named."""
        where = NodeNumber(host or node)
        self.tell(events.ActorReported(NodeNumber(node), actor_id, where, state, 99, 0, cause))

    def claim(
        self, node: int, name: str, actor_id: ActorID, handle: bytes = b"shape"
    ) -> wire.ActorFound:
        self.tell(events.NameClaimed(NodeNumber(node), 5, name, "space", actor_id, handle))
        (answer,) = self.sent(wire.ActorFound, node)
        return answer

    def find(self, name: str) -> ActorID:
        self.tell(events.NameAsked(NodeNumber(1), 6, name, "space"))
        (answer,) = self.sent(wire.ActorFound, 1)
        return answer.actor_id

    def actor(self, actor_id: ActorID) -> ActorEntry:
        return decode(self.actors.sources[actor_id].document(), ActorEntry)

    def node(self, number: int) -> NodeEntry:
        return decode(self.nodes.sources[number].document(), NodeEntry)

    def restarted(self) -> Cluster:
        """A new core that has read what this one journaled."""
        other = Cluster(began=False)
        other.now = self.now
        other._sources = self._sources
        other.tell(
            events.EntriesReread(
                [decode(text, NodeEntry) for text in other.nodes.take_over(self.nodes)],
                [decode(text, ActorEntry) for text in other.actors.take_over(self.actors)],
                [decode(text, NamedActorEntry) for text in other.names.take_over(self.names)],
                [decode(text, PlacementGroupEntry) for text in other.groups.take_over(self.groups)],
            )
        )
        other.pause(0.0)
        return other


def kinds(actions: list[Action]) -> list[str]:
    """What the actions are, in their order."""
    return [
        type(action.message if isinstance(action, Send) else action).__name__ for action in actions
    ]
