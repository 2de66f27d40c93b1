"""`raydask memory` and `raydask.util`: every object, who holds it and who reads it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import raydask
from raydask import util
from raydask.errors import ClusterUnavailableError
from tests.cluster.probes import Gate, eventually, run_driver

HERE = Path(__file__).name


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Run a session in which call sites are recorded; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYDASK_RECORD_CALL_SITES", "1")
        with raydask.init(num_cpus=2, object_store_memory=256 << 20) as context:
            yield context["address"]


@pytest.fixture(autouse=True)
def everything_is_forgotten(cluster: str) -> Iterator[None]:
    yield
    gc.collect()
    eventually(lambda: not util.memory_report().nodes[0].totals, "no objects are left")


def ask(address: str | None = None) -> util.NodeMemory:
    (node,) = util.memory_report(address).nodes
    for each in node.objects:
        assert len(each.holders) == min(each.holds, 100)
    assert sum(total.count for total in node.totals.values()) == len(node.objects)
    return node


def row(ref: raydask.ObjectRef) -> util.ObjectMemory:
    """What the node says of an object, which the test holds."""
    (found,) = [each for each in ask().objects if each.id == ref.hex()]
    assert ("driver", os.getpid()) in [(each.role, each.pid) for each in found.holders]
    return found


def others(ref: raydask.ObjectRef) -> list[tuple[str, str]]:
    """Who holds an object beside the test: role and name."""
    return [(each.role, each.name) for each in row(ref).holders if each.role != "driver"]


def readers(ref: raydask.ObjectRef) -> list[tuple[str, str, int]]:
    return [(each.role, each.name, each.pid) for each in row(ref).pinned_by]


def raydask_memory(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "raydask", "memory", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **environment},
    )


@raydask.remote
class Keeper:
    """Keeps refs, or what they refer to."""

    def keep(self, refs: list[raydask.ObjectRef]) -> int:
        self.kept: Any = refs
        return os.getpid()

    def read(self, refs: list[raydask.ObjectRef]) -> int:
        self.kept = raydask.get(refs)
        return os.getpid()


@raydask.remote
def wait_for(gate: Gate, *inputs: Any) -> None:
    gate.wait()


def test_values_of_each_size_say_where_they_are() -> None:
    inline = raydask.put("small")
    stored = raydask.put(np.zeros(1 << 20))

    assert (row(inline).state, row(stored).state) == ("inline", "shared_memory")
    assert row(inline).size < 100
    assert 8 << 20 <= row(stored).size < (8 << 20) + 1000
    assert row(stored).made_by == f"put by driver {os.getpid()}"
    assert others(stored) == []
    node = ask()
    assert node.capacity == 256 << 20
    assert node.sealed >= 8 << 20
    assert node.used == node.sealed + node.unsealed
    assert node.inline == row(inline).size


def test_a_ref_in_a_value_is_held_by_that_object() -> None:
    inner = raydask.put(1)
    outer = raydask.put([inner])

    (holder,) = [each for each in row(inner).holders if each.role == "object"]
    assert holder.id == outer.hex()


def test_what_an_actor_keeps_is_held_by_its_worker() -> None:
    keeper, ref = Keeper.remote(), raydask.put(np.zeros(1 << 20))
    pid = raydask.get(keeper.keep.remote([ref]))

    eventually(lambda: others(ref) == [("worker", "actor Keeper")])
    assert [each.pid for each in row(ref).holders if each.role == "worker"] == [pid]
    assert readers(ref) == []


def test_what_an_actor_has_read_is_pinned_by_its_worker() -> None:
    keeper, ref = Keeper.remote(), raydask.put(np.zeros(1 << 20))
    pid = raydask.get(keeper.read.remote([ref]))

    eventually(lambda: readers(ref) == [("worker", "actor Keeper", pid)])


def test_arguments_are_held_and_pinned_by_their_task(gate: Callable[[str], Gate]) -> None:
    release = gate("release")
    array, lent = raydask.put(np.zeros(1 << 20)), raydask.put(1)
    running = wait_for.remote(release, array, [lent])
    waiting = wait_for.remote(release, running, array)

    eventually(lambda: "in worker" in row(running).made_by)
    assert row(running).state == row(waiting).state == "pending"
    assert row(running).made_by.startswith("task wait_for in worker")
    assert row(waiting).made_by == "task wait_for, which waits for 1 of its inputs"
    assert others(array) == [("argument", "wait_for")] * 2
    assert others(lent) == [("borrowed", "wait_for")]
    ((role, name, pid),) = readers(array)
    assert (role, name) == ("argument", "wait_for")
    (worker,) = [each for each in ask().processes if each.pid == pid]
    assert (worker.role, worker.name) == ("worker", "task wait_for")
    release.open()
    raydask.get(waiting)


def test_a_view_pins_its_object_until_it_goes() -> None:
    ref = raydask.put(np.zeros(1 << 20))
    view = raydask.get(ref)

    assert readers(ref) == [("driver", row(ref).holders[0].name, os.getpid())]
    (driver,) = [each for each in ask().processes if each.role == "driver"]
    assert (driver.pid, driver.pinned, driver.pinned_bytes) == (os.getpid(), 1, row(ref).size)
    assert driver.private > 1 << 20
    del view
    eventually(lambda: readers(ref) == [])


def test_a_failed_task_leaves_an_error() -> None:
    ref = raydask.remote(lambda: 1 / 0).remote()
    raydask.wait([ref])

    assert row(ref).state == "error"


def test_a_function_holds_what_its_closure_refers_to(cluster: str) -> None:
    # In a job of its own: functions are kept as long as their job.
    code, out, err = run_driver(
        f"""
        import raydask
        from raydask import util

        raydask.init({cluster!r})
        ref = raydask.put(1)

        @raydask.remote
        def closes():
            return raydask.get(ref)

        raydask.get(closes.remote())
        (node,) = util.memory_report().nodes
        (found,) = [each for each in node.objects if each.id == ref.hex()]
        print([each.name for each in found.holders if each.role == "function"])
        """
    )
    assert (code, out, err) == (0, "['closes']\n", "")


def test_call_sites_are_those_of_the_program(gate: Callable[[str], Gate]) -> None:
    release = gate("release")

    @raydask.remote(num_returns=2)
    def outer() -> tuple[Any, Any]:
        return [raydask.put(np.zeros(1 << 20))], None

    def line_of(ref: raydask.ObjectRef) -> str:
        site = eventually(lambda: row(ref).call_site)
        assert HERE in site
        return site.rpartition(" in ")[2]

    def in_a_function() -> raydask.ObjectRef:
        return raydask.put(2)

    put, first = in_a_function(), outer.remote()
    (inner,) = raydask.get(first[0])
    called = Keeper.remote().keep.remote([])
    box = raydask.put([called])  # the node hears of an actor's result when its ref leaves
    pending = wait_for.remote(release)
    sites = [line_of(each) for each in (put, first[0], first[1], inner, called, box, pending)]
    assert sites[0] == "in_a_function"
    assert sites[3] == "outer"
    assert {sites[n] for n in (1, 2, 4, 5, 6)} == {"test_call_sites_are_those_of_the_program"}
    release.open()
    raydask.get(pending)


def test_nothing_is_recorded_unless_it_is_asked_for(folder: Path) -> None:
    code, out, err = run_driver(
        """
        import raydask
        from raydask import util

        raydask.init(num_cpus=1)
        refs = [raydask.put(1), raydask.remote(lambda: 1).remote()]
        raydask.get(refs)
        print({each.call_site for each in util.memory_report().nodes[0].objects})
        """,
        RAYDASK_RECORD_CALL_SITES="0",
        TMPDIR=str(folder),  # the latest session is to be that of these tests
    )
    assert (code, out, err) == (0, "{''}\n", "")


def test_the_summary_is_the_report_as_text() -> None:
    def put_one(value: int) -> raydask.ObjectRef:
        return raydask.put(value)

    refs = [put_one(number) for number in range(3)]
    text = util.memory_summary()

    for ref in refs:
        assert ref.hex() in text
    assert f"driver {os.getpid()}" in text
    assert "put_one" in text
    short = util.memory_summary(limit=1, sort="age")
    assert refs[0].hex() in short
    assert refs[1].hex() not in short
    assert "Objects, 1 of 3" in short


def test_the_command_finds_the_latest_session_and_is_no_job(cluster: str) -> None:
    def next_job() -> int:
        code, out, _ = run_driver(f"import raydask; print(raydask.init({cluster!r})['job'])")
        return int(out) if code == 0 else 0

    stored, inline = raydask.put(np.zeros(1 << 20)), raydask.put(1)
    before = next_job()
    shown = raydask_memory()

    assert (shown.returncode, shown.stderr) == (0, "")
    for part in (cluster, stored.hex(), inline.hex(), f"driver {os.getpid()}", "shared memory"):
        assert part in shown.stdout
    assert next_job() == before + 1
    eventually(
        lambda: [each.pid for each in ask().processes if each.role == "driver"] == [os.getpid()]
    )


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_command_prints_json_of_a_session_with_an_address(cluster: str, by: str) -> None:
    small, large = raydask.put(1), raydask.put("x" * 1000)
    options = ["--json", "--limit", "1"] + (["--address", cluster] if by == "option" else [])
    environment = {"RAYDASK_ADDRESS": cluster} if by == "environment" else {}
    shown = raydask_memory(*options, **environment)

    assert (shown.returncode, shown.stderr) == (0, "")
    (node,) = json.loads(shown.stdout)["nodes"]
    assert node["session"] == cluster
    assert [each["id"] for each in node["objects"]] == [large.hex()]
    assert msgspec.json.decode(shown.stdout, type=util.MemoryReport).nodes[0].totals
    assert small.hex() != large.hex()


def test_without_a_session_the_command_says_so(tmp_path: Path) -> None:
    for options in ([], ["--address", str(tmp_path)], ["--json"]):
        shown = raydask_memory(*options, TMPDIR=str(tmp_path))
        assert (shown.returncode, shown.stdout) == (1, "")
        assert shown.stderr.startswith("Error: ")
        assert "raydask.init()" in shown.stderr
    assert raydask_memory("--sort", "colour").returncode == 2


def test_a_session_whose_node_is_gone_is_none(tmp_path: Path) -> None:
    (tmp_path / "node.sock").touch()
    with pytest.raises(ClusterUnavailableError, match="not the folder of a running session"):
        util.memory_report(str(tmp_path))
