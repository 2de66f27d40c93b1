"""Keys: where they lie, and that the page for operators tells the truth about them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from raydask.control import schema, tables
from raydask.ids import (
    ActorID,
    IDSource,
    NodeNumber,
    ProcessNumber,
    function_id,
    return_id,
)

PAGE = Path(__file__).parents[3].joinpath("docs", "control_state.md").read_text("utf-8")

TASK = IDSource(NodeNumber(1), ProcessNumber(2)).next_task_id()

KEYS = {
    "task:<task id>": schema.task_key(TASK),
    "object:<object id>": schema.object_key(return_id(TASK, 3)),
    "function:<function id>": schema.function_key(function_id(b"code")),
    "job:<number>": schema.job_key(7),
    "node:<number>": schema.node_key(NodeNumber(7)),
    "actor:<actor id>": schema.actor_key(ActorID(TASK)),
    "named_actor:<namespace>:<name>": schema.named_actor_key("space", "name"),
    "placement_group:<group id>": schema.placement_group_key(TASK),
    "counter:<name>": schema.counter_key("jobs"),
    "events_appended:<writer>": schema.events_appended_key("writer"),
    "events": schema.EVENTS_KEY,
    "raydask:schema": schema.SCHEMA_KEY,
    "raydask:cluster": schema.CLUSTER_KEY,
}


def test_keys_are_readable() -> None:
    assert KEYS["task:<task id>"] == "task:00000001000000020000000000000001"
    assert KEYS["object:<object id>"] == "object:0000000100000002000000000000000100000003"
    assert KEYS["job:<number>"] == "job:7"
    assert KEYS["named_actor:<namespace>:<name>"] == "named_actor:space:name"


def test_every_kind_of_key_is_in_the_schema() -> None:
    assert {table.keys for table in schema.TABLES} == set(KEYS)
    for pattern, key in KEYS.items():
        assert re.fullmatch(re.sub(r"<.*?>", "[^:]+", pattern), key)


def test_every_prefix_is_that_of_its_keys() -> None:
    prefixes = {value for name, value in vars(schema).items() if name.endswith("_PREFIX")}

    assert prefixes == {key.partition("<")[0] for key in KEYS if "<" in key}


def test_a_namespace_ends_where_the_name_begins() -> None:
    keys = {
        schema.named_actor_key(namespace, name)
        for namespace, name in [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a%b", "c"), ("", "")]
    }

    assert len(keys) == 5


@pytest.mark.parametrize("shards", [1, 2, 3, 16])
def test_a_task_and_its_objects_are_on_one_shard(shards: int) -> None:
    ids = IDSource(NodeNumber(1), ProcessNumber(1))
    used = set()
    for _ in range(200):
        task = ids.next_task_id()
        shard = schema.shard_of(schema.task_key(task), shards)
        used.add(shard)
        for index in (0, 1, 1 << 31):
            assert schema.shard_of(schema.object_key(return_id(task, index)), shards) == shard
    assert used == set(range(shards))


def test_functions_are_spread_and_the_rest_is_on_shard_0() -> None:
    functions = [schema.function_key(function_id(b"%d" % number)) for number in range(100)]
    hashed = ("task:", "object:", "function:")

    assert {schema.shard_of(key, 3) for key in functions} == {0, 1, 2}
    assert {schema.shard_of(key, 3) for key in KEYS.values() if not key.startswith(hashed)} == {0}


@pytest.mark.parametrize("table", schema.TABLES, ids=lambda table: table.keys)
def test_the_page_shows_every_table(table: schema.Table) -> None:
    row = f"| `{table.keys}` | {table.value} | {table.writer} | {table.readers} | {table.deleted} |"

    assert row in PAGE
    assert f"| `{table.keys}` | {table.crash} |" in PAGE


@pytest.mark.parametrize(
    "entry",
    [
        tables.JobEntry,
        tables.NodeEntry,
        tables.TaskEntry,
        tables.TemplateEntry,
        tables.ActorOptionsEntry,
        tables.StrategyEntry,
        tables.LabelRuleEntry,
        tables.ObjectEntry,
        tables.ActorEntry,
        tables.NamedActorEntry,
        tables.PlacementGroupEntry,
        tables.TaskEvent,
    ],
)
def test_the_page_shows_every_field(entry: type[msgspec.Struct]) -> None:
    _, _, section = PAGE.partition(f"### {entry.__name__}\n")
    shown = re.findall(r"^\| `(\w+)` \|", section.partition("\n### ")[0], re.MULTILINE)

    assert shown == [field.name for field in msgspec.structs.fields(entry)]


def test_the_page_names_the_version() -> None:
    assert f"schema version {schema.SCHEMA_VERSION}" in PAGE
