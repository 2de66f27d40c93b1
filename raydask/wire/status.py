"""What a node says of itself and of the others, for people and programs that watch over it."""

from __future__ import annotations

import msgspec


class NodeStatus(msgspec.Struct):
    """One node.

    Attributes
    ----------
    node : int
    alive : bool
    resources, available : dict of str to float
        What it offers, and what of that is free; memory is in bytes.
    object_store_memory, object_store_used : int
        Bytes.
    tasks, objects : int
        How many it knows.
    queued : int
        Tasks that could run and wait for its resources.
    infeasible : int
        Tasks and actors that ask for more than any node has.
    workers, drivers : int
        Processes.
    session : str
        The session's folder, on its own machine.
    versions : dict of str to str
        Of what its processes run, by names of ``raydask.wire.versions``.
    sent : int
        Bytes of objects that it has sent to other nodes, since it started.
    """

    node: int
    alive: bool
    resources: dict[str, float]
    available: dict[str, float]
    object_store_memory: int = 0
    object_store_used: int = 0
    tasks: int = 0
    objects: int = 0
    queued: int = 0
    infeasible: int = 0
    workers: int = 0
    drivers: int = 0
    session: str = ""
    versions: dict[str, str] = {}
    sent: int = 0
