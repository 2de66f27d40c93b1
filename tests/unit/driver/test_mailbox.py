"""Values are asked for once, kept until they are read, and dropped when nobody holds them."""

from __future__ import annotations

import pytest

from raydask.driver.mailbox import Mailbox
from raydask.driver.object_ref import new_ref
from raydask.driver.references import ReferenceTable
from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber
from raydask.wire.messages import ObjectValue

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


class Desk:
    """A mailbox and refs whose values it may get."""

    def __init__(self) -> None:
        self.table = ReferenceTable()
        self.mailbox = Mailbox(self.table)
        self.refs = [new_ref(IDS.next_put_id(), self.table) for _ in range(3)]

    @property
    def ids(self) -> list[ObjectID]:
        return [ObjectID(ref.binary()) for ref in self.refs]

    def value(self, index: int) -> ObjectValue:
        return ObjectValue(self.ids[index], 0, b"x")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_asked_for_or_here_is_not_asked_for_again(desk: Desk) -> None:
    first, second, third = desk.ids
    assert desk.mailbox.to_request([first, second]) == [first, second]
    assert desk.mailbox.to_request([second, third]) == [third]
    desk.mailbox.deliver([desk.value(0)])
    assert desk.mailbox.to_request(desk.ids) == []
    desk.mailbox.taken([first])
    assert desk.mailbox.to_request([first]) == [first]


def test_results_of_direct_calls_are_neither_asked_for_nor_taken(desk: Desk) -> None:
    result = desk.ids[0]
    desk.table.private.add(result)
    assert desk.mailbox.to_request([result]) == desk.mailbox.to_watch([result]) == []
    desk.mailbox.deliver([desk.value(0)])
    desk.mailbox.taken([result])
    assert desk.mailbox.is_ready(result)


def test_a_value_that_nobody_holds_is_dropped(desk: Desk) -> None:
    late = desk.value(0)
    desk.mailbox.to_request(desk.ids)
    del desk.refs[0]
    desk.table.settle()
    desk.mailbox.deliver([late])
    assert desk.mailbox.values == {}
    assert late.object_id not in desk.mailbox.requested


def test_the_last_ref_takes_the_value_along(desk: Desk) -> None:
    desk.mailbox.deliver([desk.value(0)])
    desk.mailbox.mark_ready(desk.ids)
    desk.refs.clear()
    desk.table.settle()
    assert (desk.mailbox.values, desk.mailbox.ready) == ({}, set())


def test_watching_ends_when_the_object_is_ready(desk: Desk) -> None:
    first, second, _ = desk.ids
    assert desk.mailbox.to_watch([first, second]) == [first, second]
    assert desk.mailbox.to_watch([first]) == []
    desk.mailbox.mark_ready([first])
    assert desk.mailbox.is_ready(first) and not desk.mailbox.is_ready(second)
    assert desk.mailbox.watched == {second}


def test_callbacks_run_once_now_or_later(desk: Desk) -> None:
    seen: list[ObjectValue] = []
    assert not desk.mailbox.call_back(desk.ids[0], seen.append)
    desk.mailbox.deliver([desk.value(0)])
    desk.mailbox.deliver([desk.value(0)])
    assert desk.mailbox.call_back(desk.ids[0], seen.append)
    assert len(seen) == 2


def test_what_is_awaited_fails_with_the_node(desk: Desk) -> None:
    seen: list[ObjectValue] = []
    for object_id in desk.ids:
        desk.mailbox.call_back(object_id, seen.append)
    desk.mailbox.fail_all(b"gone", 2)
    assert [(each.object_id, each.kind, each.data) for each in seen] == [
        (object_id, 2, b"gone") for object_id in desk.ids
    ]
