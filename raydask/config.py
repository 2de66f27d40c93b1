"""Settings, read once when a process starts and handed down from there.

Each has a default that suits one machine and an environment variable of its upper-case
name behind ``RAYDASK_``, such as ``RAYDASK_INLINE_LIMIT=65536``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from raydask.errors import UsageError


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a session.

    Attributes
    ----------
    inline_limit : int
        Bytes up to which a value travels in messages and lives in the node's memory.
    inline_share : float
        What such values may be together there, as a part of the object store's size; the oldest
        are moved to the object store beyond that.
    slab_size : int
        Bytes of the regions from which processes make small stored objects.
    object_store_folder : str
        Where the arena's file lies; empty means anonymous shared memory where the system
        has it, else the temporary folder.  All its room is taken at the start, so that nothing
        else can use it up; in a file system in memory, such as ``/dev/shm``, that takes
        the memory itself, and half a second per GB.  A folder with too little room gets a
        smaller store, or none and anonymous memory is used, with a warning.
    spill_folder : str
        Where objects are written that do not fit into memory, in a folder of the session's own;
        empty means the session's folder.  On a disk: a file system in memory gains nothing.
    store_high_watermark, store_low_watermark : float
        Parts of the object store: above the first, objects that nobody reads are written to
        disk until the second is reached.
    store_full_seconds : float
        How long whoever makes an object waits for room in a full object store.
    pipeline_seconds : float
        How much estimated work a worker may hold.
    pipeline_tasks : int
        How many tasks a worker may hold.
    reclaim_after : float
        Seconds after which tasks behind a long one are taken back.
    control_window : float
        Seconds that an entry waits before it is written to the control state.
    write_barrier : bool
        Whether tasks and refs leave a node only when the control state has what could rebuild
        them, should that node die; it costs some 10 µs for each task that another node runs.
    idle_worker_seconds : float
        How long a worker beyond the number of CPUs stays when it has nothing to do.
    preload : str
        Packages, with commas between, that are imported once for all workers of a job, which
        share their memory then: those of them that the driver has imported when it first sends a
        function that names one.  They must work in a process that was forked after the import;
        empty: each worker imports what its tasks do.  On Linux only.
    start_timeout : float
        Seconds within which a session must be up, and what is imported for a job's workers.
    head_seconds : float
        How long a node that has joined a cluster does without its head before it ends.
    silent_seconds : float
        How long a machine of a cluster may be silent before the others go on without it: at the
        head, how long it waits for a node's word; at each node, how long it tries to reach another.
    infeasible_seconds : float
        How long a task that no node could run waits for one that can, before it fails.
    locality : bool
        Whether tasks go to the nodes that have their large inputs; if not, to any, each in turn,
        and the inputs after them.  For comparison.
    tls_certificate, tls_key, tls_authority : str
        Files, in PEM: what this machine shows, its private key, and who must have signed what
        others show.  All or none; none: connections between machines are not encrypted.
    log_bytes : int
        At which size a log file is rotated; one older file is kept.
    record_call_sites : bool
        Whether the node is told where in a program each object was made, for `raydask memory`.
        It makes submitting slower.
    memory_limit : int
        Bytes of memory that the session may use, if that is less than machine and cgroup have;
        0: what those have.  The object store and the memory that tasks can reserve are shares of
        it, and the monitor counts the workers' private memory and the store against it.
    memory_usage_threshold : float
        Part of the memory above which workers are ended, one at a time; 0: never.
    memory_interval : float
        Seconds between two measurements of the workers' memory, shorter where it is nearly used
        up or enforced; 0: none is measured, so no worker is ended for its memory.
    worker_memory_limit : int
        Bytes of private memory above which a worker is replaced between two tasks.  Negative: an
        equal share for each CPU of what the object store leaves; 0: never.
    """

    inline_limit: int = 100_000
    inline_share: float = 0.1
    slab_size: int = 8 << 20
    object_store_folder: str = ""
    spill_folder: str = ""
    store_high_watermark: float = 0.7
    store_low_watermark: float = 0.5
    store_full_seconds: float = 30.0
    pipeline_seconds: float = 0.004
    pipeline_tasks: int = 128
    reclaim_after: float = 0.05
    control_window: float = 1.0
    write_barrier: bool = True
    idle_worker_seconds: float = 5.0
    preload: str = "numpy,pandas,pyarrow,scipy,dask"
    start_timeout: float = 30.0
    head_seconds: float = 60.0
    silent_seconds: float = 15.0
    infeasible_seconds: float = 30.0
    locality: bool = True
    tls_certificate: str = ""
    tls_key: str = ""
    tls_authority: str = ""
    log_bytes: int = 10_000_000
    record_call_sites: bool = False
    memory_limit: int = 0
    memory_usage_threshold: float = 0.95
    memory_interval: float = 0.25
    worker_memory_limit: int = -1


def shared_packages(config: Config) -> list[str]:
    """Return the packages that the workers of a job share once they are imported."""
    if sys.platform != "linux":
        return []  # forking after imports is not safe on macOS, and orphans have no parent there
    return [name.strip() for name in config.preload.split(",") if name.strip()]


class SessionOptions(msgspec.Struct, kw_only=True):
    """What a supervisor is told: the first line of its standard input, as JSON.

    Attributes
    ----------
    folder : str
        Of the session, made by whoever starts it.
    num_cpus, num_gpus : float or None
        None: as many as there are.
    resources : dict of str to float
    object_store_memory : int or None
        Bytes; None: a share of the memory.
    num_redis_shards : int
    config : Config
    labels : dict of str to str
        Of the node, for people and for placing.
    detached : bool
        Whether the session stays when whoever starts it ends.
    by_command : bool
        Whether `raydask start` began it, and `raydask stop` may end it; else a program did.
    head : str
        HOST:PORT at which the cluster that the node joins is reached; empty: it joins none, and
        has Redis and a global scheduler of its own.
    host : str
        Where it listens.  Empty: on no network; with a `head`, at the address that faces it.
    port : int
        Of the global scheduler; 0: any that is free.
    link_port, data_port : int
        At which other nodes reach this one, for messages and for objects; 0: any that is free.
    secret : str
        Empty: one is made.
    redis_address : str
        URLs of Redis servers that are there already, one a shard, with commas between; empty:
        the session starts its own.
    redis_password : str
        Of those of them whose URL has none.
    """

    folder: str
    num_cpus: float | None
    num_gpus: float | None
    resources: dict[str, float]
    object_store_memory: int | None
    num_redis_shards: int
    config: Config
    labels: dict[str, str] = {}
    detached: bool = False
    by_command: bool = False
    head: str = ""
    host: str = ""
    port: int = 0
    link_port: int = 0
    data_port: int = 0
    secret: str = ""
    redis_address: str = ""
    redis_password: str = ""


def from_environment(environment: Mapping[str, str] = os.environ) -> Config:
    """Return the defaults, changed by what the environment says.

    Raises
    ------
    UsageError
        A variable's text is not of its setting's type.
    """
    changed: dict[str, Any] = {}
    for field in msgspec.structs.fields(Config):
        text = environment.get(f"RAYDASK_{field.name.upper()}")
        if text is None:
            continue
        try:
            changed[field.name] = msgspec.convert(text, field.type, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"RAYDASK_{field.name.upper()}={text!r}: {error}") from None
    return Config(**changed)
