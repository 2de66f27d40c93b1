"""Several drivers in one session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raydask
from raydask.errors import TaskError, UsageError
from tests.architecture.source import ROOT
from tests.cluster.probes import (
    connect_redis,
    driver,
    eventually,
    eventually_nothing_is_held,
    run_driver,
    usage,
)

JOIN = """
import os, sys, time
import raydask

context = raydask.init(os.environ["ADDRESS"])

@raydask.remote
class Counter:
    def __init__(self, value=0):
        self.value = value
    def add(self):
        self.value += 1
        return self.value
    def pid(self):
        return os.getpid()
"""


def join(source: str, address: str) -> tuple[int, str, str]:
    """Run a driver that joins the session, and has a class Counter."""
    return run_driver(JOIN + source, ADDRESS=address)


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("by", ["address", "auto", "environment"])
def test_a_driver_joins_by_address_or_auto(cluster: str, by: str) -> None:
    source = """
import os, raydask
context = raydask.init(*{arguments})
print(context["address"], context["job"], raydask.get(raydask.remote(lambda: 5).remote()))
"""
    arguments = {"address": [cluster], "auto": ["auto"], "environment": []}[by]
    environment = {"RAYDASK_ADDRESS": cluster} if by == "environment" else {}
    code, out, err = run_driver(source.format(arguments=arguments), **environment)
    assert (code, err) == (0, "")
    address, job, value = out.split()
    assert (address, value) == (cluster, "5")
    assert int(job) != raydask.get_runtime_context().job_id


def test_the_session_goes_on_when_a_joined_driver_shuts_down(cluster: str) -> None:
    code, out, _ = join("raydask.shutdown(); print(raydask.is_initialized())", cluster)
    assert (code, out) == (0, "False\n")
    assert raydask.get(raydask.remote(lambda: 1).remote()) == 1


@pytest.mark.parametrize("end", ["", "raydask.shutdown()", "os.kill(os.getpid(), 9)"])
def test_the_end_of_a_joined_driver_ends_its_job_only(cluster: str, end: str) -> None:
    @raydask.remote
    class Mine:
        def pid(self) -> int:
            return os.getpid()

    mine, kept = Mine.remote(), raydask.put("kept")
    my_pid = raydask.get(mine.pid.remote())
    before = usage()
    source = (
        """
counter = Counter.options(name="theirs").remote()
pid = raydask.get(counter.pid.remote())
held = [raydask.put(i) for i in range(100)] + [raydask.put(b"x" * 1_000_000)]
running = [raydask.remote(time.sleep).remote(60) for _ in range(100)]
assert raydask.wait(running, timeout=0.1)[0] == []
print(pid, flush=True)
"""
        + end
    )
    _, out, err = join(source, cluster)
    assert err == ""
    eventually(lambda: not is_running(int(out)))
    eventually(lambda: usage()[:2] == before[:2], f"{before} again")
    eventually(lambda: raydask.available_resources().get("CPU") == 2)
    with pytest.raises(UsageError, match="no actor named 'theirs'"):
        eventually(lambda: raydask.get_actor("theirs") and False)
    assert raydask.get(mine.pid.remote()) == my_pid
    assert raydask.get(kept) == "kept"
    assert raydask.get(raydask.remote(lambda: 1).remote()) == 1


def test_a_detached_actor_outlives_its_driver(cluster: str) -> None:
    source = """
counter = Counter.options(name="lasting", lifetime="detached").remote(5)
print(raydask.get(counter.add.remote()), raydask.get(counter.pid.remote()))
"""
    code, out, err = join(source, cluster)
    assert (code, err) == (0, "")
    value, pid = map(int, out.split())
    assert value == 6
    counter = raydask.get_actor("lasting")
    assert raydask.get(counter.add.remote()) == 7
    code, out, _ = join('print(raydask.get(raydask.get_actor("lasting").add.remote()))', cluster)
    assert (code, out) == (0, "8\n")
    raydask.kill(counter)
    eventually(lambda: not is_running(pid))


def test_drivers_share_a_named_actor(cluster: str) -> None:
    @raydask.remote
    class Box:
        def __init__(self) -> None:
            self.value: Any = None

        def set(self, value: Any) -> None:
            self.value = value

        def get(self) -> Any:
            return self.value

    box = Box.options(name="box").remote()
    source = """
box = raydask.get_actor("box")
raydask.get(box.set.remote({"from": "them"}))
"""
    code, _, err = join(source, cluster)
    assert (code, err) == (0, "")
    assert raydask.get(box.get.remote()) == {"from": "them"}


def test_namespaces_of_drivers_are_apart(cluster: str) -> None:
    @raydask.remote
    class Actor:
        pass

    actor = Actor.options(name="here").remote()
    source = f"""
