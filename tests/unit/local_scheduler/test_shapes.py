"""What may be lent of one shape, and where: `Shape` on its own."""

from __future__ import annotations

from math import inf

import pytest

from raydask.ids import FunctionID, IDSource, NodeNumber, ProcessNumber
from raydask.local_scheduler.records import TaskRecord, TemplateRecord
from raydask.local_scheduler.shapes import Shape
from raydask.task import RESOURCE_UNIT, TaskSpec, TaskTemplate

CPU = {"CPU": RESOURCE_UNIT}
IDS = IDSource(NodeNumber(1), ProcessNumber(1))
TEMPLATE = TemplateRecord(1, TaskTemplate(FunctionID(b"f"), "f", resources=CPU), 1)


@pytest.fixture
def shape() -> Shape:
    return Shape(1, 1, CPU)


def new_task(template: TemplateRecord = TEMPLATE) -> TaskRecord:
    spec = TaskSpec(IDS.next_task_id(), 1, b"", [], [])
    return TaskRecord(spec, template, 1, ProcessNumber(1), 0, 0.0)


def bind_some(shape: Shape, count: int, transfer: float) -> list[TaskRecord]:
    """Bind tasks of 0.1 s to node 2, for which they have waited long enough at once."""
    template = TemplateRecord(1, TEMPLATE.template, 1)
    template.cost = 0.1
    tasks = [new_task(template) for _ in range(count)]
    for task in tasks:
        shape.bind(task, 2, 0.0, 0.0, 0.1, transfer)
    return tasks


def test_a_lease_opens_a_node_until_its_slots_are_used(shape: Shape) -> None:
    shape.lease(2, 1)

    assert list(shape.open) == [2]
    assert shape.nodes[2].has_room(None)
    shape.lend(2, 0.02, 0.0)
    assert not shape.nodes[2].has_room(None)
    assert shape.lent == 1


def test_short_tasks_are_given_ahead_and_long_ones_are_not(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.004, 0.0)

    assert shape.nodes[2].has_room(0.004)
    assert not shape.nodes[2].has_room(0.1)
    given = 1
    while shape.nodes[2].has_room(0.004):
        shape.lend(2, 0.004, 0.0)
        given += 1
    assert given == 5


def test_a_node_is_open_again_when_a_task_has_ended(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.1, 0.0)
    shape.close(2)

    shape.take_back(2, 0.1, 0.1)

    assert list(shape.open) == [2]
    assert shape.lent == 0


def test_a_lease_that_has_ended_leaves_what_was_lent(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.1, 0.0)

    shape.lease(2, 0)

    assert not shape.open
    assert shape.lent == 1
    shape.take_back(2, 0.1, 0.1)
    assert not shape.nodes


def test_a_node_with_a_lease_and_bound_tasks_is_matched_whichever_comes_first(
    shape: Shape,
) -> None:
    shape.bind(new_task(), 2, 0.0, 1.0, 0.1)
    assert not shape.matched
    shape.lease(2, 1)
    assert list(shape.matched) == [2]

    shape.lease(3, 1)
    shape.bind(new_task(), 3, 0.0, 1.0, 0.1)
    assert list(shape.matched) == [2, 3]


def test_a_task_is_bound_to_one_node_at_a_time(shape: Shape) -> None:
    task = new_task()
    shape.bind(task, 2, 0.0, 1.0, 0.1)

    shape.bind(task, 3, 0.0, 1.0, 0.1)

    assert list(shape.bound) == [3]
    shape.unbind(task)
    assert (shape.waiting, shape.bound_seconds) == (0, 0)
    assert not shape.bound


def test_tasks_wait_until_their_time_and_no_more_than_asked_for_go(shape: Shape) -> None:
    early, late, other = new_task(), new_task(), new_task()
    shape.bind(early, 2, 0.0, 1.0, 0.1)
    shape.bind(late, 2, 0.0, 3.0, 0.1)
    shape.bind(other, 3, 0.0, 1.0, 0.1)

    assert shape.impatient(0.5, 10) == []
    assert shape.impatient(2.0, 1) == [early]
    assert shape.impatient(2.0, 10) == [other]
    assert shape.impatient(2.0, 10) == []
    assert shape.impatient(3.0, 10) == [late]


