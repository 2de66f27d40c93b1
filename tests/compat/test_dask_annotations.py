"""What users ask for with `dask.annotate` or as options of ``compute``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import pytest
from dask import delayed
from dask._task_spec import Task
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

import raydask
from raydask.compat.dask.annotations import collect_options
from raydask.errors import UsageError


def hlg(annotations: dict[str, Any]) -> Any:
    tasks = {("x", i): Task(("x", i), abs, -i) for i in range(3)}
    layer = MaterializedLayer(tasks, annotations=annotations)
    return HighLevelGraph({"x": layer}, {"x": set()})


KEYS = [("x", i) for i in range(3)]


def test_layers_annotate_their_keys() -> None:
    options = collect_options(hlg({"priority": 5, "retries": 2}), [*KEYS, "other"], {})

    assert set(options) == set(KEYS)
    assert {(o.priority, o.retries) for o in options.values()} == {(5, 2)}


def test_callables_are_called_with_the_key() -> None:
    options = collect_options(hlg({"priority": lambda key: key[1]}), KEYS, {})

    assert [options[key].priority for key in KEYS] == [0, 1, 2]


def test_a_layers_word_counts_before_the_calls() -> None:
    options = collect_options(hlg({"priority": 5}), [*KEYS, "other"], {"priority": 1, "retries": 3})

    assert [options[key].priority for key in [*KEYS, "other"]] == [5, 5, 5, 1]
    assert {o.retries for o in options.values()} == {3}


def test_fractional_priorities_keep_their_order() -> None:
    options = collect_options(hlg({"priority": lambda key: [-0.5, 0.25, 0.5][key[1]]}), KEYS, {})

    assert [options[key].priority for key in KEYS] == [-1, 1, 2]


def test_resources_have_the_engines_names() -> None:
    options = collect_options(hlg({"resources": {"GPU": 1, "license": 0.5}}), KEYS, {})

    assert options["x", 0].resources == {"num_gpus": 1, "license": 0.5}


def test_nothing_asked_is_nothing_said() -> None:
    assert collect_options(hlg({"span": "a", "priority": None}), KEYS, {}) == {}


@pytest.mark.parametrize(
    ("annotations", "refused"),
    [
        ({"workers": ["a"]}, True),
        ({"workers": ["a"], "allow_other_workers": False}, True),
        ({"workers": ["a"], "allow_other_workers": True}, False),
        ({"allow_other_workers": True}, False),
    ],
)
def test_addresses_of_workers_are_refused(annotations: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(UsageError, match="no addresses"):
            collect_options(hlg(annotations), KEYS, {})
    else:
        assert all(o.resources == {} for o in collect_options(hlg(annotations), KEYS, {}).values())


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Any]:
    """A function that fails until it has been called a number of times."""

    def fail_until(times: int) -> int:
        (tmp_path / f"{os.getpid()}-{os.urandom(4).hex()}").touch()
        count = len(list(tmp_path.iterdir()))
        if count < times:
            raise OSError(f"attempt {count}")
        return count

    yield fail_until


@pytest.mark.usefixtures("cluster")
def test_retries_of_an_annotation(attempts: Any) -> None:
    with dask.annotate(retries=2):
        value = delayed(attempts)(3)

    assert value.compute(scheduler=raydask.get, optimize_graph=False) == 3


@pytest.mark.usefixtures("cluster")
def test_retries_of_the_call_run_out(attempts: Any) -> None:
    with pytest.raises(OSError, match="attempt 2"):
        delayed(attempts)(9).compute(scheduler=raydask.get, retries=1)


@pytest.mark.usefixtures("cluster")
def test_without_retries_there_is_one_attempt(attempts: Any) -> None:
    with pytest.raises(OSError, match="attempt 1"):
        delayed(attempts)(9).compute(scheduler=raydask.get)


@pytest.mark.usefixtures("cluster")
def test_resources_are_taken() -> None:
    with dask.annotate(resources={"license": 1}):
        x = da.ones((40, 40), chunks=10) + 1

    assert x.sum().compute(scheduler=raydask.get, optimize_graph=False) == 3_200
