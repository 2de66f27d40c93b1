"""How Dask's data frames are shuffled: by tasks, whose pieces are in the object store.

Left alone, Dask shuffles through files of the machine where a task happens to run, or, where a
`distributed.Client` is open, through that cluster's workers.  The former works on one node, the
latter on none.  So a program that has joined a cluster, or that has a client, has Dask shuffle by
tasks while raydask runs, unless the user has said otherwise; and a graph that was built otherwise
is refused where it could not give the right answer.

On one node files are left alone: bags are grouped by the same setting, and by tasks Dask cannot
group them by an index.

Importing this module imports neither Dask nor the engine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from raydask.errors import UsageError

METHOD = "dataframe.shuffle.method"
VARIABLE = "DASK_DATAFRAME__SHUFFLE__METHOD"
"""Where a Dask that is not loaded yet finds the same."""

_PARTD = "zpartd-"
_BARRIER = "shuffle-barrier-"
"""How the keys begin of what Dask shuffles with through files, and distributed through workers."""
_REMEDY = (
    f'build it with dask.config.set({{"{METHOD}": "tasks"}}), which is what raydask.init(address) '
    "sets unless something else is configured"
)


class Preference:
    """Has Dask shuffle by tasks for a while, if that is needed and no method is configured."""

    def __init__(self) -> None:
        self._is_ours = False

    def begin(self, *, joined: bool) -> None:
        """Choose tasks for a program that has joined a cluster or has a client of distributed."""
        if not (joined or _has_client()):
            return
        config = _loaded_config()
        if config is not None:
            if not config.get(METHOD, None):
                config.set({METHOD: "tasks"})
                self._is_ours = True
        elif not os.environ.get(VARIABLE):
            os.environ[VARIABLE] = "tasks"
            self._is_ours = True

    def end(self) -> None:
        """Undo what `begin` did."""
        if not self._is_ours:
            return
        self._is_ours = False
        if os.environ.get(VARIABLE) == "tasks":
            del os.environ[VARIABLE]
        config = _loaded_config()
        if config is not None and config.get(METHOD, None) == "tasks":
            config.set({METHOD: None})


preference = Preference()
"""This process's."""


def refuse_what_cannot_work(keys: Iterable[Any], count_nodes: Callable[[], int]) -> None:
    """Look for shuffles that raydask cannot run.

    Parameters
    ----------
    keys : iterable of key
        Of a graph.
    count_nodes : callable
        Returns how many nodes there are; called where it matters.

    Raises
    ------
    UsageError
        There is one; the message says how to build the graph.
    """
    if "dask.dataframe" not in sys.modules:
        return
    for key in keys:
        name = key[0] if type(key) is tuple and key else key
        if type(name) is not str:
            continue
        if name.startswith(_BARRIER):
            raise UsageError(
                "this graph shuffles through the workers of a distributed cluster (P2P), and "
                f"raydask has none: {_REMEDY}"
            )
        if name.startswith(_PARTD) and count_nodes() > 1:
            raise UsageError(
                "this graph shuffles through files of one machine, and there are several nodes: "
                + _REMEDY
            )


def _has_client() -> bool:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.default_client()
    except (AttributeError, ValueError):  # it is in the middle of its import; there is none
        return False
    return True


def _loaded_config() -> Any:
    config = sys.modules.get("dask.config")
    return config if hasattr(config, "set") else None  # it may be in the middle of its import
