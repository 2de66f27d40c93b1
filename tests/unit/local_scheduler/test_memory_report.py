"""What a node says of its memory, one kind of holder at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydask.ids import (
    ActorID,
    FunctionID,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    creation_object,
    return_id,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.memory_report import MOST_LISTED, Surroundings, report
from raydask.task import TaskTemplate
from raydask.wire.memory import Holder, NodeMemory, ObjectMemory, Query
from raydask.wire.messages import ObjectValue, TaskStatus, ValueKind
from tests.unit.local_scheduler.node import ACTOR, DETACHED, DRIVER, IDS, PLAIN, Node

MINE = Holder("driver", "program.py", 4000)
PAGE = 4096


def ask(node: Node, query: Query | None = None, sites: Mapping[ObjectID, str] = {}) -> NodeMemory:
    """The node's report; process 1 is a driver, and each has a kilobyte for each of its pid."""
    drivers = {DRIVER: (4000, "program.py")}
    around = Surroundings(NodeNumber(1), "/session", 77, drivers, sites, lambda pid: pid * 1000)
    return report(node.core, around, query or Query())


def row(node: Node, object_id: ObjectID, **more: Any) -> ObjectMemory:
    """What the node says of one object."""
    (found,) = [each for each in ask(node, **more).objects if each.id == object_id.hex()]
    assert len(found.holders) == min(found.holds, MOST_LISTED)
    return found


def spill(node: Node) -> None:
    """Move what nobody reads from the object store to a file."""
    batch = node.core.store.next_batch(1 << 20, 1 << 20)
    assert batch is not None
    evicted = node.core.store.written(batch.file)
    node.core.objects.spilled(evicted, lambda number: f"/spill/{number}")


def test_a_node_that_does_nothing_has_nothing() -> None:
    found = ask(Node())

    assert (found.used, found.inline, found.tasks, found.objects, found.totals) == (0, 0, 0, [], {})
    assert [each.role for each in found.processes] == ["node", "driver"]


def test_what_is_put_is_held_by_its_process() -> None:
    node = Node()
    found = row(node, node.put(), sites={})

    assert (found.state, found.size, found.made_by) == ("inline", 1, "put by driver 4000")
    assert (found.holders, found.pinned_by, found.call_site) == ([MINE], [], "")


def test_a_call_site_is_told_where_it_is_known() -> None:
    node = Node()
    object_id = node.put()

    assert row(node, object_id, sites={object_id: "a.py:3 in f"}).call_site == "a.py:3 in f"


def test_the_states_of_a_task_s_return() -> None:
    node = Node(cpus=1)
    first = node.submit()
    second = node.submit(dependencies=[return_id(first, 0)])

    def made(object_id: ObjectID) -> tuple[str, str]:
        found = row(node, object_id)
        return found.state, found.made_by

    assert made(return_id(first, 0)) == ("pending", "task f, which waits for a worker")
    assert made(return_id(second, 0)) == ("pending", "task f, which waits for 1 of its inputs")
    node.workers(2)
    assert made(return_id(first, 0)) == ("pending", "task f in worker 2")
    node.end(2, first)
    node.end(2, second, status=TaskStatus.FAILED)
    assert made(return_id(first, 0)) == ("inline", "task f")
    assert made(return_id(second, 0)) == ("error", "task f")


def test_unfinished_tasks_hold_what_they_depend_on_and_borrow() -> None:
    node = Node()
    given, lent = node.put(), node.put()
    task_id = node.submit(dependencies=[given], borrowed=[lent])
    node.release(given, lent)

    assert row(node, given).holders == [Holder("argument", "f", 0, task_id.hex())]
    assert row(node, lent).holders == [Holder("borrowed", "f", 0, task_id.hex())]
    node.workers(2)
    assert row(node, given).holders == [Holder("argument", "f", 2, task_id.hex())]
    node.end(2, task_id)
    assert [each.id for each in ask(node).objects] == [return_id(task_id, 0).hex()]


def test_a_value_holds_what_it_contains() -> None:
    node = Node()
    inner = node.put()
    outer = node.put(nested=[inner, inner])
    node.release(inner)

    assert row(node, inner).holders == [Holder("object", "", 0, outer.hex())] * 2


def test_an_exported_function_holds_what_its_closure_refers_to() -> None:
    node = Node()
    object_id = node.put()
    node.tell(events.FunctionExported(DRIVER, FunctionID(b"f"), b"code", "closes", [object_id]))

    assert Holder("function", "closes", 0, b"f".hex()) in row(node, object_id).holders


def test_an_actor_holds_what_it_was_created_with() -> None:
    node = Node()
    node.workers(2)
    given = node.put()
    task_id = node.submit(ACTOR, [given])
    node.place(task_id)
    node.end(2, task_id)
    node.release(given)

    assert row(node, given).holders == [Holder("argument", "A", 2, task_id.hex())]
    assert row(node, creation_object(ActorID(task_id))).made_by == "actor A"
    (worker,) = [each for each in ask(node).processes if each.role == "worker"]
    assert (worker.name, worker.pid, worker.private) == ("actor A", 2, 2000)


