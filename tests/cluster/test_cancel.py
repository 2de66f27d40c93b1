"""Cancelling and time limits."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import raydask
from raydask.errors import TaskCancelledError, TaskTimeoutError
from tests.cluster.probes import Gate, eventually

pytestmark = pytest.mark.usefixtures("cluster")


@raydask.remote(max_retries=0)
def stall(begun: Gate) -> None:
    """Run until interrupted."""
    begun.open()
    while True:
        time.sleep(0.01)


@raydask.remote
def touch(gate: Gate) -> None:
    """Show that it has run."""
    gate.open()


def eventually_idle() -> None:
    eventually(lambda: raydask.available_resources().get("CPU") == 2)


def test_a_queued_task_never_runs(gate: Callable[[str], Gate]) -> None:
    held, ran = gate("held"), gate("ran")
    holder = stall.options(num_cpus=2).remote(held)
    eventually(lambda: held.is_open)
    queued = touch.remote(ran)
    raydask.cancel(queued)
    with pytest.raises(TaskCancelledError):
        raydask.get(queued)
    raydask.cancel(holder)
    with pytest.raises(TaskCancelledError):
        raydask.get(holder)
    assert not ran.is_open
    eventually_idle()


def test_a_task_that_waits_for_inputs_never_runs(gate: Callable[[str], Gate]) -> None:
    begun, ran = gate("begun"), gate("ran")
    source = stall.remote(begun)
    waiting = raydask.remote(lambda _, gate: gate.open()).remote(source, ran)
    raydask.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        raydask.get(waiting)
    eventually(lambda: begun.is_open)
    raydask.cancel(source)
    eventually_idle()
    assert not ran.is_open


def test_a_running_task_is_interrupted(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")
    ref = stall.remote(begun)
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    with pytest.raises(TaskCancelledError, match="cancelled"):
        raydask.get(ref, timeout=5)
    eventually_idle()


def test_a_task_can_clean_up_when_it_is_cancelled(gate: Callable[[str], Gate]) -> None:
    begun, cleaned = gate("begun"), gate("cleaned")

    @raydask.remote
    def careful() -> None:
        begun.open()
        try:
            while True:
                time.sleep(0.01)
        finally:
            cleaned.open()

    ref = careful.remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    assert cleaned.is_open


def test_force_ends_a_task_that_does_not_listen(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")

    @raydask.remote
    def deaf() -> None:
        begun.open()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    ref = deaf.remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    assert raydask.wait([ref], timeout=0.1) == ([], [ref])
    raydask.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    eventually_idle()


def test_children_are_cancelled_with_their_parent(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")

    @raydask.remote
    def parent() -> None:
        raydask.get(stall.remote(begun))

    ref = parent.remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    eventually_idle()


def test_children_go_on_when_they_are_not_to_be_cancelled(gate: Callable[[str], Gate]) -> None:
    begun, release, done = gate("begun"), gate("release"), gate("done")

    @raydask.remote
    def child() -> None:
        begun.open()
        release.wait()
        done.open()

    @raydask.remote
    def parent() -> None:
        raydask.get(child.remote())

    ref = parent.remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref, recursive=False)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    release.open()
    eventually(lambda: done.is_open)
    eventually_idle()


def test_cancelling_a_finished_task_changes_nothing() -> None:
    ref = raydask.remote(lambda: 1).remote()
    assert raydask.get(ref) == 1
    raydask.cancel(ref)
    raydask.cancel(ref, force=True)
    assert raydask.get(ref) == 1


def test_cancelling_twice_is_harmless(gate: Callable[[str], Gate]) -> None:
    ref = stall.remote(gate("begun"))
    for _ in range(2):
        raydask.cancel(ref)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    eventually_idle()


def test_what_depends_on_a_cancelled_task_is_cancelled_too(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")
    source = stall.remote(begun)
    after = raydask.remote(lambda x: x).remote(source)
    eventually(lambda: begun.is_open)
    raydask.cancel(source)
    with pytest.raises(TaskCancelledError):
        raydask.get(after, timeout=5)
    eventually_idle()


def test_many_queued_tasks_are_cancelled_at_once(gate: Callable[[str], Gate]) -> None:
    begun, ran = gate("begun"), gate("ran")
    holder = stall.options(num_cpus=2).remote(begun)
    eventually(lambda: begun.is_open)
    refs = [touch.remote(ran) for _ in range(300)]
    for ref in refs:
        raydask.cancel(ref)
    raydask.cancel(holder)
    for ref in refs:
        with pytest.raises(TaskCancelledError):
            raydask.get(ref, timeout=5)
    eventually_idle()
    assert not ran.is_open


def test_only_refs_can_be_cancelled() -> None:
    with pytest.raises(raydask.errors.UsageError, match="takes an ObjectRef, not str"):
        raydask.cancel("ref")
    with pytest.raises(raydask.errors.UsageError, match="not a task's return"):
        raydask.cancel(raydask.put(1))


def test_a_task_over_its_time_is_interrupted() -> None:
    @raydask.remote(timeout=0.1)
    def slow() -> None:
        while True:
            time.sleep(0.01)

    with pytest.raises(TaskTimeoutError, match="ran longer than its timeout"):
        raydask.get(slow.remote(), timeout=5)
    eventually_idle()


def test_a_task_over_its_time_that_does_not_listen_is_ended() -> None:
    @raydask.remote(timeout=0.1)
    def deaf() -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    with pytest.raises(TaskTimeoutError, match=r"timeout of 0\.1 s and did not react"):
        raydask.get(deaf.remote(), timeout=8)
    eventually_idle()


def test_a_task_within_its_time_is_left_alone() -> None:
    quick = raydask.remote(timeout=5)(lambda: 1)
    assert raydask.get([quick.remote() for _ in range(20)]) == [1] * 20


def test_an_actors_call_is_cancelled_before_it_begins(gate: Callable[[str], Gate]) -> None:
    begun, release, ran = gate("begun"), gate("release"), gate("ran")

    @raydask.remote
    class Worker:
        def hold(self) -> int:
            begun.open()
            release.wait()
            return 1

        def touch(self, gate: Gate) -> None:
            gate.open()

    worker = Worker.remote()
    holding = worker.hold.remote()
    eventually(lambda: begun.is_open)
    ref = worker.touch.remote(ran)
    raydask.cancel(ref)
    release.open()
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
    assert raydask.get(holding) == 1
    assert not ran.is_open


def test_a_coroutine_call_is_cancelled_while_it_runs(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")

    @raydask.remote
    class Sleeper:
        async def forever(self) -> None:
            import asyncio

            begun.open()
            await asyncio.Event().wait()

    sleeper = Sleeper.remote()
    ref = sleeper.forever.remote()
    eventually(lambda: begun.is_open)
    raydask.cancel(ref)
    with pytest.raises(TaskCancelledError):
        raydask.get(ref, timeout=5)
