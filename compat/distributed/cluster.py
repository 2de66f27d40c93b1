"""Nodes as the workers of a ``distributed.SpecCluster``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from dask.utils import parse_bytes
from distributed import SpecCluster
from distributed.core import Status, rpc
from distributed.deploy.spec import ProcessInterface

from raydask.compat.distributed.head import Head
from raydask.compat.distributed.node_process import NodeProcess, check_seconds
from raydask.errors import UsageError

_START_SECONDS = 60.0
_METRICS = {
    **dict.fromkeys(("executing", "in_memory", "ready", "in_flight", "cpu", "memory"), 0),
    "spilled_bytes": {"memory": 0, "disk": 0},
    "host_net_io": {"read_bps": 0, "write_bps": 0},
}
"""What the widgets show of a worker; what nodes really do, `raydask status` shows."""


class Node(ProcessInterface):  # type: ignore[misc]  # distributed has no types
    """One node, which ``SpecCluster`` starts and closes.

    Parameters
    ----------
    head : str
        Address of the `Head`.
    nthreads : float
        Its CPUs.
    memory_limit : int
        Bytes; 0: the machine's.
    options : sequence of str
        Others of ``raydask start``.
    drain_seconds : float
    launch : sequence of str
        As in `RaydaskCluster`.
    name : object
        As ``SpecCluster`` calls it.
    """

    def __init__(
        self,
        head: str,
        *,
        nthreads: float,
        memory_limit: int,
        options: Sequence[str],
        drain_seconds: float,
        launch: Sequence[str],
        name: object,
    ) -> None:
        super().__init__(name=name)
        self.name = name
        self._head = head
        self._nthreads = nthreads
        self._memory_limit = memory_limit
        self._options = options
        self._drain_seconds = drain_seconds
        self._launch = launch
        self._process: NodeProcess | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the node, and have it among the workers.

        Raises
        ------
        StartError
        """
        async with rpc(self._head) as head:
            address, secret = await head.cluster_to_join()
        words = ["--address", address, "--num-cpus", str(self._nthreads), *self._options]
        environment = {}
        if self._memory_limit:
            environment["RAYDASK_MEMORY_LIMIT"] = str(self._memory_limit)
        process = NodeProcess(
            words,
            secret,
            drain_seconds=self._drain_seconds,
            environment=environment,
            launch=self._launch,
        )
        try:
            running = await asyncio.to_thread(process.start, _START_SECONDS)
        except BaseException:
            self.status = Status.failed
            raise
        self._process = process
        self.address = f"raydask://{address}/{running.node}"
        info = {
            "type": "Node",
            "id": str(running.node),
            "name": self.name,
            "nthreads": self._nthreads,
            "memory_limit": self._memory_limit,
            "local_directory": running.session,
            "status": "running",
            "last_seen": time.time(),
            "resources": {},
            "services": {},
            "metrics": _METRICS,
        }
        async with rpc(self._head) as head:
            await head.node_came(address=self.address, node=running.node, info=info)
        self._watch = asyncio.create_task(self._note_end(process))
        await super().start()

    async def _note_end(self, process: NodeProcess) -> None:
        """Have the node among the workers no more when it has ended, for whatever reason."""
        await asyncio.to_thread(process.wait)
        try:
            async with rpc(self._head) as head:
                await head.node_left(address=self.address)
        except OSError:
            pass  # all ends

    async def close(self) -> None:
        """Let the node finish what it runs and hand over what it keeps, and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            self.status = Status.closing
            await asyncio.to_thread(process.close)
        if self._watch is not None:
            await asyncio.wait([self._watch])
        await super().close()


class RaydaskCluster(SpecCluster):  # type: ignore[misc]  # distributed has no types
    """A raydask cluster that is scaled as Dask's clusters are.

    ``scale``, ``adapt`` and the widgets are those of ``distributed.SpecCluster``; each node is
    what is called a worker there.  A node that is scaled away leaves once it has finished what it
    runs and handed over what it keeps.  Programs join with ``raydask.init(cluster.address)``.

    Parameters
    ----------
    n_nodes : int
        With how many to begin.
    cpus_per_node : float
    memory_per_node : int or str, optional
        Bytes, or such as ``"4 GiB"``; the machine's, if not given.
    object_store_memory : int, optional
        Bytes of each object store; a share of the memory, if not given.
    head_cpus : float
        Of the head's own node, to which programs connect.
    host : str
        Address at which the head listens.
    drain_seconds : float
        How long a node that is scaled away may take to finish what it does.
    launch : sequence of str
        A command that runs the node's command, which follows it: ``("srun", "--ntasks=1")``, say.
        It has to pass on the environment, in which the secret is, and standard input, with whose
        end the node ends.  If that takes nodes to other machines, they have to reach `host`.
    **cluster
        Others of ``SpecCluster``: ``asynchronous``, ``loop``, ``name``, ``silence_logs``.

    Raises
    ------
    UsageError
        An argument makes no sense.
    StartError
        The head or a node could not be started; all that had been started is gone again.

    Attributes
    ----------
    address : str
        HOST:PORT, for `raydask.init`.
    """

    def __init__(
        self,
        n_nodes: int = 0,
        *,
        cpus_per_node: float = 1,
        memory_per_node: int | str | None = None,
        object_store_memory: int | None = None,
        head_cpus: float = 0,
        host: str = "127.0.0.1",
        drain_seconds: float = 60.0,
        launch: Sequence[str] = (),
        **cluster: Any,
    ) -> None:
        _check_count("n_nodes", n_nodes)
        check_seconds("drain_seconds", drain_seconds)
        store = ["--object-store-memory", str(object_store_memory)] if object_store_memory else []
        head = ["--head", "--host", host, "--num-cpus", str(head_cpus), *store]
        node = {
            "cls": Node,
            "options": {
                "nthreads": cpus_per_node,
                "memory_limit": parse_bytes(memory_per_node) if memory_per_node else 0,
                "options": store,
                "drain_seconds": drain_seconds,
                "launch": tuple(launch),
            },
        }
        spec = {"cls": Head, "options": {"options": head, "cpus_per_node": cpus_per_node}}
        workers = dict.fromkeys(range(n_nodes), node)
        try:
            super().__init__(workers=workers, scheduler=spec, worker=node, **cluster)
        except RuntimeError:
            self.close()  # its loop, if nothing else
            raise

    def scale(self, n: int = 0, memory: int | str | None = None, cores: int | None = None) -> Any:
        """Have so many nodes, or as many as have so much memory or so many CPUs together.

        Raises
        ------
        UsageError
            There cannot be so many.
        """
        _check_count("n", n)
        return super().scale(n, memory=memory, cores=cores)

    @property
    def address(self) -> str:
        """Where programs join, HOST:PORT; empty until it is up."""
        running = getattr(self.scheduler, "running", None)
        return "" if running is None else running.address


def _check_count(name: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UsageError(f"{name} must be a whole number that is not negative, not {count!r}")
