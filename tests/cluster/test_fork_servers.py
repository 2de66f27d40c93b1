"""The workers of a job share what one process has imported for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

import raydask
from tests.cluster.probes import (
    Gate,
    driver,
    eventually,
    process_named,
    run_driver,
    session_processes,
)


@pytest.fixture
def session() -> Iterator[str]:
    """Run a session of the test's own on two CPUs; its address."""
    with raydask.init(num_cpus=2) as context:
        yield context["address"]


def fork_server(session: str) -> psutil.Process:
    """Return the first job's fork server."""
    return eventually(lambda: find_fork_server(session), "the fork server")


def find_fork_server(session: str) -> psutil.Process | None:
    try:
        return process_named(session, "fork-server-65537")
    except AssertionError:
        return None


def total(start: int, gate: Gate | None = None) -> tuple[int, int, int]:
    """Return a sum, and the worker that made it with its parent."""
    if gate is not None:
        gate.wait()
    return int(np.arange(start).sum()), os.getpid(), os.getppid()


def draw(here: Gate, gate: Gate) -> tuple[int, list[float]]:
    """Return this worker and random numbers, when all of them are there to draw."""
    here.open()
    gate.wait()
    return os.getpid(), list(np.random.random(3))


def test_workers_come_from_a_process_that_has_imported_the_package(session: str) -> None:
    task = raydask.remote(total)
    assert raydask.get(task.remote(4))[0] == 6
    parent = raydask.get(task.remote(4))[2]
    assert parent == fork_server(session).pid

    def loaded() -> list[str]:
        return [name for name in ("numpy", "numpy.linalg") if name in sys.modules]

    assert raydask.get(raydask.remote(loaded).remote()) == ["numpy", "numpy.linalg"]


def test_actors_come_from_it_too(session: str) -> None:
    @raydask.remote
    class Model:
        def __init__(self) -> None:
            self.weights = np.ones(3)

        def where(self) -> int:
            return os.getppid()

    models = [Model.remote() for _ in range(3)]
    parents = raydask.get([model.where.remote() for model in models])
    assert set(parents) == {fork_server(session).pid}


def test_each_worker_draws_its_own_random_numbers(session: str, gate: Callable[..., Gate]) -> None:
    both, here = gate(), [gate("first"), gate("second")]
    refs = [raydask.remote(draw).remote(one, both) for one in here]
    eventually(lambda: all(one.is_open for one in here))
    both.open()
    (one, first), (other, second) = raydask.get(refs)
    assert one != other
    assert first != second


def test_a_job_that_needs_nothing_of_the_kind_has_none(session: str) -> None:
    assert raydask.get(raydask.remote(os.getpid).remote())
    assert find_fork_server(session) is None


def test_a_worker_from_before_is_replaced(session: str) -> None:
    pid = raydask.remote(os.getpid)
    before = {raydask.get(pid.remote()) for _ in range(5)}
    raydask.get(raydask.remote(total).remote(4))
    server = fork_server(session)

    def all_are_its_children() -> bool:
        workers = {raydask.get(pid.remote()) for _ in range(5)}
        return not workers & before and workers <= {each.pid for each in server.children()}

    eventually(all_are_its_children)


def test_tasks_go_on_when_the_fork_server_is_killed(
    session: str, gate: Callable[..., Gate]
) -> None:
    task = raydask.remote(total).options(max_retries=2)
    raydask.get(task.remote(4))
    blocked = gate()
    refs = [task.remote(number, blocked) for number in range(6)]
    server = fork_server(session)
    workers = eventually(lambda: len(server.children()) == 2 and server.children())
    server.kill()
    eventually(lambda: not any(worker.is_running() for worker in workers))
    blocked.open()

    results = raydask.get(refs, timeout=20)
    assert [value for value, _, _ in results] == [0, 0, 1, 3, 6, 10]
    assert all(parent != server.pid for _, _, parent in results)
    assert raydask.get(raydask.remote(os.getpid).remote())
    eventually(lambda: not server.is_running())


def test_an_actor_of_a_killed_fork_server_is_restarted(session: str) -> None:
    @raydask.remote(max_restarts=1, max_task_retries=1)
    class Model:
        def size(self) -> int:
            return np.ones(3).size

    model = Model.remote()
    assert raydask.get(model.size.remote()) == 3
    fork_server(session).kill()
    assert raydask.get(model.size.remote(), timeout=20) == 3


def test_it_ends_with_its_job(session: str) -> None:
    script = f"""
        import numpy as np, raydask
        raydask.init({session!r})
        f = raydask.remote(lambda: np.ones(2).sum())
        print(raydask.get(f.remote()))
        print("up")
        input()
    """
    with driver(script) as other:
        assert other.read_line() == "2.0"
        assert other.read_line() == "up"
        server = process_named(session, "fork-server-65538")
        other.say()
        assert other.finish()[0] == 0
        eventually(lambda: not server.is_running())
    assert raydask.get(raydask.remote(total).remote(4))[0] == 6


def test_a_detached_actor_keeps_it(session: str) -> None:
    script = f"""
        import numpy as np, raydask
        raydask.init({session!r}, namespace="shared")

        @raydask.remote(name="keeper", lifetime="detached")
        class Keeper:
            def sum(self):
                return float(np.ones(2).sum())

        keeper = Keeper.remote()
        print(raydask.get(keeper.sum.remote()))
    """
    code, out, err = run_driver(script)
    assert (code, out.strip()) == (0, "2.0"), err
    keeper = raydask.get_actor("keeper", "shared")
    assert raydask.get(keeper.sum.remote()) == 2.0
    server = process_named(session, "fork-server-65538")
    raydask.kill(keeper)
    eventually(lambda: not server.is_running())


def test_a_module_that_cannot_be_imported_there_does_no_harm(session: str) -> None:
    script = f"""
        import sys, types
        import numpy as np, raydask
        sys.modules["numpy.made_up"] = types.ModuleType("numpy.made_up")
        raydask.init({session!r})
        print(raydask.get(raydask.remote(lambda: np.ones(2).sum()).remote()))
    """
    code, out, err = run_driver(script)
    assert (code, out.strip()) == (0, "2.0"), err


def test_without_packages_to_share_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDASK_PRELOAD", "")
    with raydask.init(num_cpus=1) as context:
        assert raydask.get(raydask.remote(total).remote(4))[0] == 6
        assert find_fork_server(context["address"]) is None


def test_nothing_is_left_of_it_after_shutdown() -> None:
    context = raydask.init(num_cpus=2)
    try:
        raydask.get([raydask.remote(total).remote(4) for _ in range(4)])
        processes = session_processes(context["address"])
        assert fork_server(context["address"]).pid in [process.pid for process in processes]
    finally:
        raydask.shutdown()
    assert [process for process in processes if process.is_running()] == []


def test_a_long_history_of_jobs_leaves_none(session: str) -> None:
    script = f"""
        import numpy as np, raydask
        raydask.init({session!r})
        raydask.get(raydask.remote(lambda: np.ones(2).sum()).remote())
    """
    for _ in range(3):
        assert run_driver(script)[0] == 0

    def logs() -> list[str]:
        found = []
        for process in session_processes(session):
            try:
                found.append(os.readlink(f"/proc/{process.pid}/fd/2"))
            except OSError:
                continue
        return [log for log in found if "fork-server" in log]

    eventually(lambda: not logs())
