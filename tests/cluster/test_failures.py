"""Workers that die, tasks that are retried, and tasks that can never run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import raydask
from raydask.errors import WorkerCrashedError
from tests.cluster.probes import eventually, run_driver


def count(folder: Path) -> int:
    """Note in a folder that a task has begun; return how many have."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return len(list(folder.iterdir()))


# --- workers --------------------------------------------------------------------------------


def test_a_crash_without_retries_is_told_with_signal_and_memory(cluster: str) -> None:
    @raydask.remote(max_retries=0)
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError) as caught:
        raydask.get(crash.remote(), timeout=5)
    text = str(caught.value)
    assert "crash" in text and "signal 9 (SIGKILL)" in text
    assert "its memory peaked at" in text and "max_retries" in text


def test_an_exit_is_told_with_its_code(cluster: str) -> None:
    @raydask.remote(max_retries=0)
    def leave() -> None:
        os._exit(3)

    with pytest.raises(WorkerCrashedError, match="exited with code 3"):
        raydask.get(leave.remote(), timeout=5)


def test_a_segmentation_fault_is_told(cluster: str) -> None:
    @raydask.remote(max_retries=0)
    def fault() -> None:
        import ctypes

        ctypes.string_at(0)

    with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
        raydask.get(fault.remote(), timeout=5)


def test_a_task_is_retried_as_often_as_allowed(cluster: str, tmp_path: Path) -> None:
    @raydask.remote(max_retries=2)
    def flaky(succeed_at: int) -> int:
        begun = count(tmp_path)
        if begun < succeed_at:
            os._exit(1)
        return begun

    assert raydask.get(flaky.remote(3), timeout=8) == 3
    with pytest.raises(WorkerCrashedError, match="started 3 times"):
        raydask.get(flaky.remote(100), timeout=8)
    assert len(list(tmp_path.iterdir())) == 6


def test_retries_without_limit(cluster: str, tmp_path: Path) -> None:
    @raydask.remote(max_retries=-1)
    def flaky() -> int:
        begun = count(tmp_path)
        if begun < 6:
            os._exit(1)
        return raydask.get_runtime_context().attempt

    assert raydask.get(flaky.remote(), timeout=8) == 5


def test_exceptions_are_retried_when_asked(cluster: str, tmp_path: Path) -> None:
    @raydask.remote
    def flaky(folder: Path) -> int:
        begun = count(folder)
        if begun < 3:
            raise KeyError(begun)
        return begun

    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(KeyError):
        raydask.get(flaky.remote(folders[0]))
    assert raydask.get(flaky.options(retry_exceptions=True).remote(folders[1])) == 3
    assert raydask.get(flaky.options(retry_exceptions=[LookupError]).remote(folders[2])) == 3
    with pytest.raises(KeyError):
        raydask.get(flaky.options(retry_exceptions=[OSError]).remote(folders[3]))


def test_a_worker_killed_from_outside(cluster: str, tmp_path: Path) -> None:
    @raydask.remote
    def work() -> int:
        begun = count(tmp_path)
        if begun == 1:
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(60)
        return begun

    ref = work.remote()
    pid = tmp_path / "pid"
    eventually(lambda: pid.exists() and pid.read_text())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert raydask.get(ref, timeout=8) >= 2


def test_tasks_behind_a_crash_are_not_lost(cluster: str) -> None:
    @raydask.remote(max_retries=0)
    def work(i: int) -> int:
        if i == 50:
            os._exit(1)
        return i

    raydask.get([work.remote(i) for i in range(50)])
    refs = [work.remote(i) for i in range(100)]
    with pytest.raises(WorkerCrashedError):
        raydask.get(refs[50], timeout=8)
    del refs[50]
    assert raydask.get(refs, timeout=8) == [i for i in range(100) if i != 50]


def test_a_crash_in_the_middle_of_a_large_result_leaks_nothing(cluster: str) -> None:
    @raydask.remote(max_retries=0)
    def crash() -> None:
        refs = [raydask.put(np.ones(500_000)) for _ in range(5)]
        os._exit(len(refs))

    for _ in range(3):
        with pytest.raises(WorkerCrashedError):
            raydask.get(crash.remote(), timeout=8)
    eventually(lambda: raydask.nodes()[0]["object_store_used"] < 64 << 20)


def test_resources_come_back_after_crashes(cluster: str) -> None:
    crash = raydask.remote(max_retries=0)(lambda: os._exit(1))
    refs = [crash.remote() for _ in range(6)]
    for ref in refs:
        with pytest.raises(WorkerCrashedError):
            raydask.get(ref, timeout=8)
    eventually(lambda: raydask.available_resources().get("CPU") == 2)


# --- what can never run -------------------------------------------------------------------------


def test_what_no_node_can_run_is_reported_and_fails() -> None:
    code, out, err = run_driver(
        """
        import raydask
        from raydask.errors import ActorDiedError, InfeasibleError

        raydask.init(num_cpus=1)
        task = raydask.remote(num_cpus=4)(lambda: 1).remote()
        special = raydask.remote(resources={"tpu": 1})(lambda: 1).remote()

        @raydask.remote(num_cpus=8)
        class Large:
            def value(self):
                return 1

        call = Large.remote().value.remote()
        assert raydask.get(raydask.remote(lambda: 5).remote()) == 5
        for ref in (task, special, call):
            try:
                raydask.get(ref, timeout=5)
            except (InfeasibleError, ActorDiedError) as error:
                print(type(error).__name__, error)
        """,
        RAYDASK_INFEASIBLE_SECONDS="0.5",
    )
    assert code == 0, err
    first, second, third = out.splitlines()
    assert first.startswith("InfeasibleError no node could run '<lambda>'")
    assert "'CPU': 4.0" in first and "'tpu': 1.0" in second
    assert third.startswith("ActorDiedError the actor is dead: no node could run 'Large', which")
    assert "asks for {'CPU': 8.0}; ask for less, or start a node that has it" in third
    assert "raydask: no node can run" in err and "fails after 0.5 s" in err


def test_an_infeasible_task_can_be_cancelled(cluster: str) -> None:
    ref = raydask.remote(num_cpus=100)(lambda: 1).remote()
    raydask.cancel(ref)
    with pytest.raises(raydask.errors.TaskCancelledError):
        raydask.get(ref, timeout=5)
