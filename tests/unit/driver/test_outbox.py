"""What is sent, in which order, in how few frames."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.driver.object_ref import new_ref, received_ref
from raydask.driver.outbox import BATCH_SECONDS, BATCH_SIZE, Outbox
from raydask.driver.references import ReferenceTable
from raydask.ids import FunctionID, IDSource, NodeNumber, ProcessNumber
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire.framing import FrameDecoder
from raydask.wire.messages import (
    Acquire,
    Get,
    ObjectValue,
    Put,
    Release,
    Results,
    RetireRegions,
    Submit,
    TaskResult,
    Unblocked,
)

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


class Wire:
    """A connection that remembers each write, a clock that stands still, and the rest."""

    def __init__(self) -> None:
        self.writes: list[list[Any]] = []
        self.now = 0.0
        self.armed = 0
        self.retired: list[tuple[int, int]] = []
        self.references = ReferenceTable()
        connection: Any = self
        self.outbox = Outbox(
            connection, self.references, self.take_retired, self.arm, lambda: self.now
        )

    def send(self, data: bytes) -> None:
        self.writes.append(FrameDecoder().feed(data))

    def arm(self) -> None:
        self.armed += 1

    def take_retired(self) -> list[tuple[int, int]]:
        retired, self.retired = self.retired, []
        return retired

    @property
    def kinds(self) -> list[list[type]]:
        return [[type(message) for message in write] for write in self.writes]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def spec(template: int = 0) -> TaskSpec:
    return TaskSpec(IDS.next_task_id(), template, b"", [], [])


def value() -> ObjectValue:
    return ObjectValue(IDS.next_put_id(), 0, b"x")


def result() -> TaskResult:
    return TaskResult(IDS.next_task_id(), 0, [], 0.0, 0.0)


def test_runs_of_one_kind_become_one_message(wire: Wire) -> None:
    wire.outbox.add_spec(spec())
    wire.outbox.add_spec(spec())
    wire.outbox.add_put(value())
    wire.outbox.add_put(value())
    wire.outbox.add_spec(spec())
    assert wire.outbox.flush()

    assert wire.kinds == [[Submit, Put, Submit]]
    assert [len(message.specs) for message in wire.writes[0][::2]] == [2, 1]


def test_another_message_ends_a_run(wire: Wire) -> None:
    wire.outbox.add_spec(spec())
    wire.outbox.add(Unblocked())
    wire.outbox.add_spec(spec())
    wire.outbox.flush()

    assert wire.kinds == [[Submit, Unblocked, Submit]]


def test_a_template_goes_once_with_its_first_task(wire: Wire) -> None:
    template = TaskTemplate(FunctionID(bytes(16)), "f")
    wire.outbox.unsent_templates[7] = template
    for _ in range(2):
        wire.outbox.add_spec(spec(7))
    wire.outbox.flush()
    wire.outbox.add_spec(spec(7))
    wire.outbox.flush()

    assert [write[0].templates for write in wire.writes] == [[(7, template)], []]


def test_acquired_goes_before_and_released_after_what_is_sent(wire: Wire) -> None:
    table = wire.references
    made = new_ref(IDS.next_put_id(), table)
    kept = received_ref(IDS.next_put_id(), table)
    wire.outbox.add_spec(spec())
    del made
    wire.retired.append((0, 64))
    wire.outbox.flush(Get([], False, []))

    assert wire.kinds == [[Submit, Acquire, Get, Release, RetireRegions]]
    del kept


def test_what_a_task_keeps_is_acquired_before_its_result(wire: Wire) -> None:
    table = wire.references
    wire.outbox.add_result(result())
    kept = received_ref(IDS.next_put_id(), table)
    wire.outbox.add_result(result())
    wire.outbox.add_result(result())
    wire.outbox.flush()

    assert wire.kinds == [[Results, Acquire, Results]]
    del kept


def test_a_batch_goes_when_it_is_large(wire: Wire) -> None:
    for _ in range(BATCH_SIZE - 1):
        wire.outbox.add_spec(spec())
    assert wire.writes == []
    wire.outbox.add_spec(spec())
    assert len(wire.writes[0][0].specs) == BATCH_SIZE


def test_the_first_after_a_pause_goes_at_once_and_the_next_waits(wire: Wire) -> None:
    wire.now = 1.0
    wire.outbox.add_spec(spec())
    assert len(wire.writes) == 1
    wire.outbox.add_spec(spec())
    assert (len(wire.writes), wire.armed) == (1, 1)
    wire.now += 2 * BATCH_SECONDS
    wire.outbox.add_spec(spec())
    assert len(wire.writes) == 2


def test_results_wait_for_whoever_flushes(wire: Wire) -> None:
    wire.now = 1.0
    wire.outbox.add_result(result())
    assert (wire.writes, wire.armed) == ([], 0)
    assert wire.outbox.age == 1.0
    assert wire.outbox.flush()
    assert wire.outbox.age == 0.0


def test_nothing_to_say_is_no_write(wire: Wire) -> None:
    assert not wire.outbox.flush()
    assert wire.writes == []
