"""What has to be in the control state before something is said to another node."""

from __future__ import annotations

from typing import Any

from raydask.control.write_behind_state import FixedDocument, WriteBehindState
from raydask.ids import FunctionID, ObjectID, TaskID, return_id
from raydask.local_scheduler import events
from raydask.local_scheduler.lineage import Hurry, Lineage
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import JobSettings, ObjectValue
from tests.unit.local_scheduler.node import DRIVER, IDS, PLAIN, Node


class Asked:
    """Asks for nothing, and notes what it is told to ask for."""

    def __init__(self, node: Node) -> None:
        self.entries: list[Any] = []
        self.number = 0
        core = node.core
        hurry = Hurry(self._ask, self._ask, self._ask)
        self._lineage = Lineage(core.tasks, core.objects.records, core.pool.functions, hurry)

    def _ask(self, identifier: Any) -> int:
        self.entries.append(identifier)
        self.number += 1
        return self.number

    def of(self, message: object) -> set[Any]:
        self.entries.clear()
        self.last = self._lineage.of(message)
        return set(self.entries)


FUNCTION = PLAIN.function_id


def lend(*task_ids: TaskID, values: list[ObjectValue] | None = None) -> wire.Lend:
    specs = [TaskSpec(task_id, 1, b"", [], []) for task_id in task_ids]
    return wire.Lend(JobSettings(101, "", [], "/"), [], specs, values or [], [])


def result_of(task_id: TaskID) -> ObjectID:
    return return_id(task_id, 0)


def test_a_task_goes_with_those_that_made_its_inputs_and_theirs() -> None:
    node = Node()
    put = node.put()
    first = node.submit(dependencies=[put])
    second = node.submit(borrowed=[result_of(first)])
    third = node.submit(dependencies=[result_of(second)])
    node.submit()
    asked = Asked(node)

    assert asked.of(lend(third)) == {first, second, third, put, FUNCTION}
    assert asked.last == asked.number


def test_what_was_asked_for_costs_nothing_and_is_still_waited_for() -> None:
    node = Node()
    first = node.submit()
    second = node.submit(dependencies=[result_of(first)])
    asked = Asked(node)
    asked.of(lend(second))
    number = asked.last

    assert asked.of(lend(second)) == set()
    assert asked.last == number
    assert asked.of(wire.Values([ObjectValue(result_of(first), 0)])) == set()
    assert asked.last == number, "it was asked for together with the other"


def test_a_function_takes_along_what_it_refers_to() -> None:
    node = Node()
    inner = node.submit()
    function = FunctionID(b"closure")
    node.tell(events.FunctionExported(DRIVER, function, b"code", "g", [result_of(inner)]))
    outer = node.submit(TaskTemplate(function, "g", resources={"CPU": 10_000}))
    asked = Asked(node)

    assert asked.of(lend(outer)) == {outer, inner, function, FUNCTION}


def test_a_value_takes_along_the_refs_in_it() -> None:
    node = Node()
    inner = node.submit()
    outer = node.put(nested=[result_of(inner)])
    asked = Asked(node)

    value = ObjectValue(outer, 0, b"x", nested=[result_of(inner)])
    assert asked.of(wire.Values([value])) == {outer, inner, FUNCTION}
    assert asked.of(wire.Located([wire.Whereabouts(outer, 1, [1])])) == {outer}


def test_the_refs_in_a_stored_value_are_known_from_its_record() -> None:
    node = Node()
    inner = node.submit()
    outer = node.put(nested=[result_of(inner)])

    asked = Asked(node)
    place = wire.Whereabouts(outer, 1, [1])
    assert asked.of(wire.Located([place])) == {outer, inner, FUNCTION}
    asked = Asked(node)
    message = wire.Lend(JobSettings(101, "", [], "/"), [], [], [], [place])
    assert asked.of(message) == {outer, inner, FUNCTION}


def test_results_of_guests_take_along_the_refs_in_them_and_not_themselves() -> None:
    node = Node()
    inner = node.submit()
    foreign = TaskID(b"\0\0\0\2" + bytes(12))
    value = ObjectValue(result_of(foreign), 0, b"x", nested=[result_of(inner)])
    asked = Asked(node)

    message = wire.LentResults([wire.TaskResult(foreign, 0, [value], 0.0, 0.0)])
    assert asked.of(message) == {inner, FUNCTION}


def test_what_an_actor_made_for_another_node_takes_along_the_refs_in_it() -> None:
    node = Node()
    inner = node.submit()
    foreign = TaskID(b"\0\0\0\2" + bytes(12))
    value = ObjectValue(result_of(foreign), 0, b"x", nested=[result_of(inner)])
    asked = Asked(node)

    assert asked.of(wire.ReturnValues(1, [value])) == {inner, FUNCTION}


def test_other_messages_depend_on_nothing() -> None:
    node = Node()
    task = node.submit()
    asked = Asked(node)

    assert asked.of(wire.Want([result_of(task)])) == set()
    assert asked.last == 0


def test_a_long_chain_is_no_matter() -> None:
    node = Node()
    chain = [node.submit()]
    specs = []
    for _ in range(5_000):
        specs.append(TaskSpec(IDS.next_task_id(), 0, b"", [result_of(chain[-1])], []))
        chain.append(specs[-1].task_id)
    node.tell(events.TasksSubmitted(DRIVER, [], specs))
    asked = Asked(node)

    assert asked.of(lend(chain[-1])) == {*chain, FUNCTION}


def test_what_is_remembered_goes_with_the_tasks() -> None:
    node = Node()
    asked = Asked(node)
    for _ in range(30):
        tasks = [node.submit() for _ in range(100)]
        for task in tasks:
            asked.of(lend(task))
        node.release(*map(result_of, tasks))
        node.tell(events.CancelRequested(DRIVER, tasks, False, False))

    assert len(asked._lineage._asked) < 1_500


def test_real_tables_give_numbers_that_are_collected() -> None:
    node = Node()
    task = node.submit()
    state = WriteBehindState(1.0, 10)
    tasks = state.table(lambda identifier: f"task:{identifier.hex()}")
    objects = state.table(lambda identifier: f"object:{identifier.hex()}")
    functions = state.table(lambda identifier: f"function:{identifier.hex()}")
    tasks.put(task, FixedDocument(b"t"))
    functions.put(FUNCTION, FixedDocument(b"f"))
    core = node.core
    hurry = Hurry(tasks.hurry, objects.hurry, functions.hurry)
    lineage = Lineage(core.tasks, core.objects.records, core.pool.functions, hurry)

    number = lineage.of(lend(task))
    batch = state.collect(0.0, 10)

    assert batch is not None and len(batch.puts) == 2
    assert state.urgent.collected >= number > 0
    assert lineage.of(lend(task)) == number
