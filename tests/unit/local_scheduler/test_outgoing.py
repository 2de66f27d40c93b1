"""How what a core says is cut into messages."""

from __future__ import annotations

from raydask.ids import ObjectID
from raydask.local_scheduler.outgoing import parts_of
from raydask.wire.messages import ObjectValue


def values(*sizes: int) -> list[ObjectValue]:
    return [ObjectValue(ObjectID(bytes(20)), 0, bytes(size)) for size in sizes]


def test_many_large_values_are_several_messages_in_order() -> None:
    given = values(*[100_000] * 25)
    parts = parts_of(given)
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [value for part in parts for value in part] == given


def test_small_or_few_values_are_one_message() -> None:
    assert len(parts_of(values(*[10] * 10_000))) == 1
    assert len(parts_of(values(*[500_000] * 8))) == 1


def test_a_value_is_never_cut() -> None:
    parts = parts_of(values(*[10] * 8, 3 << 20, *[10] * 8))
    assert [len(part) for part in parts] == [8, 1, 8]
