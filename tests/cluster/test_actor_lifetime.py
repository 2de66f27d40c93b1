"""Actors from beginning to end: handles, names, options, errors, restarts."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import raydask
from raydask.errors import ActorDiedError, TaskError, UsageError
from tests.cluster.probes import Gate, eventually
from tests.cluster.samples import Counter

pytestmark = pytest.mark.usefixtures("cluster")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


# --- handles --------------------------------------------------------------------------------


def test_a_handle_goes_to_tasks_and_to_other_actors() -> None:
    counter = Counter.remote()

    @raydask.remote
    def use(handles: list[Any]) -> int:
        return raydask.get(handles[0].add.remote())

    @raydask.remote
    class User:
        def __init__(self, counter: Any) -> None:
            self.counter = counter

        def use(self) -> int:
            return raydask.get(self.counter.add.remote())

    assert raydask.get(use.remote([counter])) == 1
    user = User.remote(counter)
    assert raydask.get(user.use.remote()) == 2


def test_two_actors_call_each_other() -> None:
    @raydask.remote(max_concurrency=2)
    class Player:
        def play(self, other: Any, n: int) -> int:
            return 1 + raydask.get(other.play.remote(raydask.get_actor("pong"), n - 1)) if n else 0

    ping = Player.remote()
    pong = Player.options(name="pong").remote()
    assert raydask.get(ping.play.remote(pong, 2), timeout=5) == 2


def test_a_task_creates_an_actor_and_returns_its_handle() -> None:
    @raydask.remote
    def make() -> Any:
        counter = Counter.remote(5)
        raydask.get(counter.add.remote())
        return counter

    counter = raydask.get(make.remote())
    assert raydask.get(counter.get.remote()) == 6


def test_handles_compare_and_know_their_methods() -> None:
    counter = Counter.remote()
    assert counter == copy.copy(counter) and counter != Counter.remote()
    assert len({counter, copy.copy(counter)}) == 1
    assert "Counter" in repr(counter) and "add" in dir(counter)
    with pytest.raises(AttributeError, match="has no method 'missing'"):
        counter.missing
    with pytest.raises(UsageError, match=r"\.add\.remote"):
        counter.add()
    with pytest.raises(UsageError, match=r"Counter\.remote"):
        Counter()


def test_a_process_ends_with_its_last_handle() -> None:
    counter = Counter.remote()
    pid = raydask.get(counter.pid.remote())
    other = [counter]
    del counter
    assert raydask.get(other[0].pid.remote()) == pid
    del other
    eventually(lambda: is_gone(pid))


def test_a_handle_in_a_task_keeps_the_actor(gate: Callable[[str], Gate]) -> None:
    begun, release = gate("begun"), gate("release")

    @raydask.remote
    def use(handles: list[Any]) -> int:
        begun.open()
        release.wait()
        return raydask.get(handles[0].add.remote())

    counter = Counter.remote()
    pid = raydask.get(counter.pid.remote())
    ref = use.remote([counter])
    del counter
    eventually(lambda: begun.is_open)
    assert not is_gone(pid)
    release.open()
    assert raydask.get(ref, timeout=5) == 1
    eventually(lambda: is_gone(pid))


def test_calls_under_way_finish_when_the_handle_goes() -> None:
    refs = [Counter.remote(i).add.remote() for i in range(5)]
    assert raydask.get(refs, timeout=8) == [1, 2, 3, 4, 5]


# --- names ----------------------------------------------------------------------------------


def test_a_named_actor_is_found_by_its_name() -> None:
    counter = Counter.options(name="shared").remote(1)
    found = raydask.get_actor("shared")
    assert found == counter
    assert raydask.get(found.add.remote()) == 2

    @raydask.remote
    def use() -> int:
        return raydask.get(raydask.get_actor("shared").add.remote())

    assert raydask.get(use.remote()) == 3


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UsageError, match="no actor named 'nobody' lives in namespace 'default'"):
        raydask.get_actor("nobody")


def test_a_name_is_taken_once() -> None:
    first = Counter.options(name="taken").remote(5)
    with pytest.raises(UsageError, match="'taken' exists already"):
        Counter.options(name="taken").remote()
    again = Counter.options(name="taken", get_if_exists=True).remote()
    assert again == first and raydask.get(again.get.remote()) == 5


def test_get_if_exists_makes_the_actor_once() -> None:
    @raydask.remote
    def increment() -> int:
        counter = Counter.options(name="once", get_if_exists=True, lifetime="detached").remote()
        return raydask.get(counter.add.remote())

    refs = [increment.remote() for _ in range(10)]
    try:
        assert sorted(raydask.get(refs, timeout=8)) == list(range(1, 11))
    finally:
        raydask.kill(raydask.get_actor("once"))


def test_a_name_is_free_again_when_the_actor_has_ended() -> None:
    counter = Counter.options(name="reused").remote()
    pid = raydask.get(counter.pid.remote())
    raydask.kill(counter)
    eventually(lambda: is_gone(pid))

    def make() -> Any:
        try:
            return Counter.options(name="reused").remote(7)
        except UsageError:
            return None

    assert raydask.get(eventually(make).get.remote()) == 7


def test_namespaces_keep_names_apart() -> None:
    here = Counter.options(name="n").remote(1)
    there = Counter.options(name="n", namespace="other").remote(2)
    assert raydask.get_actor("n") == here
    assert raydask.get_actor("n", namespace="other") == there


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_returns": 2}, "unknown option num_returns for an actor"),
        ({"max_concurrency": 0}, "max_concurrency must be a whole number of at least 1"),
        ({"max_restarts": -2}, "max_restarts must be a whole number of at least -1"),
        ({"max_task_retries": "x"}, "max_task_retries must be a whole number"),
        ({"lifetime": "long"}, 'lifetime must be "detached" or None'),
        ({"name": 5}, "an actor's name must be a string"),
        ({"get_if_exists": True}, "get_if_exists needs a name"),
        ({"num_cpus": -1}, "num_cpus must be a number"),
    ],
)
def test_bad_options_are_refused_with_a_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Counter.options(**options)
    with pytest.raises(UsageError, match=message):
        raydask.remote(**options)(type("Plain", (), {}))


def test_bad_options_of_methods_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown option timeout for a method"):
        raydask.method(timeout=1)
    with pytest.raises(UsageError, match="num_returns must be a whole number"):
        raydask.method(num_returns="two")
    with pytest.raises(UsageError, match="max_task_retries must be"):
        Counter.remote().add.options(max_task_retries=-5)


def test_an_actor_takes_no_cpu_unless_asked() -> None:
    idle = [Counter.remote() for _ in range(3)]
    raydask.get([one.get.remote() for one in idle])
    assert raydask.available_resources()["CPU"] == 2
    busy = Counter.options(num_cpus=1.5).remote()
    raydask.get(busy.get.remote())
    assert raydask.available_resources()["CPU"] == 0.5
    raydask.kill(busy)
    eventually(lambda: raydask.available_resources()["CPU"] == 2)


# --- errors and ends ------------------------------------------------------------------------


def test_an_error_in_a_method_leaves_the_actor_as_it_is() -> None:
    counter = Counter.remote(3)
    with pytest.raises(KeyError, match="failed") as caught:
        raydask.get(counter.fail.remote())
    assert isinstance(caught.value, TaskError)
    assert caught.value.task_name == "Counter.fail"
    assert raydask.get(counter.get.remote()) == 3


def test_an_error_in_init_is_in_every_call() -> None:
    @raydask.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("cannot be made")

        def value(self) -> int:
            return 1

    broken = Broken.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="cannot be made"):
            raydask.get(broken.value.remote(), timeout=5)


def test_wrong_arguments_of_init_are_told() -> None:
    with pytest.raises(ActorDiedError, match="unexpected keyword argument 'wrong'"):
        raydask.get(Counter.remote(wrong=1).get.remote(), timeout=5)


def test_kill_ends_the_actor_at_once(gate: Callable[[str], Gate]) -> None:
    begun = gate("begun")

    @raydask.remote(max_restarts=5)
    class Busy:
        def hold(self) -> None:
            begun.open()
            time.sleep(60)

        def pid(self) -> int:
            return os.getpid()

    busy = Busy.remote()
    pid = raydask.get(busy.pid.remote())
    under_way, behind = busy.hold.remote(), busy.pid.remote()
    eventually(lambda: begun.is_open)
    raydask.kill(busy)
    for ref in (under_way, behind, busy.pid.remote()):
        with pytest.raises(ActorDiedError, match=r"raydask\.kill"):
            raydask.get(ref, timeout=5)
    eventually(lambda: is_gone(pid))


def test_only_actors_can_be_killed() -> None:
    with pytest.raises(UsageError, match="takes an actor's handle, not str"):
        raydask.kill("actor")


def test_a_dead_process_is_told_with_its_cause() -> None:
    counter = Counter.remote()
    pid = raydask.get(counter.pid.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError, match=f"process {pid} was ended by signal 9.*SIGKILL"):
        raydask.get(counter.get.remote(), timeout=5)


def test_a_call_that_ends_the_process_fails() -> None:
    counter = Counter.remote()
    with pytest.raises(ActorDiedError, match="exited with code 7"):
        raydask.get(counter.die.remote(), timeout=5)


def test_max_restarts_starts_the_process_again() -> None:
    counter = Counter.options(max_restarts=2).remote(10)
    for _ in range(2):
        pid = raydask.get(counter.pid.remote())
        assert raydask.get(counter.add.remote()) == 11
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: is_gone(pid))

        def answers() -> bool:
            try:
                return raydask.get(counter.get.remote(), timeout=5) == 10
            except ActorDiedError:
                return False

        eventually(answers)
    os.kill(raydask.get(counter.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="signal 9"):
        eventually(lambda: raydask.get(counter.die.remote(), timeout=5) and False)


def test_max_task_retries_sends_calls_again(gate: Callable[[str], Gate]) -> None:
    once = gate("once")

    @raydask.remote(max_restarts=1, max_task_retries=1)
    class Fragile:
        def work(self) -> str:
            if not once.is_open:
                once.open()
                os._exit(1)
            return "done"

    fragile = Fragile.remote()
    refs = [fragile.work.remote() for _ in range(5)]
    assert raydask.get(refs, timeout=8) == ["done"] * 5


def test_a_call_under_way_is_not_repeated_unless_asked() -> None:
    counter = Counter.options(max_restarts=1).remote()
    ref = counter.die.remote()
    with pytest.raises(ActorDiedError, match="max_task_retries"):
        raydask.get(ref, timeout=5)


def test_kill_without_no_restart_restarts() -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote(1)
    pid = raydask.get(counter.pid.remote())
    raydask.kill(counter, no_restart=False)
    assert eventually(lambda: raydask.get(counter.pid.remote(), timeout=5) != pid)


def test_twenty_actors_at_once() -> None:
    actors = [Counter.remote(i) for i in range(20)]
    assert raydask.get([actor.add.remote() for actor in actors]) == list(range(1, 21))
    pids = raydask.get([actor.pid.remote() for actor in actors])
    assert len(set(pids)) == 20
    del actors
    eventually(lambda: all(map(is_gone, pids)))
