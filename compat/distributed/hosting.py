"""How a Dask cluster comes to host raydask, and how that ends.

The head goes to the machine of Dask's scheduler, a node beside each worker: these machines can
reach one another already, or Dask itself would not work, whatever firewall is around them.  A
client may be outside, where only its way to the scheduler is open.  If it is on no machine that
has a node, one that runs nothing is started beside it, which the others have to be able to reach.
"""

from __future__ import annotations

import atexit
import secrets
from typing import TYPE_CHECKING, Any

from raydask.compat.distributed import plugins
from raydask.compat.distributed.node_process import NodeProcess, RunningNode, check_seconds
from raydask.compat.distributed.plugins import NodePlugin, Settings
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.util import cluster_status

if TYPE_CHECKING:
    from distributed import Client

_here: dict[str, NodeProcess] = {}
"""By the cluster's address, nodes that were started beside this program to reach it."""


def start(
    client: Client,
    *,
    per_host: bool = False,
    host: str | None = None,
    object_store_memory: int | None = None,
    drain_seconds: float = 60.0,
    start_timeout: float = 60.0,
) -> str:
    """Have a Dask cluster host a raydask cluster; return the address for `raydask.init`.

    A node is started beside each worker, with the worker's threads as its CPUs and the worker's
    memory limit as its own.  From then on the nodes follow the Dask cluster: workers that come
    bring one, and with a worker that goes its node leaves, once it has finished what it runs and
    handed over what it keeps.  All ends with the Dask cluster, or with `stop`.

    Where the cluster hosts raydask already, that is what is returned.

    Parameters
    ----------
    client : distributed.Client
        Not an asynchronous one.
    per_host : bool
        Whether to start one node a host, with all its CPUs, rather than one for each worker.  On
        Linux only.
    host : str, optional
        Address at which the head listens; that of Dask's scheduler, if not given.
    object_store_memory : int, optional
        Bytes of each node's object store; a share of the memory, if not given.
    drain_seconds : float
        How long a node that leaves may take to finish what it does.
    start_timeout : float
        Seconds within which each node must be up.

    Raises
    ------
    StartError
        A node could not be started; all that had been started is gone again.
    UsageError
        The client is none, or an asynchronous one, or the seconds are none.
    OSError
        `per_host` on another system than Linux.
    """
    _check(client)
    check_seconds("drain_seconds", drain_seconds)
    check_seconds("start_timeout", start_timeout)
    settings = Settings(
        secrets.token_hex(16), object_store_memory, drain_seconds, start_timeout, per_host
    )
    settings, head = client.run_on_scheduler(plugins.begin_head, settings, host)
    try:
        client.register_plugin(NodePlugin(settings, head.address), name=plugins.NODE_NAME)
        _reach(settings, head)
    except BaseException:
        stop(client)
        raise
    address: str = head.address
    return address


def stop(client: Client) -> None:
    """End the raydask cluster that a Dask cluster hosts; harmless if it hosts none.

    Parameters
    ----------
    client : distributed.Client
        Of the Dask cluster, which goes on.
    """
    _check(client)
    if not client.run_on_scheduler(plugins.hosts):
        return  # distributed would log an error for each plugin that is not there
    try:
        client.unregister_worker_plugin(plugins.NODE_NAME)
    except ValueError:
        pass  # it was never registered
    except (KeyError, OSError):
        pass  # a worker that is closing has taken it off itself, or is gone; so is its node
    _leave(client.run_on_scheduler(plugins.address_of_head))
    client.run_on_scheduler(plugins.end_head)


def _check(client: Any) -> None:
    from distributed import Client

    if not isinstance(client, Client):
        raise UsageError(f"client is a distributed.Client, not {client!r}")
    if client.asynchronous:
        raise UsageError("raydask.compat.distributed wants a Client that is not asynchronous")


def _reach(settings: Settings, head: RunningNode) -> None:
    """Start a node beside this program that runs nothing, unless the head is on this machine."""
    try:
        cluster_status(head.session)
        return
    except ClusterUnavailableError:
        pass
    if head.address in _here:
        return
    if not _here:
        atexit.register(_leave_all)
    options = settings.options("--address", head.address, "--num-cpus", "0")
    node = NodeProcess(
        options,
        settings.secret,
        drain_seconds=settings.drain_seconds,
        environment=plugins.PATIENCE,
    )
    node.start(settings.start_timeout)
    _here[head.address] = node


def _leave(address: str) -> None:
    node = _here.pop(address, None)
    if node is not None:
        node.close()


def _leave_all() -> None:
    for address in list(_here):
        _leave(address)