def test_who_is_run_where_its_inputs_are_before_they_could_be_elsewhere_stays(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.1, 0.0)
    tasks = bind_some(shape, 5, 0.25)  # they begin there after 0.1, 0.2, 0.3, 0.4 and 0.5 s

    assert shape.impatient(0.0, 10) == tasks[:3]
    assert shape.impatient(0.001, 10) == []
    assert shape.waiting == 2


def test_who_stays_is_looked_at_again(shape: Shape) -> None:
    shape.lease(2, 1)
    tasks = bind_some(shape, 1, 0.25)
    shape.nodes[2].progress = 10.0

    assert shape.impatient(10.0, 10) == []
    assert not shape.has_impatient(10.001)
    assert shape.has_impatient(10.01)
    shape.lend(2, 0.3, 10.01)
    assert shape.impatient(10.01, 10) == tasks


def test_nobody_waits_for_a_node_that_does_not_get_on(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.1, 0.0)
    tasks = bind_some(shape, 1, 0.25)

    assert shape.impatient(0.69, 10) == []
    assert shape.impatient(0.71, 10) == tasks


def test_nobody_waits_for_a_node_without_a_lease(shape: Shape) -> None:
    tasks = bind_some(shape, 2, 0.25)

    assert shape.wait_at(2, 0.1) == inf
    assert shape.impatient(0.0, 10) == tasks


def test_the_wait_at_a_node_is_that_for_what_it_has_and_what_is_bound_to_it(shape: Shape) -> None:
    shape.lease(2, 2)
    assert shape.wait_at(2, 0.1) == 0
    shape.lend(2, 0.3, 0.0)
    bind_some(shape, 5, 0.25)
    assert shape.wait_at(2, 0.1) == pytest.approx(0.4)
    assert shape.wait_at(2, None) == inf


def test_a_dead_node_is_forgotten_and_what_was_bound_to_it_returned(shape: Shape) -> None:
    task = new_task()
    shape.lease(2, 2)
    shape.lend(2, 0.1, 0.0)
    shape.bind(task, 2, 0.0, 1.0, 0.1)

    assert shape.remove_node(2) == [task]
    assert (shape.lent, shape.waiting) == (0, 0)
    assert not shape.nodes
    assert not shape.open
    assert not shape.matched


def test_nodes_are_stuck_that_hold_more_than_they_run_and_end_nothing(shape: Shape) -> None:
    shape.lease(2, 1)
    shape.lend(2, 0.001, 0.0)
    shape.lend(2, 0.001, 0.0)
    shape.lend(2, 0.001, 0.0)

    assert shape.stuck(0.01, 0.05) == []
    assert shape.stuck(0.06, 0.05) == [(2, 2)]
    assert shape.stuck(0.07, 0.05) == []


def test_slots_are_idle_only_where_fewer_tasks_are_than_slots(shape: Shape) -> None:
    shape.lease(2, 1)
    assert shape.has_idle_slots

    shape.lend(2, 0.001, 0.0)

    assert list(shape.open) == [2]
    assert not shape.has_idle_slots


def test_one_who_has_waited_long_enough_is_found_behind_those_that_have_not(shape: Shape) -> None:
    early, late = new_task(), new_task()
    shape.bind(late, 2, 0.0, 3.0, 0.1)
    shape.bind(early, 3, 0.0, 1.0, 0.1)

    assert not shape.has_impatient(0.5)
    assert shape.has_impatient(1.0)
    assert shape.impatient(1.0, 0) == []
    assert shape.has_impatient(1.0)
    assert shape.impatient(1.0, 1) == [early]
    assert not shape.has_impatient(1.0)


def test_a_clock_that_is_set_back_keeps_nobody_waiting(shape: Shape) -> None:
    before, after = new_task(), new_task()
    shape.bind(before, 2, 1000.0, 1001.0, 0.1)
    assert shape.impatient(1000.5, 10) == []

    assert shape.has_impatient(10.0)
    shape.bind(after, 3, 10.0, 11.0, 0.1)
    assert shape.impatient(10.0, 10) == [before]
    assert shape.impatient(10.5, 10) == []
    assert shape.impatient(11.0, 10) == [after]


def test_a_clock_that_is_set_back_hides_no_node_that_is_stuck(shape: Shape) -> None:
    shape.lease(2, 1)
    for _ in range(3):
        shape.lend(2, 0.001, 1000.0)

    assert shape.stuck(10.0, 0.05) == [(2, 2)]
    assert shape.stuck(10.01, 0.05) == []
