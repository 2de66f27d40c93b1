"""The session's own processes die: node, supervisor, global scheduler, Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis

import raydask
from raydask.errors import ClusterUnavailableError, RaydaskError
from tests.cluster.probes import connect_redis, eventually, process_named, session_processes


@pytest.fixture
def session() -> Iterator[str]:
    """Run a session of the test's own on two CPUs; its address."""
    with raydask.init(num_cpus=2) as context:
        yield context["address"]


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that only waits for its parent's notice does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the node and its session -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["node", "supervisor"])
def test_when_the_node_dies_everything_that_waits_is_told(session: str, name: str) -> None:
    @raydask.remote
    class Actor:
        def hold(self) -> None:
            time.sleep(60)

    actor = Actor.remote()
    refs = [raydask.remote(time.sleep).remote(60), actor.hold.remote()]
    ready = raydask.remote(lambda: 1).remote()
    raydask.get(ready)
    processes = session_processes(session)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(raydask.get, ref) for ref in refs]
        waiting.append(pool.submit(raydask.wait, refs))
        future = refs[0].future()
        assert raydask.wait(refs, timeout=0.1)[0] == []
        process_named(session, name).kill()
        for result in waiting:
            with pytest.raises(RaydaskError):
                result.result(8)
        with pytest.raises(ClusterUnavailableError):
            future.result(8)
    for call in (
        lambda: raydask.get(ready),
        lambda: raydask.put(1),
        lambda: raydask.remote(lambda: 1).remote(),
        lambda: raydask.wait(refs),
        raydask.nodes,
    ):
        with pytest.raises(ClusterUnavailableError, match=r"raydask\.init\(\)"):
            call()
    assert not raydask.is_initialized()
    eventually(lambda: not any(map(is_alive, processes)), seconds=10)
    eventually(lambda: not os.path.exists(session), seconds=10)
    raydask.init(num_cpus=1)
    assert raydask.get(raydask.remote(lambda: 5).remote()) == 5


# --- the global scheduler -----------------------------------------------------------------------


def test_the_global_scheduler_is_restarted_and_work_goes_on(session: str) -> None:
    @raydask.remote
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def add(self) -> int:
            self.value += 1
            return self.value

    counter = Counter.options(name="before").remote()
    assert raydask.get(counter.add.remote()) == 1
    old = process_named(session, "global-scheduler")
    old.kill()
    double = raydask.remote(lambda x: 2 * x)
    assert raydask.get([double.remote(i) for i in range(500)]) == list(range(0, 1000, 2))
    assert raydask.get(counter.add.remote()) == 2
    new = Counter.options(name="after").remote()
    assert raydask.get(new.add.remote(), timeout=8) == 1
    assert process_named(session, "global-scheduler").pid != old.pid
    assert raydask.get(raydask.get_actor("before").add.remote(), timeout=8) == 3
    with pytest.raises(raydask.errors.UsageError, match="'before' exists already"):
        Counter.options(name="before").remote()


def test_a_named_actor_asked_for_while_the_global_scheduler_is_down(session: str) -> None:
    @raydask.remote
    class Actor:
        def value(self) -> int:
            return 5

    actor = Actor.options(name="kept").remote()
    raydask.get(actor.value.remote())
    for _ in range(3):
        process_named(session, "global-scheduler").kill()
        assert raydask.get(raydask.get_actor("kept").value.remote(), timeout=8) == 5
        eventually(lambda: process_named(session, "global-scheduler"))


# --- Redis --------------------------------------------------------------------------------------


def redis_process(session: str) -> psutil.Process:
    (found,) = [process for process in session_processes(session) if "redis" in process.name()]
    return found


def test_redis_is_restarted_and_work_goes_on(session: str) -> None:
    def keys() -> int:
        try:
            with connect_redis(session) as client:
                return len(list(client.scan_iter("task:*")))
        except redis.ConnectionError:
            return 0  # it is on its way

    nothing = raydask.remote(lambda: None)
    refs = [nothing.remote() for _ in range(10)]
    raydask.get(refs)
    eventually(lambda: keys() == 10)
    redis_process(session).kill()
    raydask.get([nothing.remote() for _ in range(500)])

    @raydask.remote
    class Actor:
        def value(self) -> int:
            return 5

    assert raydask.get(Actor.options(name="after").remote().value.remote(), timeout=8) == 5
    more = [nothing.remote() for _ in range(5)]
    raydask.get(more)

    eventually(lambda: keys() >= 15, "entries from before and after the restart")
