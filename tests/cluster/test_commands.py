"""`raydask start`, `status` and `stop`: sessions that stay, from a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydask
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.session_folder import running_sessions
from raydask.util import cluster_status
from tests.architecture.source import ROOT
from tests.cluster.probes import eventually, process_named, run_driver, session_processes

SECRET = "a-secret-for-these-tests"


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "raydask", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def start(*words: str, **environment: str) -> tuple[str, str]:
    """Start a session that stays; return its folder and where it listens."""
    result = command("start", "--head", "--num-cpus", "2", *words, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    first = result.stdout.splitlines()[0].split()
    return first[3], first[-1]


@pytest.fixture
def started() -> Iterator[tuple[str, str]]:
    """Start one with a secret that the test knows; end it."""
    folder, endpoint = start(RAYDASK_SECRET=SECRET)
    yield folder, endpoint
    command("stop")
    assert session_processes(folder) == []


@pytest.mark.parametrize("by", ["auto", "folder", "endpoint"])
def test_programs_come_and_go_and_the_session_stays(started: tuple[str, str], by: str) -> None:
    folder, endpoint = started
    address = {"auto": "auto", "folder": folder, "endpoint": endpoint}[by]
    script = f"""
        import raydask
        context = raydask.init({address!r})
        print(context["address"], raydask.get(raydask.remote(lambda: 5).remote()))
    """
    for _ in range(2):
        code, out, err = run_driver(script)
        assert (code, out.split(), err) == (0, [folder, "5"], "")


def test_a_detached_actor_is_there_for_the_next_program(started: tuple[str, str]) -> None:
    script = """
        import raydask
        raydask.init("auto")

        @raydask.remote(name="counter", lifetime="detached")
        class Counter:
            def __init__(self):
                self.value = 0
            def add(self):
                self.value += 1
                return self.value

        try:
            counter = raydask.get_actor("counter")
        except Exception:
            counter = Counter.remote()
        print(raydask.get(counter.add.remote()))
    """
    assert run_driver(script)[:2] == (0, "1\n")
    assert run_driver(script)[:2] == (0, "2\n")


def test_the_status_is_a_table_or_json(started: tuple[str, str]) -> None:
    folder, _ = started
    text = command("status").stdout
    assert "0 of 2 CPU" in text
    assert folder in text
    (node,) = json.loads(command("status", "--json").stdout)
    assert (node["resources"]["CPU"], node["drivers"], node["session"]) == (2, 0, folder)


def test_tasks_that_no_node_can_run_are_counted(started: tuple[str, str]) -> None:
    with raydask.init(started[0]):
        ref = raydask.remote(lambda: 1).options(num_cpus=64).remote()
        raydask.nodes()
        assert cluster_status(started[0])[0].infeasible == 1
        text = command("status").stdout
        assert "waiting for nodes that could have them: 1 (tasks and actors fail" in text
        raydask.cancel(ref)


def test_who_knows_the_secret_sees_the_status_over_the_network(started: tuple[str, str]) -> None:
    folder, endpoint = started

    def is_reported() -> bool:
        result = command("status", "--address", endpoint, "--json", RAYDASK_SECRET=SECRET)
        (node,) = json.loads(result.stdout)
        return node["workers"] == 2 and node["session"] == folder and node["alive"]

    eventually(is_reported)
    result = command("status", "--address", endpoint, RAYDASK_SECRET="x" * 20)
    assert result.returncode == 1
    assert "does not accept this secret" in result.stderr


def test_the_endpoint_outlives_the_global_scheduler(started: tuple[str, str]) -> None:
    folder, endpoint = started
    process_named(folder, "global-scheduler").send_signal(signal.SIGKILL)

    def answers() -> bool:
        result = command("status", "--address", endpoint, "--json", RAYDASK_SECRET=SECRET)
        return result.returncode == 0 and json.loads(result.stdout) != []

    eventually(answers)


def test_stop_ends_what_was_started_and_no_programs_own(started: tuple[str, str]) -> None:
    folder, _ = started
    with raydask.init(num_cpus=1) as own:
        result = command("stop")
        assert result.stdout == f"ended the session in {folder}\n"
        assert raydask.get(raydask.remote(lambda: 1).remote()) == 1
        refused = command("stop", "--address", own["address"])
        assert refused.returncode == 1
        assert f"(its drivers are the processes {os.getpid()})" in refused.stderr
        assert [str(each) for each in running_sessions()] == [own["address"]]
    assert not Path(folder).exists()
    assert "no session" in command("stop").stdout


def test_auto_means_the_latest_session_that_runs(started: tuple[str, str]) -> None:
    with raydask.init(num_cpus=1) as own:
        code, out, _ = run_driver('import raydask; print(raydask.init("auto")["address"])')
        assert (code, out.strip()) == (0, own["address"])
    code, out, _ = run_driver('import raydask; print(raydask.init("auto")["address"])')
    assert (code, out.strip()) == (0, started[0])


def test_a_program_whose_session_is_stopped_is_told(started: tuple[str, str]) -> None:
    with raydask.init(started[0]):
        ref = raydask.remote(time.sleep).remote(60)
        command("stop")
        with pytest.raises(ClusterUnavailableError):
            raydask.get(ref, timeout=8)


def test_two_sessions_do_not_meet(started: tuple[str, str]) -> None:
    other, endpoint = start(RAYDASK_SECRET="another-secret-than-that")
    assert other != started[0]
    assert endpoint != started[1]
    result = command("status", "--address", endpoint, RAYDASK_SECRET=SECRET)
    assert "does not accept this secret" in result.stderr
    assert command("stop", "--address", endpoint).stdout == f"ended the session in {other}\n"
    assert len(json.loads(command("status", "--json").stdout)) == 1


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "--head"),
        (["--head", "--host", "0.0.0.0"], {}, "set RAYDASK_SECRET on all of them"),
        (["--head"], {"RAYDASK_SECRET": "short"}, "16 to 256"),
        (["--head", "--resources", "{x"], {}, "not a JSON object"),
        (["--head", "--resources", '{"x": -1}'], {}, "x must be a number"),
        (["--head", "--resources", '{"CPU": 4}'], {}, "give CPU by num_cpus"),
        (["--head", "--num-cpus", "nan"], {}, "'nan' is not a valid number"),
        (["--head", "--port", "abc"], {}, "'abc' is not a valid whole number"),
        (["--head"], {"RAYDASK_TLS_KEY": "/nowhere"}, "set RAYDASK_TLS_CERTIFICATE"),
        (["--head", "--host", "203.0.113.7"], {"RAYDASK_SECRET": SECRET}, "nothing can listen"),
    ],
)
def test_what_cannot_be_started_says_why(
    words: list[str], environment: dict[str, str], message: str
) -> None:
    result = command("start", *words, **environment)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert running_sessions() == []


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("start", "--head", "--port", str(port))
    assert result.returncode == 1
    assert f"nothing can listen at 127.0.0.1:{port}" in result.stderr
    assert running_sessions() == []


def test_a_start_that_is_interrupted_leaves_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "raydask", "start", "--head"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    root = Path(os.environ["TMPDIR"]) if "TMPDIR" in os.environ else Path("/tmp")
    sessions = root / f"raydask-{os.getuid()}"
    eventually(lambda: list(sessions.glob("s-*/lock")))
    process.kill()
    process.wait()
    eventually(lambda: not sessions.exists() or running_sessions() != [])
    for folder in running_sessions():  # it was up already
        assert command("stop", "--address", str(folder)).returncode == 0


def test_an_address_of_nothing_says_what_to_do() -> None:
    with pytest.raises(ClusterUnavailableError, match="raydask start --head"):
        raydask.init("auto")
    with pytest.raises(ClusterUnavailableError, match="through a node of its own machine"):
        raydask.init("127.0.0.1:1")
    for nothing in ("localhost", "ray://127.0.0.1:1"):
        with pytest.raises(ClusterUnavailableError, match='can be "auto", .* or HOST:PORT'):
            raydask.init(nothing)
    with pytest.raises(UsageError, match="65535"):
        raydask.init("127.0.0.1:99999")
    result = command("status", "--address", "127.0.0.1:1", RAYDASK_SECRET=SECRET)
    assert "no cluster answers at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("status", "set RAYDASK_SECRET to it"),
        ("memory", "ask on one where a node of that cluster runs"),
        ("stop", "sessions are ended on their own machine"),
    ],
)
def test_a_cluster_without_a_node_here_has_a_remedy_for_each_command(
    name: str, remedy: str
) -> None:
    result = command(name, "--address", "127.0.0.1:1", RAYDASK_SECRET="")
    assert result.returncode == 1
    assert "no node of a cluster at 127.0.0.1:1 runs on this machine" in result.stderr
    assert remedy in result.stderr