import raydask
raydask.init({cluster!r}, namespace="elsewhere")
try:
    raydask.get_actor("here")
except ValueError as error:
    print(error)
print(raydask.get_actor("here", namespace="default"))
"""
    code, out, err = run_driver(source)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert "no actor named 'here' lives in namespace 'elsewhere'" in first
    assert second == repr(actor)


def test_workers_of_two_drivers_have_modules_of_their_own(cluster: str, tmp_path: Any) -> None:
    (tmp_path / "only_theirs.py").write_text("value = 'theirs'\n")
    source = """
import only_theirs

def use():
    import only_theirs
    return only_theirs.value, os.getcwd()

print(*raydask.get(raydask.remote(use).remote()))
"""
    code, out, err = run_driver(JOIN + source, ADDRESS=cluster, PYTHONPATH=str(tmp_path))
    assert code == 0, err
    assert out.split()[0] == "theirs"

    def use() -> None:
        import only_theirs  # noqa: F401

    with pytest.raises(ModuleNotFoundError) as caught:
        raydask.get(raydask.remote(use).remote())
    assert isinstance(caught.value, TaskError)


def test_output_goes_to_the_driver_whose_task_it_is(
    cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = join('raydask.get(raydask.remote(print).remote("theirs"))', cluster)
    assert code == 0 and out.endswith("theirs\n")
    raydask.get(raydask.remote(print).remote("mine"))
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += capfd.readouterr().out
        return "mine" in seen

    eventually(shown)
    assert "theirs" not in seen


def test_a_driver_that_joined_is_told_when_the_session_ends() -> None:
    with driver(
        """
        import os, sys
        import raydask

        print(raydask.init(num_cpus=1)["address"])
        sys.stdin.readline()
        """
    ) as owner:
        address = owner.read_line()
        source = """
print("joined", flush=True)
try:
    raydask.get(raydask.remote(time.sleep).remote(60))
except raydask.errors.ClusterUnavailableError:
    print("told")
"""
        with driver(JOIN + source, ADDRESS=address) as joined:
            assert joined.read_line() == "joined"
            owner.say()
            assert joined.read_line() == "told"
            assert joined.finish()[0] == 0


def test_the_job_of_a_driver_is_recorded_with_its_end(cluster: str) -> None:
    ends = {"raydask.shutdown()": "FINISHED", "os.kill(os.getpid(), 9)": "DEAD"}
    for end, state in ends.items():
        _, out, _ = join(f"print(context['job'], flush=True); {end}", cluster)

        def found(job: str = out.strip(), state: str = state) -> bool:
            with connect_redis(cluster) as client:
                return f'"state":"{state}"' in (client.get(f"job:{job}") or "")

        eventually(found)


def test_values_in_a_circle_end_with_their_driver(cluster: str) -> None:
    eventually_nothing_is_held()
    code, out, err = join(
        """
import threading
from raydask.util import memory_report

@raydask.remote(max_concurrency=2)
class Exchange:
    def __init__(self):
        self.refs = None
        self.has_come = threading.Event()
    def leave(self, refs):
        self.refs = refs
        self.has_come.set()
    def take(self):
        self.has_come.wait()
        refs, self.refs = self.refs, None
        return refs

@raydask.remote
def contain(exchange):
    return [bytes(500_000), *raydask.get(exchange.take.remote())]

exchange = Exchange.remote()
ref = contain.remote(exchange)
exchange.leave.remote([ref])
value = raydask.get(ref)
assert value[1] == ref
oid = ref.hex()
del ref, value
held = lambda: {each.id: each.holders for each in memory_report(limit=None).nodes[0].objects}
while any(each.role != "object" for each in held()[oid]):
    time.sleep(0.01)
print([each.id == oid for each in held()[oid]])
""",
        cluster,
    )
    assert (code, out, err) == (0, "[True]\n", "")
    eventually_nothing_is_held()


SPAWNED = """
import multiprocessing, sys
import raydask

class Box:
    def __init__(self, value):
        self.value = value
    def get(self):
        return self.value

def double(box):
    return Box(2 * box.get())

def child(address):
    raydask.init(address)
    actor = raydask.remote(Box).remote(5)
    doubled = raydask.get(raydask.remote(double).remote(Box(4)))
    through = raydask.get(raydask.put(Box(6)))
    print(double.__module__, type(doubled) is Box, doubled.value, through.value)
    made = raydask.get(raydask.remote(lambda: Box(7)).remote())
    print(raydask.get(actor.get.remote()), made.value)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def test_the_main_scripts_functions_work_in_a_process_that_it_spawned(
    cluster: str, folder: Path
) -> None:
    script = folder / "spawns.py"
    script.write_text(SPAWNED)
    result = subprocess.run(
        [sys.executable, str(script), cluster],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["__mp_main__ True 8 6", "5 7"]
