"""Which tasks go to other nodes, how many, and when."""

from __future__ import annotations

from typing import Any

from raydask.ids import FunctionID, ObjectID, TaskID, return_id
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import Send
from raydask.local_scheduler.lending import Lending
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, TaskResult, ValueKind
from tests.unit.local_scheduler.node import Node

LONG = TaskTemplate(FunctionID(b"l"), "long", resources={"CPU": 10_000})
SHORT = TaskTemplate(FunctionID(b"s"), "short", resources={"CPU": 10_000})
MB = 1 << 20


def node_among(*others: int, **settings: Any) -> Node:
    node = Node(cpus=1, **settings)
    node.tell(events.NodesCame(list(others)))
    return node


def lending(node: Node) -> Lending:
    assert node.core.between is not None
    return node.core.between.lending


def lease(node: Node, other: int, slots: int = 1) -> None:
    node.tell(events.LeasesChanged([wire.Lease(1, other, slots)]))


def lent_to(node: Node, other: int) -> list[TaskID]:
    return list(lending(node).lent[other])


def end(node: Node, other: int, task_id: TaskID, seconds: float, stored: int = 0) -> None:
    kind = ValueKind.STORED if stored else ValueKind.INLINE
    value = ObjectValue(return_id(task_id, 0), int(kind), b"", 0, stored)
    result = TaskResult(task_id, 0, [value], node.now, seconds)
    node.tell(events.PeerSaid(other, wire.LentResults([result])))


def recalled(node: Node) -> list[TaskID]:
    return [task_id for recall in node.sent(wire.RecallTasks) for task_id in recall.task_ids]


def object_at(node: Node, other: int, size: int) -> ObjectID:
    """Have a task make an object on another node."""
    task_id = node.submit(LONG)
    lease(node, other)
    assert lent_to(node, other) == [task_id]
    end(node, other, task_id, 0.001, stored=size)
    lease(node, other, 0)
    return return_id(task_id, 0)


def measure(node: Node, template: TaskTemplate, seconds: float) -> None:
    """Have a task of a template take so long."""
    task_id = node.submit(template)
    lease(node, 2)
    end(node, 2, task_id, seconds)
    lease(node, 2, 0)


def test_tasks_of_unknown_duration_go_one_for_each_slot() -> None:
    node = node_among(2)
    tasks = [node.submit(LONG) for _ in range(5)]
    lease(node, 2, 2)
    assert lent_to(node, 2) == tasks[:2]


def test_long_tasks_go_one_for_each_slot_though_others_of_their_shape_are_short() -> None:
    node = node_among(2)
    for template, seconds in ((LONG, 0.1), (SHORT, 1e-5)):
        task_id = node.submit(template)
        lease(node, 2)
        end(node, 2, task_id, seconds)
    long = [node.submit(LONG) for _ in range(20)]
    assert lent_to(node, 2) == long[:1]


def test_short_tasks_go_many_at_once() -> None:
    node = node_among(2)
    task_id = node.submit(SHORT)
    lease(node, 2)
    end(node, 2, task_id, 0.001)
    for _ in range(200):
        node.submit(SHORT)
    assert 15 <= len(lent_to(node, 2)) <= 60


def test_a_task_waits_for_a_lease_where_its_input_is_from_when_it_is_submitted() -> None:
    node = node_among(2, 3)
    there = object_at(node, 2, 100 * MB)
    node.now += 5.0  # nothing has happened for long
    task_id = node.submit(LONG, [there])
    assert not node.core.objects.records[there].remote.fetch  # type: ignore[union-attr]
    lease(node, 2)
    assert lent_to(node, 2) == [task_id]


def test_a_task_with_half_of_its_inputs_elsewhere_goes_there_if_it_would_wait_here() -> None:
    for others in (0, 20):
        node = node_among(2)
        measure(node, LONG, 0.1)
        there, here = object_at(node, 2, 10 * MB), node.store(10 * MB)
        node.workers(10)
        node.submit(LONG)  # runs here
        for _ in range(others):
            node.submit(LONG)
        lease(node, 2)
        task_id = node.submit(LONG, [here, there])
        remote = node.core.objects.records[there].remote
        assert remote is not None and bool(remote.fetch) == (not others)
        if others:
            end(node, 2, lent_to(node, 2)[0], 0.1)
            assert lent_to(node, 2) == [task_id]


def test_a_task_whose_turn_here_is_near_is_not_moved_with_its_input() -> None:
    node = node_among(2)
    measure(node, LONG, 0.1)
    here = node.store(100 * MB)
    with_input = [node.submit(LONG, [here]) for _ in range(3)]
    plain = node.submit(LONG)
    lease(node, 2, 2)
    # The third would begin here when the first two have run: moving its input takes no longer.
    assert lent_to(node, 2) == [with_input[2], plain]


def test_the_input_is_brought_when_no_lease_comes() -> None:
    node = node_among(2)
    there = object_at(node, 2, 100 * MB)
    node.submit(LONG, [there])
    node.tick(0.2)
    assert node.core.objects.records[there].remote.fetch  # type: ignore[union-attr]


def test_that_inputs_are_on_another_node_is_said_at_once() -> None:
    node = node_among(2, 3)
    first, second = object_at(node, 2, 50 * MB), object_at(node, 3, 50 * MB)
    node.submit(LONG, [first])
    assert node.demands()[-1].nodes == [2]
    node.submit(LONG, [second])
    assert (node.demands()[-1].count, set(node.demands()[-1].nodes)) == (2, {2, 3})


def test_a_node_that_is_dead_is_not_asked_though_a_home_names_it() -> None:
    node = node_among(2, 3)
    node.tell(events.NodesLost([(3, "it is gone")]))
    theirs = ObjectID((2).to_bytes(4, "big") + bytes(8) + b"\x80\0\0\0" * 2)
    node.tell(events.ObjectsAcquired(1, [theirs]))  # type: ignore[arg-type]
    node.tell(events.ValuesRequested(1, [theirs], False, []))  # type: ignore[arg-type]
    node.tell(events.PeerSaid(2, wire.Located([wire.Whereabouts(theirs, 100, [2, 3])])))
    node.tell(events.RoomAnswered(1, node.actions[-1].offset, b""))
    asked = [
        action.process & 0xFFFF
        for action in node.actions
        if isinstance(action, Send) and isinstance(action.message, wire.Fetch)
    ]
    assert asked == [2]


def test_who_has_waited_long_enough_goes_past_nodes_that_have_no_idle_slot() -> None:
    node = node_among(2, 3, 4)
    there = object_at(node, 4, 100 * MB)
    here = [node.submit(LONG) for _ in range(2)]
    lease(node, 2, 2)
    assert lent_to(node, 2) == here
    waiting = [node.submit(LONG, [there]) for _ in range(4)]
    lease(node, 3, 4)
    assert 3 not in lending(node).lent

    node.tick(0.5)  # one comes here, where nothing runs
    assert lent_to(node, 3) == waiting[1:]


def test_what_waits_at_a_node_is_recalled_though_the_clock_was_set_back() -> None:
    node = node_among(2)
    node.tick(1000.0)
    first = node.submit(SHORT)
    lease(node, 2)
    end(node, 2, first, 0.001)
    for _ in range(5):
        node.submit(SHORT)
    assert recalled(node) == []

    node.tick(-500.0)
    assert recalled(node)
