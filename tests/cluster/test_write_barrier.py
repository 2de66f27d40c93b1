"""What another node can see, Redis can rebuild: the lineage is there before the task or ref."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import redis

import raydask
from raydask.cluster_utils import Cluster
from tests.cluster.probes import connect_redis, eventually

WINDOW = "60"
"""Seconds: what is in Redis before is there because somebody asked for it."""


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Run a head and a node, with a resource each for the tasks that shall run there."""
    monkeypatch.setenv("RAYDASK_CONTROL_WINDOW", WINDOW)
    with Cluster(resources={"here": 8}) as cluster:
        cluster.add_node(num_cpus=1, resources={"there": 8})
        cluster.wait_for_nodes()
        yield cluster


def redis_of(cluster: Cluster) -> redis.Redis:
    assert cluster.head_node is not None
    return connect_redis(cluster.head_node.folder)


@raydask.remote
def one(x: Any = None) -> np.ndarray:
    return np.ones(30_000)


@raydask.remote
def look(session: str, keys: list[str], *inputs: Any) -> list[bool]:
    """Say which of these keys are in Redis, from where the task runs."""
    with connect_redis(session) as client:
        return [bool(client.exists(key)) for key in keys]


def task_key(ref: raydask.ObjectRef) -> str:
    return f"task:{ref.hex()[:32]}"


def here(function: Any) -> Any:
    return function.options(num_cpus=1, resources={"here": 1})


def there(function: Any) -> Any:
    return function.options(num_cpus=1, resources={"there": 1})


def test_what_a_lent_task_needs_is_in_redis_when_the_other_node_begins_it(two: Cluster) -> None:
    with two.connect():
        assert two.head_node is not None
        session = two.head_node.folder
        root = here(one).remote()
        middle = here(one).remote(root)
        held = here(one).remote()
        put = raydask.put(np.ones(30_000))
        unrelated = here(one).remote()
        raydask.wait([middle, held, unrelated], num_returns=3)
        keys = [task_key(root), task_key(middle), task_key(held), f"object:{put.hex()}"]
        with redis_of(two) as client:
            assert not client.exists(*keys)

        ref = there(look).remote(session, keys, middle, [held], put)
        assert raydask.get(ref, timeout=20) == [True] * 4

        with redis_of(two) as client:
            entry = json.loads(client.get(task_key(ref)))
            assert entry["name"] == "look" and middle.hex() in entry["dependencies"]
            for each in (entry, json.loads(client.get(task_key(root)))):
                assert client.exists(f"function:{each['template']['function']}")
            assert not client.exists(task_key(unrelated))


def test_a_ref_in_a_result_is_in_redis_before_its_home_gives_it_away(two: Cluster) -> None:
    with two.connect():
        assert two.head_node is not None

        @raydask.remote
        def submit() -> list[Any]:
            return [there(one).remote()]

        ref = there(submit).remote()
        (inner,) = raydask.get(ref, timeout=20)
        assert int(inner.hex()[:8], 16) == 2, "its home is the other node"
        with redis_of(two) as client:
            assert client.exists(task_key(inner))
        assert raydask.get(inner, timeout=20).sum() == 30_000


def test_entries_of_lent_tasks_go_with_their_refs() -> None:
    with Cluster() as cluster:
        cluster.add_node(num_cpus=1, resources={"there": 8})
        cluster.wait_for_nodes()
        with cluster.connect(), redis_of(cluster) as client:
            refs = [there(one).remote() for _ in range(200)]
            raydask.wait(refs, num_returns=200)
            keys = [task_key(ref) for ref in refs]
            assert client.exists(*keys) == 200
            del refs
            eventually(lambda: client.exists(*keys) == 0)


def test_a_redis_that_is_away_holds_nobody_up_for_ever(two: Cluster) -> None:
    with two.connect():
        assert two.head_node is not None
        session = two.head_node.folder
        raydask.get(there(one).remote(), timeout=20)
        with redis_of(two) as client:
            server = psutil.Process(client.info("server")["process_id"])
        server.suspend()
        try:
            assert raydask.get(there(one).remote(), timeout=30).sum() == 30_000
        finally:
            server.resume()
        log = Path(session) / "logs" / "node.log"
        eventually(lambda: "has not been written for 5 s" in log.read_text())
        eventually(lambda: "is being written again" in log.read_text(), seconds=20)
        ref = there(one).remote()
        raydask.get(ref, timeout=20)
        with redis_of(two) as client:
            assert client.exists(task_key(ref))


def test_it_can_be_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDASK_CONTROL_WINDOW", WINDOW)
    monkeypatch.setenv("RAYDASK_WRITE_BARRIER", "0")
    with Cluster() as cluster:
        cluster.add_node(num_cpus=1, resources={"there": 8})
        cluster.wait_for_nodes()
        with cluster.connect():
            ref = there(one).remote()
            raydask.wait([ref])
            with redis_of(cluster) as client:
                assert not client.exists(task_key(ref))
