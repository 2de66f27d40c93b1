"""Identifiers: who made a thing, and therefore which node to ask about it.

An identifier is a short byte string whose first bytes name its origin, so nobody ever
looks up the home of a task or of an object: it is in the identifier.

====================  =====  ======================================================
identifier            bytes  layout
====================  =====  ======================================================
``TaskID``               16  node number (4) | process number (4) | counter (8)
``ObjectID``             20  ``TaskID`` (16) | index (4)
``ActorID``              16  the ``TaskID`` of the task that creates the actor
``FunctionID``           16  BLAKE2b digest of the pickled function
``PlacementGroupID``     16  a ``TaskID`` that its process has used for no task
====================  =====  ======================================================

All numbers are big-endian and unsigned.  Indexes below ``PUT_INDEX`` are returns of the
task; indexes from ``PUT_INDEX`` on are objects that a process put under its root task
(the one whose counter is 0).  No random bytes, no clock: an identifier costs one
addition and one concatenation.

The types are distinct to the type checker and plain ``bytes`` at run time: they are
dictionary keys on every hot path, and they travel on the wire as they are.
"""

from __future__ import annotations

import itertools
from typing import NewType

try:
    # What hashlib has, without OpenSSL, which hashlib loads in 4 ms and 3 MB.
    from _blake2 import blake2b
except ImportError:  # a Python that was built without
    from hashlib import blake2b

NodeNumber = NewType("NodeNumber", int)
"""A node's number in its cluster; handed out by the control state, never reused."""

ProcessNumber = NewType("ProcessNumber", int)
"""A driver's or worker's number on its node; handed out by the node, never reused."""

TaskID = NewType("TaskID", bytes)
ObjectID = NewType("ObjectID", bytes)
ActorID = NewType("ActorID", bytes)
FunctionID = NewType("FunctionID", bytes)
PlacementGroupID = NewType("PlacementGroupID", bytes)

TASK_ID_SIZE = 16
FUNCTION_ID_SIZE = 16

PUT_INDEX = 1 << 31
"""First object index that is a ``put`` rather than a task's return."""

_INDEX_SUFFIXES = tuple(index.to_bytes(4, "big") for index in range(64))


class IDSource:
    """Makes the identifiers of one process.

    Safe to use from several threads: each counter is one atomic ``next``.
    """

    __slots__ = ("_prefix", "_put_indexes", "_root", "_task_counters")

    def __init__(self, node: NodeNumber, process: ProcessNumber) -> None:
        self._prefix = node.to_bytes(4, "big") + process.to_bytes(4, "big")
        self._root = self._prefix + bytes(8)
        self._task_counters = itertools.count(1).__next__
        self._put_indexes = itertools.count(PUT_INDEX).__next__

    def next_task_id(self) -> TaskID:
        """Return a task identifier that this process has not used before."""
        return TaskID(self._prefix + self._task_counters().to_bytes(8, "big"))

    def next_put_id(self) -> ObjectID:
        """Return an object identifier for a value that this process puts."""
        return ObjectID(self._root + self._put_indexes().to_bytes(4, "big"))

    @property
    def root_task_id(self) -> TaskID:
        """The identifier that stands for the process itself."""
        return TaskID(self._root)


def return_id(task_id: TaskID, index: int) -> ObjectID:
    """Return the identifier of a task's return number `index`, counted from 0."""
    suffix = _INDEX_SUFFIXES[index] if index < 64 else index.to_bytes(4, "big")
    return ObjectID(task_id + suffix)


def task_of(object_id: ObjectID) -> TaskID:
    """Return the task whose return (or whose process's put) the object is."""
    return TaskID(object_id[:TASK_ID_SIZE])


def index_of(object_id: ObjectID) -> int:
    """Return the object's index under its task."""
    return int.from_bytes(object_id[TASK_ID_SIZE:], "big")


def is_put(object_id: ObjectID) -> bool:
    """Say whether the object was put, so that no task can make it again."""
    return object_id[TASK_ID_SIZE] >= 0x80


def home_of(identifier: TaskID | ObjectID | ActorID | PlacementGroupID) -> NodeNumber:
    """Return the number of the node where the identifier was made."""
    return NodeNumber(int.from_bytes(identifier[:4], "big"))


_JOBS_OF_A_NODE = 65536


def job_number(node: int, count: int) -> int:
    """Return the number of a node's job, by its count on that node, from 1."""
    return node * _JOBS_OF_A_NODE + count


def home_of_job(job: int) -> NodeNumber:
    """Return the node that the job's driver is, or was, connected to."""
    return NodeNumber(job // _JOBS_OF_A_NODE)


def process_of(identifier: TaskID | ObjectID | ActorID) -> ProcessNumber:
    """Return the number of the process that made the identifier."""
    return ProcessNumber(int.from_bytes(identifier[4:8], "big"))


_PEERS = 1 << 32
"""Process numbers from here on stand for other nodes; none of them is in an identifier."""


def peer_process(node: int) -> ProcessNumber:
    """Return the number under which a node counts another one among its processes."""
    return ProcessNumber(_PEERS + node)


def is_peer(process: ProcessNumber) -> bool:
    """Say whether the number stands for another node."""
    return process >= _PEERS


def node_of_peer(process: ProcessNumber) -> NodeNumber:
    """Return the node that the number stands for."""
    return NodeNumber(process - _PEERS)


def creation_object(actor_id: ActorID) -> ObjectID:
    """Return the object that stands for the actor: it is ready when ``__init__`` returned.

    Whoever holds the actor holds this object; when nobody does, the actor ends.
    """
    return ObjectID(actor_id + _INDEX_SUFFIXES[0])


def actor_of(task_id: TaskID) -> ActorID:
    """Return the actor that the creation task `task_id` makes."""
    return ActorID(task_id)


def function_id(pickled: bytes) -> FunctionID:
    """Return the content hash under which a pickled function is exported."""
    return FunctionID(blake2b(pickled, digest_size=FUNCTION_ID_SIZE).digest())
