"""The table of call sites forgets what no object has, and never grows without an end."""

from __future__ import annotations

from raydask.ids import ObjectID
from raydask.local_scheduler.call_sites import KEPT_UNKNOWN, CallSiteTable


def ids(count: int, kind: bytes = b"u") -> list[ObjectID]:
    return [ObjectID(kind + number.to_bytes(8, "big")) for number in range(count)]


def test_a_site_is_known_before_and_after_its_object() -> None:
    known = set(ids(1))
    table = CallSiteTable(known)
    table.note("a.py:1 in f", ids(2))

    assert table.sites == dict.fromkeys(ids(2), "a.py:1 in f")


def test_sites_of_objects_that_exist_are_kept_and_of_others_the_latest() -> None:
    known = ids(10, b"k")
    table = CallSiteTable(frozenset(known))
    table.note("here", known)
    unknown = ids(5 * KEPT_UNKNOWN)
    for each in unknown:
        table.note("there", [each])
        assert len(table.sites) <= 2 * (KEPT_UNKNOWN + len(known))

    assert set(known) <= table.sites.keys()
    assert set(unknown[-KEPT_UNKNOWN:]) <= table.sites.keys()
    assert unknown[0] not in table.sites


def test_many_objects_that_exist_are_all_kept() -> None:
    known = ids(6 * KEPT_UNKNOWN)
    table = CallSiteTable(frozenset(known))
    for each in known:
        table.note("here", [each])

    assert len(table.sites) == len(known)
