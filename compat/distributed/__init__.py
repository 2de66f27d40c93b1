"""The distributed door: raydask's nodes where Dask's clusters are.

A Dask cluster that runs, wherever and however it was started, can host raydask::

    from raydask.compat.distributed import start

    address = start(client)  # a node beside each of the cluster's workers
    raydask.init(address)

and raydask's own nodes can be had like Dask's workers::

    from raydask.compat.distributed import RaydaskCluster

    with RaydaskCluster(2, cpus_per_node=4) as cluster:
        raydask.init(cluster.address)
        cluster.adapt(minimum=1, maximum=10)

======================  ===================================================================
module                  what it knows
======================  ===================================================================
``hosting``             how a Dask cluster comes to host raydask, and how that ends
``plugins``             what runs in Dask's scheduler and workers for that
``cluster``             `RaydaskCluster`: nodes as the workers of a ``SpecCluster``
``head``                what such a cluster has in the place of Dask's scheduler
``adaptivity``          how many nodes the tasks that there are want
``node_process``        one node as a child process: ``raydask start``
======================  ===================================================================
"""

from __future__ import annotations

from raydask.compat.distributed.cluster import RaydaskCluster
from raydask.compat.distributed.hosting import start, stop

__all__ = ["RaydaskCluster", "start", "stop"]
