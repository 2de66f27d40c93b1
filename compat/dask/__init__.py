"""The Dask door: raydask as a scheduler for Dask's collections.

``raydask.get(dsk, keys)`` is `get` of this module, so all the ways in which Dask takes a
scheduler lead here::

    dask.compute(x, scheduler=raydask.get)
    x.compute(scheduler="raydask")
    dask.config.set(scheduler=raydask.get)

Importing this module imports neither Dask nor the engine: workers import it too (for
`raydask.compat.dask.program`), and a task that needs no Dask should not wait for it.

======================  ===================================================================
module                  what it knows
======================  ===================================================================
``scheduler``           the way of one graph from ``get`` to its results
``ordering``            which nodes are needed and in which order they run
``annotations``         what users ask for beside the graph
``conversion``          tasks for ``raydask.graph`` from Dask's nodes
``compilation``         the same for nodes that are more than a plain call
``splitting``           tasks whose results are taken apart by others
``shuffles``            by what means frames are shuffled
``literals``            where the values inside a graph travel
``program``             what workers run for compiled nodes
``callbacks``           Dask's callbacks, fired as tasks really start and finish
======================  ===================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

SCHEDULER_NAME = "raydask"
"""What Dask knows the scheduler by: ``x.compute(scheduler="raydask")``."""


def get(
    dsk: Any,
    keys: Any,
    *,
    callbacks: Iterable[Any] | None = None,
    rerun_exceptions_locally: bool | None = None,
    num_workers: int | None = None,
    priority: float | None = None,
    retries: int | None = None,
    resources: Mapping[str, float] | None = None,
    workers: Any = None,
    allow_other_workers: bool | None = None,
    **ignored: Any,
) -> Any:
    """Compute `keys` of a Dask graph on raydask.

    Starts raydask if it does not run.  Safe to call from several threads, and from within
    tasks.

    Parameters
    ----------
    dsk : dict, HighLevelGraph, or expression
        A mapping of keys to tasks, or anything that has ``__dask_graph__()``.
    keys : key or (nested) list of keys
    callbacks : iterable of `dask.callbacks.Callback`, optional
        By default those that are registered or whose ``with`` block surrounds the call.
    rerun_exceptions_locally : bool, optional
        Whether a task that failed is run again in this process, for a debugger's sake.  By
        default what Dask's configuration says.
    num_workers : int, optional
        How many CPUs a raydask that this call starts gets.  One that runs already decides
        for itself how many workers it has.
    priority, retries, resources, workers, allow_other_workers
        Like the annotations of these names, for all tasks; see
        `raydask.compat.dask.annotations`.
    **ignored
        What Dask or a caller passes for other schedulers' sake.  Dask promises its users that
        no scheduler minds.

    Returns
    -------
    object
        The key's value; for a list, the tuple of its elements' values.

    Raises
    ------
    UsageError
        An annotation cannot be honoured.
    KeyError, ValueError
        A key, or something that a task depends on, is not in the graph.
    Exception
        What the first task that failed raised, with the worker's traceback as its cause.
    """
    from raydask.compat.dask.scheduler import compute

    del ignored
    said = {
        "priority": priority,
        "retries": retries,
        "resources": resources,
        "workers": workers,
        "allow_other_workers": allow_other_workers,
    }
    return compute(
        dsk,
        keys,
        callbacks=callbacks,
        rerun_locally=rerun_exceptions_locally,
        num_workers=num_workers,
        annotations={kind: value for kind, value in said.items() if value is not None},
    )


def register_name() -> None:
    """Make ``scheduler="raydask"`` known to Dask, if Dask is loaded.

    Dask keeps its schedulers' names in the dictionary `dask.base.named_schedulers`; there is
    no way to announce one to a Dask that is not loaded yet.
    """
    base = sys.modules.get("dask.base")
    schedulers = getattr(base, "named_schedulers", None)  # None while Dask is being loaded
    if schedulers is not None:
        import raydask

        schedulers.setdefault(SCHEDULER_NAME, raydask.get)
