"""What a node answers when it is asked where its memory is.

Structs with names, because they are also what ``raydask memory --json`` prints.  All sizes are
in bytes, all identifiers in hexadecimal, as the control state shows them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ObjectState = Literal["pending", "inline", "shared_memory", "spilled", "error"]
HolderRole = Literal[
    "driver", "worker", "node", "argument", "borrowed", "actor", "object", "function"
]
Order = Literal["size", "age", "holders"]


class Query(msgspec.Struct, array_like=True):
    """Which objects to list: the first `limit` in an order, or all.

    Attributes
    ----------
    order : str
        ``"size"``: the largest first; ``"age"``: the oldest first; ``"holders"``: those with the
        most holders first.
    limit : int or None
    """

    order: Order = "size"
    limit: int | None = None


class Holder(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that keeps an object alive, or where it is.

    Attributes
    ----------
    role : str
        ``driver`` or ``worker``: a process has refs or views; ``node``: another node counts as
        a holder, for what holds it there; ``argument``: an unfinished task depends on it, or a
        living actor was created with it; ``borrowed``: its ref is somewhere in such arguments;
        ``actor``: a detached actor, which holds itself; ``object``: a value contains its ref;
        ``function``: the closure of an exported function does.
    name : str
        The driver's program, what the worker runs, the other node's number, the task or the
        function.
    pid : int
        Of the process; for a task that of its worker, 0 if it has none.
    id : str
        Of the task, object or function.
    """

    role: HolderRole
    name: str = ""
    pid: int = 0
    id: str = ""


class ObjectMemory(msgspec.Struct, gc=False):
    """One object.

    Attributes
    ----------
    id : str
    size : int
        Of the serialized value; 0 while there is none.
    state : str
        pending: there is no value yet; inline and error: in the node's memory; shared_memory:
        in the object store; spilled: in a file.
    made_by : str
        The task, call or ``put`` that makes or made it.
    call_site : str
        Where in a program that was called; empty unless ``record_call_sites`` is set.
    holds : int
        How many hold it.
    holders : list of Holder
        Which, the first hundred of them.
    pinned_by : list of Holder
        The processes that read it, and the running tasks that were given it: as long as there
        are any, it stays in shared memory.
    """

    id: str
    size: int
    state: ObjectState
    made_by: str
    call_site: str
    holds: int
    holders: list[Holder]
    pinned_by: list[Holder]


class ProcessMemory(msgspec.Struct):
    """One process.

    Attributes
    ----------
    pid : int
    role : str
        ``node``, ``driver`` or ``worker``.
    name : str
        The driver's program, or what the worker runs.
    private : int
        Memory that is its alone, without shared memory.
    held, held_bytes : int
        How many objects it holds, and their sizes together.
    pinned, pinned_bytes : int
        How many of the objects in shared memory it reads, and their sizes together.
    """

    pid: int
    role: str
    name: str
    private: int
    held: int = 0
    held_bytes: int = 0
    pinned: int = 0
    pinned_bytes: int = 0


class StateTotal(msgspec.Struct):
    """How many objects are in a state, and their sizes together."""

    count: int = 0
    size: int = 0


class NodeMemory(msgspec.Struct):
    """One node.

    Attributes
    ----------
    node : int
    session : str
        The session's folder.
    capacity : int
        Of the object store.
    used : int
        What of it is taken: `sealed` by objects, `unsealed` by regions that processes have to
        write in.
    sealed, unsealed : int
    spilled, spilled_files : int
        Bytes of the objects on disk, and the files they are in.
    inline : int
        Values and errors in the node's own memory.
    arguments : int
        Arguments of the tasks that the node remembers, in its own memory.
    tasks : int
        How many tasks it remembers.
    totals : dict of str to StateTotal
        The objects by their state.
    processes : list of ProcessMemory
    objects : list of ObjectMemory
        As many as were asked for.
    """

    node: int
    session: str
    capacity: int
    used: int
    sealed: int
    unsealed: int
    spilled: int
    spilled_files: int
    inline: int
    arguments: int
    tasks: int
    totals: dict[ObjectState, StateTotal]
    processes: list[ProcessMemory]
    objects: list[ObjectMemory]


class MemoryReport(msgspec.Struct):
    """Where the memory is.

    Attributes
    ----------
    nodes : list of NodeMemory
        One: that which was asked.
    """

    nodes: list[NodeMemory]
