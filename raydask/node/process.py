"""The node process: local scheduler, object store and their event loop.

The node of a session that began a cluster connects to the global scheduler and to Redis through
unix sockets; one that has joined a cluster, through the port at which its head listens.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from raydask.config import SessionOptions
from raydask.control.control_place import ControlPlace
from raydask.control.redis_store import RedisStore
from raydask.control.store import ControlStoreError
from raydask.control.write_behind import WriteBehind
from raydask.local_scheduler.server import NodeIdentity, NodeServer
from raydask.object_store.backing import Backing, usable_memory
from raydask.object_store.spiller import Spiller
from raydask.session_folder import GLOBAL_SOCKET, NODE_SOCKET, SPILL, remove_session_folder
from raydask.task import RESOURCE_UNIT
from raydask.wire.framing import encode
from raydask.wire.handshake import versions_here
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import NodeReady
from raydask.wire.versions import compare

if TYPE_CHECKING:
    from raydask.node.joining import Membership
    from raydask.node.listeners import Listeners

_log = logging.getLogger("raydask.node")

_LEAVING_SECONDS = 3.0
"""How long a node that leaves waits for a head that is away."""
_LASTING_SECONDS = 1.0
"""What ends sooner was no connection: the other end may refuse this node."""
_CLOSE_SECONDS = 1.0

MakeProtocol = Callable[[], FrameProtocol]


class _WayToGlobal(NamedTuple):
    """How the node stays connected to the global scheduler.

    Attributes
    ----------
    connect : callable
        Given what makes a protocol, returns one that is connected.
    pause : float
        Seconds between two attempts.
    patience : float
        Seconds without a connection after which the node ends.
    """

    connect: Callable[[MakeProtocol], Awaitable[FrameProtocol]]
    pause: float
    patience: float


def run_node(
    options: SessionOptions,
    resources: dict[str, int],
    supervisor: socket.socket,
    backing: Backing,
    control: ControlPlace,
    password: str,
) -> None:
    """Be the node of a session until its supervisor is gone.

    Parameters
    ----------
    options : SessionOptions
    resources : dict
        See `offered_resources`.
    supervisor : socket.socket
        On which workers are asked for and their ends reported.
    backing : Backing
        The arena's memory.
    control : ControlPlace
        Where the control state is; nowhere in a node that joins a cluster.
    password : str
        The cluster's secret.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The scheduler makes no cyclic garbage to speak of, and a collection of a large heap
    # would stop it for long.
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    try:
        identity, writer, listeners = _enter_cluster(options, resources, backing, control, password)
        spiller = Spiller(
            backing.fd,
            os.path.join(options.folder, SPILL, f"node-{identity.number}"),
            is_reserved=backing.is_reserved,
        )
        spiller.start()
    except Exception as error:
        _log.exception("the node cannot start")
        supervisor.sendall(encode(NodeReady(str(error))))
        return
    server = NodeServer(identity, options.config, resources, writer, spiller)
    way = _way_to_global(options, password)
    if listeners is not None:
        from raydask.local_scheduler.node_links import NodeLinks

        server.links = NodeLinks(server, password, backing.fd, spiller.path_of)
    # A turn of its loop costs less than one of asyncio's own, and a task that is waited for alone
    # takes two: docs/decisions/0021.
    uvloop.run(_serve(server, supervisor, options.folder, way, listeners))
    # The supervisor is gone: whatever it left is this process's to remove.
    if control.cluster:
        _end_control_state(writer, Path(options.folder))
    remove_session_folder(Path(options.folder))


def _end_control_state(writer: WriteBehind, folder: Path) -> None:
    """Write nothing more, and remove what has been written to an external Redis."""
    from raydask.node.external_redis import remove_from_external_redis

    try:
        writer.close(time.monotonic() + _CLOSE_SECONDS)
    except ControlStoreError as error:
        _log.info("the last changes were not written: %s", error)
    remove_from_external_redis(folder)


