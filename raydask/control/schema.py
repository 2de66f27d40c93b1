"""Every key of the control state: its value, its writer and readers, when it goes.

The keys are plain Redis strings, except the event stream.  Values are JSON documents
(``raydask.control.tables``) unless `TABLES` says otherwise, so that an operator can read
the state of a cluster with ``redis-cli``.

Invariants
----------
- One writer per key.  The node that is a task's home writes the task and its objects; the
  global scheduler writes nodes, actors, named actors and placement groups.
- An identifier stands in its key as lower-case hexadecimal, a number as decimal.
- A key lives on exactly one shard, and `shard_of` says which: a task and all its objects
  on one, by task id; functions by function id; everything else on shard 0.
- A change that an older version would misread raises `SCHEMA_VERSION`; a store refuses
  to open control state of another version.

A Redis that a session has started holds one cluster.  On an external one, all keys of a cluster
have its identity in front of what is said here (``control_place``).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from raydask.ids import (
    ActorID,
    FunctionID,
    NodeNumber,
    ObjectID,
    PlacementGroupID,
    TaskID,
)

SCHEMA_VERSION = 1

SCHEMA_KEY = "raydask:schema"
CLUSTER_KEY = "raydask:cluster"
EVENTS_KEY = "events"

TASK_PREFIX = "task:"
OBJECT_PREFIX = "object:"
FUNCTION_PREFIX = "function:"
JOB_PREFIX = "job:"
NODE_PREFIX = "node:"
ACTOR_PREFIX = "actor:"
NAMED_ACTOR_PREFIX = "named_actor:"
PLACEMENT_GROUP_PREFIX = "placement_group:"
COUNTER_PREFIX = "counter:"
EVENTS_APPENDED_PREFIX = "events_appended:"

_HEX_OF_HASHED_ID = 32
_HASHED_PREFIX_LENGTHS = {"t": len(TASK_PREFIX), "o": len(OBJECT_PREFIX), "f": len(FUNCTION_PREFIX)}


def task_key(task_id: TaskID) -> str:
    """Return the key of a task's document."""
    return "task:" + task_id.hex()


def object_key(object_id: ObjectID) -> str:
    """Return the key of an object's document."""
    return "object:" + object_id.hex()


def function_key(function_id: FunctionID) -> str:
    """Return the key of an exported function's pickle."""
    return "function:" + function_id.hex()


def job_key(number: int) -> str:
    """Return the key of a job's document."""
    return f"job:{number}"


def node_key(number: NodeNumber) -> str:
    """Return the key of a node's document."""
    return f"node:{number}"


def actor_key(actor_id: ActorID) -> str:
    """Return the key of an actor's document."""
    return "actor:" + actor_id.hex()


def named_actor_key(namespace: str, name: str) -> str:
    """Return the key under which a named actor is found."""
    return f"named_actor:{_quoted(namespace)}:{name}"


def placement_group_key(group_id: PlacementGroupID) -> str:
    """Return the key of a placement group's document."""
    return "placement_group:" + group_id.hex()


def counter_key(name: str) -> str:
    """Return the key of a counter."""
    return "counter:" + name


def events_appended_key(writer: str) -> str:
    """Return the key that says which append of `writer` to the event stream was the last."""
    return "events_appended:" + writer


def _quoted(namespace: str) -> str:
    # The namespace ends at the first colon that follows the prefix, so it may hold none.
    return namespace.replace("%", "%25").replace(":", "%3A")


def shard_of(key: str, shards: int) -> int:
    """Return the number of the shard that holds `key`, counted from 0.

    Parameters
    ----------
    key : str
    shards : int
        How many there are; the answer for a key changes with it.
    """
    if shards == 1:
        return 0
    start = _HASHED_PREFIX_LENGTHS.get(key[:1])
    if start is None or key[start - 1] != ":":
        return 0
    return zlib.crc32(key[start : start + _HEX_OF_HASHED_ID].encode()) % shards


class Table(NamedTuple):
    """What there is to know about one kind of key."""

    keys: str
    value: str
    writer: str
    readers: str
    deleted: str
    crash: str


TABLES: tuple[Table, ...] = (
    Table(
        keys="raydask:schema",
        value="the schema's version, a decimal number",
        writer="whoever opens the store first",
        readers="every process, when it opens the store",
        deleted="never",
        crash="nothing: it is written once, before anything else",
    ),
    Table(
        keys="raydask:cluster",
        value="the cluster's identity, random hexadecimal digits",
        writer="the first global scheduler",
        readers="every global scheduler, which tells it to the nodes",
        deleted="never",
        crash="nothing: it is whole or absent",
    ),
    Table(
        keys="task:<task id>",
        value="TaskEntry",
        writer="the node that is the task's home",
        readers="people",
        deleted="when the last reference to its returns is gone",
        crash="entries of a dead home stay",
    ),
    Table(
        keys="object:<object id>",
        value="ObjectEntry",
        writer="the node that is the object's home",
        readers="people",
        deleted="when the last reference to the object is gone",
        crash="as for tasks; a location that names a dead node counts as absent",
    ),
    Table(
        keys="function:<function id>",
        value="the pickled function or class, binary",
        writer="the node of the driver that exported it; equal content has an equal key",
        readers="none yet: code travels with tasks; what makes lost objects again will read it",
        deleted="when every job that exported it has ended",
        crash="nothing: it is whole or absent",
    ),
    Table(
        keys="job:<number>",
        value="JobEntry",
        writer="the node that the driver is connected to",
        readers="people",
        deleted="never: it is the record of what ran",
        crash="an entry in state RUNNING whose node is dead",
    ),
    Table(
        keys="node:<number>",
        value="NodeEntry",
        writer="the global scheduler",
        readers="a restarted global scheduler; people",
        deleted="never: a dead node stays, in state DEAD",
        crash="a restarted global scheduler marks as DEAD those that do not come back",
    ),
    Table(
        keys="actor:<actor id>",
        value="ActorEntry",
        writer="the global scheduler",
        readers="a restarted global scheduler; people",
        deleted="the oldest dead ones, once more than 1000 are dead",
        crash="a restarted global scheduler asks the nodes which of them still run",
    ),
    Table(
        keys="named_actor:<namespace>:<name>",
        value="NamedActorEntry",
        writer="the global scheduler",
        readers="a restarted global scheduler",
        deleted="when the actor is dead, or 30 s after the claim if it was never created",
        crash="a name whose actor is dead; a restarted global scheduler deletes it",
    ),
    Table(
        keys="placement_group:<group id>",
        value="PlacementGroupEntry",
        writer="the global scheduler",
        readers="a restarted global scheduler",
        deleted="when the group is removed, or ends with its job",
        crash="a restarted global scheduler compares it with what the nodes have reserved",
    ),
    Table(
        keys="counter:<name>",
        value="the last number handed out, decimal",
        writer="any process (INCR)",
        readers="none",
        deleted="never: a number is not used twice",
        crash="a gap: the number handed out last may have no user",
    ),
    Table(
        keys="events",
        value="a stream; the field 'event' of an entry is a TaskEvent",
        writer="the nodes",
        readers="people",
        deleted="the oldest entries, once there are more than 10,000",
        crash="nothing: an append is whole or absent",
    ),
    Table(
        keys="events_appended:<writer>",
        value="the number of the writer's last append to the stream, decimal",
        writer="the process that appends",
        readers="the same process, when it resends after a lost connection",
        deleted="by itself, ten minutes after the last append",
        crash="it expires",
    ),
)
"""The whole schema; ``docs/control_state.md`` shows it to operators."""
