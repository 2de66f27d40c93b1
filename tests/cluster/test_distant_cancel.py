"""Cancelling tasks that other nodes run, and what they have submitted there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.errors import TaskCancelledError
from tests.cluster.nodes import eventually_idle, eventually_nothing_is_held_by, on, where
from tests.cluster.probes import Gate, eventually

MakeGate = Callable[[str], Gate]


@pytest.fixture(autouse=True)
def nothing_goes_on(four_nodes: Cluster) -> Iterator[None]:
    yield
    eventually_idle(four_nodes)
    eventually_nothing_is_held_by(four_nodes)


def stall(begun: Gate) -> None:
    """Run until interrupted."""
    begun.open()
    while True:
        time.sleep(0.01)


def deaf(begun: Gate) -> None:
    """Run until killed."""
    while True:
        try:
            begun.open()
            time.sleep(60)
        except BaseException:
            pass


def assert_cancelled(*refs: raydask.ObjectRef) -> None:
    for ref in refs:
        with pytest.raises(TaskCancelledError):
            raydask.get(ref, timeout=8)


def test_a_distant_task_is_interrupted(gate: MakeGate) -> None:
    begun = gate("begun")
    ref = on(3, stall).remote(begun)
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    assert_cancelled(ref)


def test_a_distant_task_that_does_not_listen_is_ended(gate: MakeGate) -> None:
    begun = gate("begun")
    ref = on(2, deaf).remote(begun)
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    assert raydask.wait([ref], timeout=0.2) == ([], [ref])
    raydask.cancel(ref, force=True)
    assert_cancelled(ref)


def test_distant_tasks_that_wait_for_a_worker_never_run(gate: MakeGate) -> None:
    begun, ran = gate("begun"), gate("ran")
    holder = on(4, stall).remote(begun)
    eventually(lambda: begun.is_open)
    queued = [on(4, ran.open).remote() for _ in range(30)]
    assert raydask.wait(queued, timeout=0.2) == ([], queued)
    for ref in queued:
        raydask.cancel(ref)
    assert_cancelled(*queued)
    raydask.cancel(holder)
    assert_cancelled(holder)
    assert not ran.is_open


def test_a_task_that_waits_for_a_distant_input_never_runs(gate: MakeGate) -> None:
    begun, ran = gate("begun"), gate("ran")
    source = on(2, stall).remote(begun)
    waiting = on(3, lambda _: ran.open()).remote(source)
    eventually(lambda: begun.is_open)
    raydask.cancel(waiting)
    assert_cancelled(waiting)
    raydask.cancel(source)
    assert_cancelled(source)
    assert not ran.is_open


def test_what_depends_on_a_cancelled_task_is_cancelled_elsewhere(gate: MakeGate) -> None:
    begun = gate("begun")
    source = on(2, stall).remote(begun)
    after = on(4, where).remote(on(3, where).remote(source))
    eventually(lambda: begun.is_open)
    raydask.cancel(source)
    assert_cancelled(source, after)


def test_children_on_other_nodes_are_cancelled_with_their_parent(gate: MakeGate) -> None:
    begun = [gate(f"begun-{node}") for node in (1, 3, 4)]

    def parent() -> None:
        raydask.get([on(n, stall).remote(g) for n, g in zip((1, 3, 4), begun, strict=True)])

    ref = on(2, parent).remote()
    eventually(lambda: all(each.is_open for each in begun))
    raydask.cancel(ref)
    assert_cancelled(ref)


def test_grandchildren_are_cancelled_by_force(gate: MakeGate) -> None:
    begun = gate("begun")

    def child() -> None:
        raydask.get(on(4, deaf).remote(begun))

    def parent() -> None:
        raydask.get(on(3, child).remote())

    ref = on(2, parent).remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref, force=True)
    assert_cancelled(ref)


def test_children_go_on_when_they_are_not_to_be_cancelled(gate: MakeGate) -> None:
    begun, release, done = gate("begun"), gate("release"), gate("done")

    def child() -> None:
        begun.open()
        release.wait()
        done.open()

    def parent() -> None:
        raydask.get(on(3, child).remote())

    ref = on(2, parent).remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref, recursive=False)
    assert_cancelled(ref)
    release.open()
    eventually(lambda: done.is_open)


def test_the_job_of_a_driver_that_goes_ends_on_all_nodes(
    four_nodes: Cluster, gate: MakeGate
) -> None:
    from tests.cluster.probes import driver

    begun = [gate(f"begun-{node}") for node in (1, 2, 3, 4)]
    script = f"""
        import pathlib, time
        import raydask

        raydask.init({four_nodes.worker_nodes[1].folder!r})

        def stall(path):
            pathlib.Path(path).touch()
            while True:
                time.sleep(0.01)

        paths = {[each.path for each in begun]!r}
        refs = [
            raydask.remote(stall).options(resources={{f"n{{n}}": 1}}).remote(path)
            for n, path in enumerate(paths, 1)
        ]
        print("up")
        time.sleep(60)
    """
    with driver(script) as running:
        running.read_line()
        eventually(lambda: all(each.is_open for each in begun))
        running.kill()
    eventually_idle(four_nodes)