def test_a_detached_actor_holds_itself() -> None:
    node = Node()
    task_id = node.submit(DETACHED)
    object_id = creation_object(ActorID(task_id))
    node.release(object_id)

    assert row(node, object_id).holders == [Holder("actor", "A", 0, task_id.hex())]


def test_the_result_of_an_actor_s_call_is_pending_until_it_is_put() -> None:
    node = Node()
    object_id = ObjectID(IDS.next_task_id() + bytes(4))
    node.tell(events.ObjectsPromised(DRIVER, [object_id]))

    assert row(node, object_id).made_by == "call of an actor's method"


def test_what_a_process_that_has_ended_put_is_held_by_others() -> None:
    node = Node()
    node.workers(2)
    object_id = ObjectID((1).to_bytes(4, "big") + (2).to_bytes(4, "big") + bytes(8) + b"\x80\0\0\0")
    value = ObjectValue(object_id, ValueKind.INLINE, b"x")
    node.tell(events.ObjectsPut(ProcessNumber(2), ProcessNumber(2), [value]))
    node.tell(events.ObjectsAcquired(DRIVER, [object_id]))
    node.leave(2)

    found = row(node, object_id)
    assert found.made_by == "put by a process that has ended"
    assert found.holders == [MINE]


def test_stored_objects_are_pinned_by_who_reads_them() -> None:
    node = Node()
    node.workers(2)
    object_id = node.store(PAGE)
    assert (row(node, object_id).state, row(node, object_id).pinned_by) == ("shared_memory", [])

    node.tell(events.ValuesRequested(DRIVER, [object_id, object_id], False, []))
    task_id = node.submit(dependencies=[object_id])
    running = Holder("argument", "f", 2, task_id.hex())
    assert row(node, object_id).pinned_by == [MINE, running]
    (driver,) = [each for each in ask(node).processes if each.role == "driver"]
    assert (driver.pinned, driver.pinned_bytes) == (1, PAGE)
    (worker,) = [each for each in ask(node).processes if each.role == "worker"]
    assert (worker.name, worker.pinned, worker.pinned_bytes) == ("task f", 1, PAGE)
    node.end(2, task_id)
    node.tell(events.ObjectsUnpinned(DRIVER, [object_id, object_id]))
    assert row(node, object_id).pinned_by == []


def test_spilled_objects_are_on_disk_and_pinned_by_nobody() -> None:
    node = Node()
    first, second = node.store(PAGE), node.store(2 * PAGE)
    before = ask(node)
    assert (before.sealed, before.spilled, before.spilled_files) == (3 * PAGE, 0, 0)

    spill(node)
    found = ask(node)
    assert {row(node, each).state for each in (first, second)} == {"spilled"}
    assert row(node, second).size == 2 * PAGE
    assert (found.sealed, found.spilled, found.spilled_files) == (0, 3 * PAGE, 1)
    assert found.totals["spilled"].count == 2


def test_totals_are_of_all_objects_whatever_is_listed() -> None:
    node = Node()
    node.put()
    node.put()
    node.store(PAGE)
    node.submit()
    found = ask(node, Query(limit=0))

    totals = {state: (total.count, total.size) for state, total in found.totals.items()}
    assert totals == {"inline": (2, 2), "shared_memory": (1, PAGE), "pending": (1, 0)}
    assert (found.inline, found.sealed, found.tasks, found.objects) == (2, PAGE, 1, [])
    assert found.used == found.sealed + found.unsealed


def test_objects_are_listed_in_the_order_asked_for() -> None:
    node = Node()
    old = node.put()
    large = node.store(PAGE)
    wanted = node.put(nested=[old])
    node.submit(dependencies=[wanted])

    def first(query: Query) -> str:
        return ask(node, query).objects[0].id

    assert first(Query("size", 1)) == large.hex()
    assert first(Query("age", 1)) == old.hex()
    assert len(ask(node, Query("age")).objects) == 4
    assert ask(node, Query("holders", 2)).objects[0].holds == 2


def test_of_very_many_holders_the_first_are_listed() -> None:
    node = Node()
    object_id = node.put()
    node.put(nested=[object_id] * (2 * MOST_LISTED))
    found = row(node, object_id)

    assert (found.holds, len(found.holders)) == (2 * MOST_LISTED + 1, MOST_LISTED)


def test_arguments_that_tasks_bring_along_are_counted() -> None:
    node = Node()
    task_id = node.submit(TaskTemplate(PLAIN.function_id, "g"))
    node.core.tasks[task_id].spec.args = b"packed"

    assert ask(node).arguments == 6
