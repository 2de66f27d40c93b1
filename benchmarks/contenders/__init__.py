"""The systems compared, by name, in the order in which reports list them.

Adapters import their system inside methods: this registry is free to import, and a system that
is not installed only leaves its column out.
"""

from __future__ import annotations

from benchmarks.contenders.dask_processes import DaskProcesses
from benchmarks.contenders.dask_threads import DaskThreads
from benchmarks.contenders.distributed_cluster import DistributedCluster
from benchmarks.contenders.port import Contender
from benchmarks.contenders.process_pool import ProcessPool
from benchmarks.contenders.raw_limit import RawLimit
from benchmarks.contenders.ray_engine import RayEngine
from benchmarks.contenders.raydask_engine import RaydaskEngine
from benchmarks.contenders.raydask_nodes import RaydaskNodes

REFERENCE = RaydaskEngine.name
"""The contender to which the others' figures are related."""

CONTENDERS: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (
        RaydaskEngine,
        RaydaskNodes,
        DistributedCluster,
        RayEngine,
        DaskThreads,
        DaskProcesses,
        ProcessPool,
        RawLimit,
    )
}
