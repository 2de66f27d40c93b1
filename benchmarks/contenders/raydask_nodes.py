"""raydask on two nodes of this machine, which share the CPUs: what the way between nodes costs."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.contenders.raydask_engine import RaydaskEngine

_NODES = 2
_STORE_SHARE = 0.1
"""Of the machine's memory, for each node."""


class RaydaskNodes(RaydaskEngine):
    """A ``Cluster`` of two nodes with half of the CPUs each, joined at its head."""

    name = "raydask-nodes"

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._cluster: Any = None

    def prepare(self) -> None:
        import raydask.cluster_utils  # noqa: F401

    def start(self) -> None:
        from raydask.cluster_utils import Cluster

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._start(int(memory * _STORE_SHARE), Cluster)

    def start_within(self, memory: int) -> None:
        from raydask.cluster_utils import Cluster

        os.environ["RAYDASK_MEMORY_LIMIT"] = str(memory // _NODES)
        self._start(int(memory * 0.3) // _NODES, Cluster)  # raydask's own share

    def _start(self, store: int, cluster_class: Any) -> None:
        cpus = self.cpus / _NODES
        self._cluster = cluster_class(num_cpus=cpus, object_store_memory=store)
        for _ in range(_NODES - 1):
            self._cluster.add_node(num_cpus=cpus, object_store_memory=store)
        self._cluster.wait_for_nodes()
        self._cluster.connect()

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()