def _enter_cluster(
    options: SessionOptions,
    resources: dict[str, int],
    backing: Backing,
    control: ControlPlace,
    password: str,
) -> tuple[NodeIdentity, WriteBehind, Listeners | None]:
    """Get a number and a way to the control state, and listen if the cluster is on a network.

    Raises
    ------
    RaydaskError
        The node cannot be part of the cluster, or of no use to it.
    """
    member = _join(options, password)
    listeners, link, data = _listen(options, member)
    store = control_store(options, control, password, member)
    try:
        store.start()
        number = store.increment("node") if member is None else member.number
    except ControlStoreError as error:
        raise ControlStoreError(f"the control state cannot be reached: {error}") from error
    writer = WriteBehind(store, options.config.control_window)
    writer.start()
    identity = NodeIdentity(
        number,
        options.folder,
        backing.path,
        backing.size,
        visible_gpus(int(resources.get("GPU", 0) // RESOURCE_UNIT)),
        options.by_command,
        options.labels,
        link,
        data,
        "" if member is None else member.cluster,
        {} if member is None else member.versions,
    )
    return identity, writer, listeners


def _join(options: SessionOptions, secret: str) -> Membership | None:
    """Join a cluster, if this node is to be part of one that is there."""
    if not options.head:
        return None
    from raydask.node.joining import join_cluster
    from raydask.wire.endpoint import parse_endpoint

    return join_cluster(parse_endpoint(options.head), secret, options.config)


def _listen(
    options: SessionOptions, member: Membership | None
) -> tuple[Listeners | None, str, str]:
    """Listen for other nodes, if there can be any; return also where they reach this one."""
    host = options.host or ("" if member is None else member.host)
    if not host:
        return None, "", ""
    from raydask.node.listeners import open_listeners, reached_at

    listeners = open_listeners(host, options.link_port, options.data_port)
    return listeners, reached_at(listeners.link), reached_at(listeners.data)


def control_store(
    options: SessionOptions, control: ControlPlace, secret: str, member: Membership | None
) -> RedisStore:
    """Return the control state's store, not started, of this session or at the cluster's head."""
    if member is None:
        return RedisStore(control.servers, prefix=control.prefix)
    from raydask.control.through_head import shards_through_head
    from raydask.wire.endpoint import parse_endpoint
    from raydask.wire.tls import client_tls

    head = parse_endpoint(options.head)
    tls = client_tls(options.config)
    return RedisStore(
        shards_through_head(head, secret, member.shards, tls), prefix=member.control_prefix
    )


async def _serve(
    server: NodeServer,
    supervisor: socket.socket,
    folder: str,
    way: _WayToGlobal,
    listeners: Listeners | None,
) -> None:
    loop = asyncio.get_running_loop()
    path = os.path.join(folder, NODE_SOCKET)
    listener = await loop.create_unix_server(server.make_protocol, path, backlog=512)
    os.chmod(path, 0o600)
    gone = asyncio.Event()
    link = FrameProtocol(
        lambda protocol, message: None, lambda protocol, error: gone.set(), server.writes
    )
    await loop.create_connection(lambda: link, sock=supervisor)
    if server.links is not None and listeners is not None:
        await server.links.start(listeners.link, listeners.data)
    keeper = loop.create_task(_keep_global(server, way))
    server.start(loop, link)
    link.send(NodeReady("", _warnings(server.identity)))
    await gone.wait()
    keeper.cancel()
    listener.close()
    if server.links is not None:
        server.links.close()


def _warnings(identity: NodeIdentity) -> list[str]:
    """Return what may go wrong because the node's cluster has other versions of something."""
    head = ("the head", identity.head_versions)
    warning = compare(head, ("this node", versions_here())).warning
    return [warning] if warning else []


def _way_to_global(options: SessionOptions, secret: str) -> _WayToGlobal:
    if not options.head:
        path = os.path.join(options.folder, GLOBAL_SOCKET)

        async def connect_here(make: MakeProtocol) -> FrameProtocol:
            _, protocol = await asyncio.get_running_loop().create_unix_connection(make, path)
            return protocol

        # Its supervisor starts it again, however often.
        return _WayToGlobal(connect_here, 0.05, inf)
    from raydask.wire.endpoint import parse_endpoint
    from raydask.wire.guard import connect_guarded
    from raydask.wire.tls import client_tls

    head = parse_endpoint(options.head)
    tls = client_tls(options.config)

    async def connect_head(make: MakeProtocol) -> FrameProtocol:
        protocol: FrameProtocol = await connect_guarded(head, secret, make, tls)
        return protocol

    return _WayToGlobal(connect_head, 0.25, options.config.head_seconds)


async def _keep_global(server: NodeServer, way: _WayToGlobal) -> None:
    """Stay connected to the global scheduler, whichever process that is, or end the node."""
    loop = asyncio.get_running_loop()
    lost = asyncio.Event()

    def make() -> FrameProtocol:
        return FrameProtocol(
            lambda protocol, message: None, lambda protocol, error: lost.set(), server.writes
        )

    alone_since = loop.time()
    while True:
        lost.clear()
        try:
            protocol = await way.connect(make)
        except (OSError, asyncio.TimeoutError) as error:
            failure = str(error) or "it is too slow"
        else:
            begun = loop.time()
            server.cluster.connected(protocol)
            await lost.wait()
            server.cluster.lost()
            failure = "it closes the connection"
            if loop.time() - begun > _LASTING_SECONDS:
                alone_since = loop.time()
        alone = loop.time() - alone_since
        if server.core.draining is not None and alone >= _LEAVING_SECONDS and way.patience < inf:
            server.workers.end_session()  # there is nobody who could let it go
            return
        if alone >= way.patience:
            server.workers.end_session(
                f"the head of its cluster has been away for {way.patience:g} s: {failure}"
            )
            return
        await asyncio.sleep(way.pause)


def offered_resources(options: SessionOptions) -> dict[str, int]:
    """Return what this node offers, in steps of 1 / ``RESOURCE_UNIT``; memory is in bytes."""
    cpus = options.num_cpus
    if cpus is None:
        cpus = float(len(os.sched_getaffinity(0))) if sys.platform == "linux" else os.cpu_count()
    gpus = options.num_gpus
    if gpus is None:
        gpus = len([d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d])
    memory = usable_memory(options.config.memory_limit)
    amounts = {"CPU": cpus or 0, "GPU": gpus, "memory": memory * 0.7, **options.resources}
    return {name: round(amount * RESOURCE_UNIT) for name, amount in amounts.items() if amount}


def visible_gpus(count: int) -> list[int]:
    """Return the numbers of the GPUs that tasks may be given."""
    named = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.isdigit()]
    return [int(device) for device in named[:count]] or list(range(count))
