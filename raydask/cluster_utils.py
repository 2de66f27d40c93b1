"""A cluster of several nodes on one machine, for tests and for trying out.

::

    from raydask.cluster_utils import Cluster

    with Cluster(num_cpus=1) as cluster:
        node = cluster.add_node(num_cpus=2, resources={"disk": 1})
        cluster.wait_for_nodes()
        cluster.connect()
        ...
        cluster.remove_node(node)

The nodes are real: each has a supervisor, an object store, a local scheduler and a session folder
of its own, and talks to the others over TCP, on loopback.  They end with the program that made
them, however that ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from raydask.driver import api, launcher
from raydask.driver.observer import ask_cluster, drain_node, number_of_node
from raydask.driver.session import find_session
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.node.external_redis import remove_from_external_redis
from raydask.session_folder import remove_session_folder
from raydask.wire.endpoint import Endpoint, parse_endpoint
from raydask.wire.status import NodeStatus

__all__ = ["Cluster", "ClusterNode"]

_HOST = "127.0.0.1"
_STORE_BYTES = 128 << 20
_LOOK_SECONDS = 0.02


class ClusterNode:
    """A node of a `Cluster`, which makes it.

    Attributes
    ----------
    number : int
        The node's, as in `raydask.nodes`.
    folder : str
        Of its session, by which `raydask.init` joins it.
    endpoint : str
        HOST:PORT of its cluster.
    pid : int
        Of its supervisor; 0 when that has ended.
    """

    def __init__(self, supervised: launcher.Supervised, folder: str) -> None:
        self._supervised = supervised
        self.folder = folder
        self.number = number_of_node(folder)
        self.endpoint = launcher.endpoint_of_session(folder)

    def __repr__(self) -> str:
        return f"ClusterNode({self.number}, {self.folder!r})"

    @property
    def pid(self) -> int:
        """The process identifier of its supervisor; 0 when that has ended."""
        return self._supervised.pid

    def ask_to_end(self) -> None:
        """Have it end; `stop` waits for that."""
        self._supervised.ask_to_end()

    def stop(self) -> None:
        """End it, and wait until nothing of it is left."""
        self._supervised.stop()

    def drain(self, seconds: float = 60.0) -> None:
        """Let it finish what it does, and wait until it has left its cluster.

        Parameters
        ----------
        seconds : float
            After which it goes with what there is.
        """
        drain_node(self.folder, seconds, by_owner=True)
        self._supervised.wait()

    def kill(self) -> None:
        """End all its processes at once with SIGKILL, as if its machine had lost its power."""
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGSTOP)  # it would clean up after the first of them
            for process in _descendants(pid):
                _kill(process)
            _kill(pid)
            self._supervised.stop()
        remove_from_external_redis(Path(self.folder))
        remove_session_folder(Path(self.folder))


class Cluster:
    """Several nodes on this machine.

    Parameters
    ----------
    initialize_head : bool
        Whether to start the head now, with the options that follow; if not, the first
        `add_node` does.
    num_cpus, num_gpus, resources, object_store_memory, labels
        Of the head's node, as for `add_node`.
    num_redis_shards : int
        How many Redis servers hold the control state.
    redis_address : str
        URLs of Redis servers that hold it instead, as for `raydask start --redis-address`.

    Attributes
    ----------
    head_node : ClusterNode or None
    worker_nodes : list of ClusterNode
        The others that have been added and not removed.

    Raises
    ------
    UsageError, StartError
        As `raydask.init`.
    """

    def __init__(
        self,
        initialize_head: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        object_store_memory: int = _STORE_BYTES,
        labels: Mapping[str, str] | None = None,
        num_redis_shards: int = 1,
        redis_address: str = "",
    ) -> None:
        self._secret = secrets.token_hex(16)
        self._shards = num_redis_shards
        self._redis_address = redis_address
        self.head_node: ClusterNode | None = None
        self.worker_nodes: list[ClusterNode] = []
        if initialize_head:
            self.add_node(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=resources,
                object_store_memory=object_store_memory,
                labels=labels,
            )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster."""
        return str(self._head_endpoint())

    def add_node(
        self,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        object_store_memory: int = _STORE_BYTES,
        labels: Mapping[str, str] | None = None,
    ) -> ClusterNode:
        """Start a node; the cluster's head, if it has none.

        Parameters
        ----------
        num_cpus, num_gpus : float
        resources : mapping of str to float, optional
            Custom ones.
        object_store_memory : int
            Bytes.
        labels : mapping of str to str, optional

        Raises
        ------
        UsageError, StartError
            As `raydask.init`.
        """
        head = None if self.head_node is None else self._head_endpoint()
        options = launcher.session_options(
            num_cpus,
            num_gpus,
            resources,
            object_store_memory,
            self._shards,
            labels=labels,
            network=launcher.Network(head, host=_HOST, secret=self._secret),
            redis_address=self._redis_address if head is None else "",
        )
        supervised = launcher.Supervised(options)
        supervised.start()
        try:
            node = ClusterNode(supervised, options.folder)
        except BaseException:
            supervised.stop()
            raise
        if self.head_node is None:
            self.head_node = node
        else:
            self.worker_nodes.append(node)
        return node

    def remove_node(
        self,
        node: ClusterNode,
        graceful: bool = True,
        *,
        drain: bool = False,
        drain_seconds: float = 60.0,
    ) -> None:
        """End a node, and wait until nothing of it is left.

        Parameters
        ----------
        node : ClusterNode
            Not the head while there are others.
        graceful : bool
            Whether it is asked to; if not, all its processes are killed.
        drain : bool
            Whether it first finishes what it does, and hands over what it keeps for others.
        drain_seconds : float
            After which it goes with what there is.

        Raises
        ------
        UsageError
            It is none of this cluster's, or the head.
        """
        if node is self.head_node and not self.worker_nodes:
            self.head_node = None
        elif node in self.worker_nodes:
            self.worker_nodes.remove(node)
        else:
            raise UsageError(f"{node!r} is not a node of this cluster, or its head: use shutdown()")
        if drain:
            node.drain(drain_seconds)
        if graceful:
            node.stop()
        else:
            node.kill()

    def list_all_nodes(self) -> list[ClusterNode]:
        """Return the nodes that have been added and not removed, the head first."""
        head = [] if self.head_node is None else [self.head_node]
        return head + self.worker_nodes

    def status(self) -> list[NodeStatus]:
        """Return what the global scheduler knows of each node.

        Raises
        ------
        ClusterUnavailableError
            It does not answer.
        """
        return ask_cluster(self._head_endpoint(), self._secret, "nodes", None, list[NodeStatus])

    def wait_for_nodes(self, timeout: float = 30.0) -> None:
        """Wait until the global scheduler sees alive the nodes of this cluster, and no others.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        ClusterUnavailableError
            That did not come about in time.
        """
        deadline = time.monotonic() + timeout
        wanted = {node.number for node in self.list_all_nodes()}
        while True:
            try:
                seen = {status.node for status in self.status() if status.alive}
            except ClusterUnavailableError:
                seen = set()
            if seen == wanted:
                return
            if time.monotonic() > deadline:
                raise ClusterUnavailableError(
                    f"after {timeout:g} s the nodes {sorted(seen)} are alive, and not "
                    f"{sorted(wanted)}; the logs in the folders of {self.list_all_nodes()} may "
                    "say why"
                )
            time.sleep(_LOOK_SECONDS)

    def connect(
        self, node: ClusterNode | None = None, *, namespace: str = "default"
    ) -> api.ClusterContext:
        """Join the cluster with this program, at its head or another node.

        Raises
        ------
        UsageError
            raydask runs in this process already.
        """
        if node is None:
            self._head_endpoint()
            node = self.head_node
        assert node is not None
        return api.init(node.folder, namespace=namespace)

    def shutdown(self) -> None:
        """End all nodes, and this program's part in them; harmless when done twice."""
        nodes = self.list_all_nodes()
        session = find_session()
        if session is not None and session.welcome.session in {node.folder for node in nodes}:
            api.shutdown()
        self.head_node, self.worker_nodes = None, []
        for node in reversed(nodes):
            node.ask_to_end()
        for node in reversed(nodes):
            node.stop()

    def _head_endpoint(self) -> Endpoint:
        if self.head_node is None:
            raise UsageError("this cluster has no node yet: call add_node()")
        return parse_endpoint(self.head_node.endpoint)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _descendants(pid: int) -> list[int]:
    """Return the processes below one, as Linux and others with ``/proc`` tell."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Its second field, a name in parentheses, may have anything in it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]
