"""The node process: local scheduler, object store and their event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
from pathlib import Path

import uvloop

from raydask.config import SessionOptions
from raydask.control.redis_store import RedisStore
from raydask.control.write_behind import WriteBehind
from raydask.errors import StartError
from raydask.local_scheduler.server import NodeIdentity, NodeServer
from raydask.object_store.backing import Backing, usable_memory
from raydask.object_store.spiller import Spiller
from raydask.session_folder import GLOBAL_SOCKET, NODE_SOCKET, SPILL, remove_session_folder
from raydask.task import RESOURCE_UNIT
from raydask.wire.framing import encode
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import NodeReady

_log = logging.getLogger("raydask.node")

_RECONNECT_SECONDS = 0.05


def run_node(
    options: SessionOptions,
    resources: dict[str, int],
    supervisor: socket.socket,
    backing: Backing,
    urls: list[str],
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
    urls : list of str
        The control state's Redis servers.
    password : str
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The scheduler makes no cyclic garbage to speak of, and a collection of a large heap
    # would stop it for long.
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    store = RedisStore(urls, password=password)
    try:
        store.start()
        number = store.increment("node")
        writer = WriteBehind(store, options.config.control_window)
        writer.start()
    except Exception as error:
        _log.exception("the control state cannot be reached")
        supervisor.sendall(encode(NodeReady(f"the control state cannot be reached: {error}")))
        return
    gpus = visible_gpus(int(resources.get("GPU", 0) // RESOURCE_UNIT))
    identity = NodeIdentity(
        number, options.folder, backing.path, backing.size, gpus, options.detached
    )
    spiller = Spiller(
        backing.fd,
        os.path.join(options.folder, SPILL, f"node-{number}"),
        is_reserved=backing.is_reserved,
    )
    try:
        spiller.start()
    except StartError as error:
        supervisor.sendall(encode(NodeReady(str(error))))
        return
    server = NodeServer(identity, options.config, resources, writer, spiller)
    # A turn of its loop costs less than one of asyncio's own, and a task that is waited for alone
    # takes two: docs/decisions/0021.
    uvloop.run(_serve(server, supervisor, options.folder))
    # The supervisor is gone: whatever it left in the file system is this process's to remove.
    remove_session_folder(Path(options.folder))


async def _serve(server: NodeServer, supervisor: socket.socket, folder: str) -> None:
    loop = asyncio.get_running_loop()
    path = os.path.join(folder, NODE_SOCKET)
    listener = await loop.create_unix_server(server.make_protocol, path, backlog=512)
    os.chmod(path, 0o600)
    gone = asyncio.Event()
    link = FrameProtocol(
        lambda protocol, message: None, lambda protocol, error: gone.set(), server.writes
    )
    await loop.create_connection(lambda: link, sock=supervisor)
    keeper = loop.create_task(_keep_global(server, os.path.join(folder, GLOBAL_SOCKET)))
    server.start(loop, link)
    link.send(NodeReady(""))
    await gone.wait()
    keeper.cancel()
    listener.close()


async def _keep_global(server: NodeServer, path: str) -> None:
    """Stay connected to the global scheduler, whichever process that is."""
    loop = asyncio.get_running_loop()
    lost = asyncio.Event()

    def make() -> FrameProtocol:
        return FrameProtocol(
            lambda protocol, message: None, lambda protocol, error: lost.set(), server.writes
        )

    while True:
        lost.clear()
        try:
            _, protocol = await loop.create_unix_connection(make, path)
        except OSError:
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        server.connect_global(protocol)
        await lost.wait()
        server.lost_global()


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
