"""A pytest plugin that makes raydask the scheduler of Dask's own tests.

Loaded with ``-p`` into the run of an installed suite.  Tests that name a scheduler get
raydask too, since Dask's registry leads every name to it.

Each test that cannot pass is deselected by name below, with the reason.
"""

from __future__ import annotations

import dask
import dask.base
import pytest

import raydask

SHARES_MEMORY = "expects tasks to change objects of the calling process, or to return the same"
LOCKS = "passes a threading.Lock, which belongs to one process"
GENERATOR = "hands a generator from task to task, which only works within a process"
WARNING = "expects in the calling process a warning that the task gives, in its worker"
REGISTRY = "asks which schedulers Dask chooses by default or by name"

DESELECTED: dict[str, str] = {
    "test_traverse_false": SHARES_MEMORY,
    "test_array_delayed_complex_optimization_kwargs": SHARES_MEMORY,
    "test_to_delayed_optimize_graph": SHARES_MEMORY,
    "test_repartition_partition_size_complex_dtypes": SHARES_MEMORY,
    "test_bag_with_single_callable": SHARES_MEMORY,
    "test_take_npartitions_warn": WARNING,
    "test_from_delayed_iterator": GENERATOR,
    "test_reductions_are_lazy": GENERATOR,
    "test_checkpoint": SHARES_MEMORY,
    "test_checkpoint_collections": SHARES_MEMORY,
    "test_wait_on_one": SHARES_MEMORY,
    "test_wait_on_many": SHARES_MEMORY,
    "test_bind": SHARES_MEMORY,
    "test_compute_array_bag": REGISTRY,
    "test_persist_array_bag": REGISTRY,
    "test_get_scheduler": REGISTRY,
    "test_num_workers_config": REGISTRY,
}


def pytest_configure(config: pytest.Config) -> None:
    for mark in ("slow", "network", "flaky", "gpu", "array_expr", "normal_and_array_expr"):
        config.addinivalue_line("markers", f"{mark}: one of Dask's own")
    raydask.init(num_cpus=2)
    for name in dask.base.named_schedulers:
        dask.base.named_schedulers[name] = raydask.get
    dask.config.set(scheduler=raydask.get)


def pytest_unconfigure(config: pytest.Config) -> None:
    raydask.shutdown()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.name.partition("[")[0] in DESELECTED]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
