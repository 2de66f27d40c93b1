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
        Tasks, actors and placement groups that wait for nodes that could have them, because
        those there are cannot.
    workers, drivers : int
        Processes.
    session : str
        The session's folder, on its own machine.  Empty: the head of the cluster does not
        answer, and this is what the node that was asked has last heard of another; whether
        that is still alive, and all that has a default here, is not known.
    versions : dict of str to str
        Of what its processes run, by names of ``raydask.wire.versions``.
    sent : int
        Bytes of objects that it has sent to other nodes, since it started.
    labels : dict of str to str
        Those that it was started with.
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
    labels: dict[str, str] = {}
