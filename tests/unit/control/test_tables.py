"""Documents: readable, and enough to run a task again."""

from __future__ import annotations

import json

import msgspec
import pytest

from raydask.control import tables
from raydask.control.tables import ObjectEntry, TaskEntry, TaskEvent, decode, encode
from raydask.ids import IDSource, NodeNumber, ProcessNumber, function_id, return_id
from raydask.placement import LabelRule, Strategy
from raydask.task import ActorOptions, TaskKind, TaskSpec, TaskTemplate

IDS = IDSource(NodeNumber(1), ProcessNumber(2))

SPEC = TaskSpec(
    task_id=IDS.next_task_id(),
    template=5,
    args=b"\x80\x05pickled\xff",
    dependencies=[return_id(IDS.next_task_id(), 1)],
    borrowed=[IDS.next_put_id()],
    depth=3,
    parent=IDS.next_task_id(),
)

TEMPLATES = [
    TaskTemplate(function_id=function_id(b"f"), name="module.f"),
    TaskTemplate(
        function_id=function_id(b"C"),
        name="C",
        kind=TaskKind.ACTOR_CREATION,
        num_returns=2,
        resources={"CPU": 5_000, "GPU": 1, "disk": 123_456_789},
        max_retries=-1,
        retry_exceptions=b"\0\xff",
        timeout=1.5,
        priority=-3,
        writable=True,
        observed=True,
        actor=ActorOptions(name="counter", namespace="a", max_concurrency=4, detached=True),
        strategy=Strategy(
            "LABELS", 3, True, (LabelRule("a", "in", ("b",)),), (LabelRule("c", "exists"),), b"\1"
        ),
    ),
]


def entry_of(template: TaskTemplate) -> TaskEntry:
    return TaskEntry(
        id=SPEC.task_id.hex(),
        name=template.name,
        state="RUNNING",
        job=1,
        node=1,
        template=tables.template_entry(template),
        args=SPEC.args,
        dependencies=[each.hex() for each in SPEC.dependencies],
        borrowed=[each.hex() for each in SPEC.borrowed],
        depth=SPEC.depth,
        parent=SPEC.parent.hex(),
    )


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_document_is_the_lineage_of_its_task(template: TaskTemplate) -> None:
    found = decode(encode(entry_of(template)), TaskEntry)

    assert tables.template_of(found) == template
    assert tables.spec_of(found, 5) == SPEC


def test_a_document_has_every_field_of_spec_and_template() -> None:
    own = {"task_id", "template"}
    assert set(TaskSpec.__struct_fields__) - own <= set(TaskEntry.__struct_fields__)
    theirs = {"function_id", "name"}
    shared = set(tables.TemplateEntry.__struct_fields__)
    assert set(TaskTemplate.__struct_fields__) - theirs == shared - {"function"}
    assert ActorOptions.__struct_fields__ == tables.ActorOptionsEntry.__struct_fields__
    assert ActorOptions().__struct_config__.array_like
    assert msgspec.structs.asdict(ActorOptions()) == msgspec.structs.asdict(
        tables.ActorOptionsEntry()
    )


def test_documents_are_for_people() -> None:
    document = json.loads(encode(entry_of(TEMPLATES[1])))

    assert document["id"] == "00000001000000020000000000000001"
    assert document["state"] == "RUNNING"
    assert document["template"]["kind"] == "ACTOR_CREATION"
    assert document["template"]["resources"] == {"CPU": 0.5, "GPU": 0.0001, "disk": 12345.6789}
    assert document["template"]["actor"]["name"] == "counter"


def test_defaults_are_left_out() -> None:
    entry = ObjectEntry(id="00", state="pending", home=1)

    assert json.loads(encode(entry)) == {"id": "00", "state": "pending", "home": 1}


def test_fields_of_later_versions_are_passed_over() -> None:
    document = b'{"id": "00", "state": "inline", "home": 1, "colour": "green"}'

    assert decode(document, ObjectEntry) == ObjectEntry(id="00", state="inline", home=1)


@pytest.mark.parametrize("document", [b"", b"{}", b'{"id": "00", "state": "?", "home": 1}'])
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(document, ObjectEntry)


def test_text_that_is_not_unicode_is_made_so() -> None:
    event = TaskEvent("FAILED", 1.0, "00", "f", 1, 1, error="no file 'a\udcff'")

    assert decode(event.document(), TaskEvent).error == "no file 'a?'"
