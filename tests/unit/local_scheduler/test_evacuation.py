"""What a node brings home of what others keep for it that leave."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber, return_id
from raydask.local_scheduler.evacuation import Evacuation
from raydask.local_scheduler.records import ObjectRecord, Remote
from raydask.wire.messages import Forget, ObjectValue, ValueKind

_IDS = IDSource(NodeNumber(1), ProcessNumber(1))


class Home:
    """The parts of a home that an evacuation has to do with."""

    def __init__(self) -> None:
        self.records: dict[ObjectID, ObjectRecord] = {}
        self.wanted: list[ObjectID] = []
        self.said: list[tuple[int, Any]] = []
        self.evacuation = Evacuation(self, self, self._tell)  # type: ignore[arg-type]

    def _tell(self, node: int, message: object) -> None:
        self.said.append((node, message))

    def want(self, record: ObjectRecord, *, urgent: bool) -> None:
        assert not urgent
        self.wanted.append(record.object_id)

    def kept_by(self, *nodes: int) -> ObjectRecord:
        """An object that the first of the nodes keeps, and the others have copies of."""
        record = ObjectRecord(return_id(_IDS.next_task_id(), 0), None)
        record.remote = Remote(is_ours=True)
        record.remote.exists = True
        record.remote.kept_by = nodes[0]
        record.remote.nodes = dict.fromkeys(nodes, True)
        self.records[record.object_id] = record
        return record


def come(record: ObjectRecord) -> None:
    record.value = ObjectValue(record.object_id, int(ValueKind.STORED), size=10)


@pytest.fixture
def home() -> Home:
    return Home()


def test_what_the_node_keeps_is_brought_and_then_forgotten_there(home: Home) -> None:
    record, other = home.kept_by(2, 3), home.kept_by(3, 2)
    home.evacuation.begin(2)
    assert home.wanted == [record.object_id]
    assert home.evacuation.is_busy

    come(record)
    home.evacuation.arrived(record)
    assert home.said == [(2, Forget([record.object_id]))]
    assert record.remote is not None and record.remote.nodes == {3: True}
    assert not home.evacuation.is_busy
    assert other.object_id not in home.wanted


def test_what_is_here_already_is_only_forgotten_there(home: Home) -> None:
    record = home.kept_by(2)
    come(record)
    home.evacuation.begin(2)
    assert (home.wanted, home.said) == ([], [(2, Forget([record.object_id]))])


def test_results_that_come_later_are_brought_too(home: Home) -> None:
    home.evacuation.begin(2)
    record = home.kept_by(2)
    home.evacuation.bring([record])
    assert home.wanted == [record.object_id]


def test_what_was_given_up_is_wanted_again_unless_it_has_gone(home: Home) -> None:
    kept, gone = home.kept_by(2), home.kept_by(2)
    home.evacuation.begin(2)
    home.wanted.clear()
    del home.records[gone.object_id]
    home.evacuation.balance(1.0)
    assert home.wanted == [kept.object_id]
    home.evacuation.balance(1.01)
    assert home.wanted == [kept.object_id]
    home.evacuation.balance(2.0)
    assert home.wanted == [kept.object_id] * 2


def test_nothing_is_awaited_of_who_has_gone(home: Home) -> None:
    home.kept_by(2)
    home.evacuation.begin(2)
    home.evacuation.node_lost(2)
    assert (home.evacuation.is_busy, home.evacuation.leaving) == (False, set())
