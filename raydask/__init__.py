"""raydask: a distributed execution engine with Ray's architecture, in readable Python.

Two doors: the native API below, and Dask (``dask.compute(x, scheduler=raydask.get)``).
"""

from __future__ import annotations

from raydask import errors
from raydask.driver import api as _api
from raydask.driver.actor import ActorClass, ActorHandle, method
from raydask.driver.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_runtime_context,
    init,
    is_initialized,
    kill,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)
from raydask.driver.object_ref import ObjectRef
from raydask.driver.remote_function import RemoteFunction
from raydask.errors import GetTimeoutError, RaydaskError, TaskError
from raydask.version import VERSION

__version__ = VERSION

__all__ = [
    "ActorClass",
    "ActorHandle",
    "GetTimeoutError",
    "ObjectRef",
    "RaydaskError",
    "RemoteFunction",
    "TaskError",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "errors",
    "get",
    "get_actor",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
]

# The one thing that importing does: it gives a Dask that is loaded already one more name.
_api.announce_to_dask()
