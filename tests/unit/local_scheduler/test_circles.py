"""Values that hold one another in a circle end with a job, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler import events
from raydask.wire.messages import ObjectValue
from tests.unit.local_scheduler.node import DRIVER, IDS, Node

OTHER = ProcessNumber(2)


def put_circle(node: Node, length: int, *more: ObjectID) -> list[ObjectID]:
    """Put values of which each contains the next one's ref, the last the first's; and more."""
    circle = [node.promise() for _ in range(length)]
    for position, object_id in enumerate(circle):
        following = circle[(position + 1) % length]
        value = ObjectValue(object_id, 0, b"x", nested=[following, following, *more])
        node.tell(events.ObjectsPut(DRIVER, DRIVER, [value]))
    return circle


def leave(node: Node) -> None:
    node.tell(events.DriverLeft(DRIVER))
    node.tick(0.25)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_ends_with_its_job(length: int) -> None:
    node = Node(drivers=2)
    leaf = node.put()
    circle = put_circle(node, length, leaf)
    node.release(leaf, *circle)
    node.tick(0.25)
    assert set(node.core.objects.records) == {leaf, *circle}, "counting does not find it"
    leave(node)
    assert node.core.objects.records == {}


def test_a_circle_that_somebody_holds_stays() -> None:
    node = Node(drivers=2)
    circle = put_circle(node, 3)
    node.tell(events.ObjectsAcquired(OTHER, circle[:1]))
    leave(node)
    assert set(node.core.objects.records) == set(circle)
    node.tell(events.DriverLeft(OTHER))
    node.tick(0.25)
    assert node.core.objects.records == {}


def test_a_circle_in_a_value_that_somebody_holds_stays() -> None:
    node = Node(drivers=2)
    circle = put_circle(node, 2)
    outer = node.put(nested=circle[1:])
    node.tell(events.ObjectsAcquired(OTHER, [outer]))
    leave(node)
    assert set(node.core.objects.records) == {outer, *circle}


def test_what_a_worker_of_an_ended_job_held_goes_when_the_worker_has() -> None:
    node = Node(drivers=2)
    node.workers(3)
    circle = put_circle(node, 2)
    node.submit(dependencies=circle)  # so the worker is of this job
    node.tell(events.ObjectsAcquired(ProcessNumber(3), circle))
    leave(node)
    assert set(circle) <= set(node.core.objects.records)
    node.leave(3)
    node.tick(0.25)
    assert node.core.objects.records == {}


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=8, max_size=8),
    st.sets(st.integers(0, 7)),
)
@settings(deadline=None, max_examples=200, derandomize=True)
def test_exactly_what_leads_to_no_holder_is_freed(edges: list[list[int]], held: set[int]) -> None:
    node = Node(drivers=2)
    ids = [IDS.next_put_id() for _ in edges]
    node.tell(events.ObjectsPromised(DRIVER, ids))
    node.tell(events.ObjectsAcquired(OTHER, [ids[number] for number in held]))
    for object_id, contained in zip(ids, edges, strict=True):
        value = ObjectValue(object_id, 0, b"x", nested=[ids[number] for number in contained])
        node.tell(events.ObjectsPut(DRIVER, DRIVER, [value]))
    leave(node)

    reached: set[int] = set()
    pending = list(held)
    while pending:
        number = pending.pop()
        if number not in reached:
            reached.add(number)
            pending += edges[number]
    assert set(node.core.objects.records) == {ids[number] for number in reached}
