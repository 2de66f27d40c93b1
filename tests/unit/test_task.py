"""Templates and specs cross the wire as they are, and new fields have defaults."""

from __future__ import annotations

import msgspec

from raydask.ids import FunctionID, IDSource, NodeNumber, ProcessNumber, return_id
from raydask.task import ActorOptions, TaskKind, TaskSpec, TaskTemplate

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def test_a_template_crosses_the_wire() -> None:
    template = TaskTemplate(
        FunctionID(bytes(16)),
        "module.f",
        TaskKind.ACTOR_CREATION,
        resources={"CPU": 15_000, "x": 1},
        retry_exceptions=b"",
        timeout=1.5,
        actor=ActorOptions(name="a", max_restarts=-1, detached=True),
    )
    data = msgspec.msgpack.encode(template)

    assert msgspec.msgpack.decode(data, type=TaskTemplate) == template


def test_a_spec_crosses_the_wire_in_few_bytes() -> None:
    task_id = IDS.next_task_id()
    spec = TaskSpec(task_id, 1, b"", [return_id(task_id, 0)], [])
    data = msgspec.msgpack.encode(spec)

    assert msgspec.msgpack.decode(data, type=TaskSpec) == spec
    assert len(data) < 64


def test_what_an_older_process_leaves_out_has_its_default() -> None:
    data = msgspec.msgpack.encode([bytes(16), "f"])

    assert msgspec.msgpack.decode(data, type=TaskTemplate) == TaskTemplate(
        FunctionID(bytes(16)), "f"
    )


def test_defaults_are_not_shared() -> None:
    one, two = (TaskTemplate(FunctionID(b""), name) for name in "ab")
    one.resources["CPU"] = 1

    assert two.resources == {}
