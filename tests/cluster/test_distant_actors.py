"""Actors that live on other nodes than their home or their callers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

import raydask
from raydask.cluster_utils import Cluster, ClusterNode
from raydask.errors import ActorDiedError, TaskError
from tests.cluster.probes import eventually

LARGE = 1_000_000
"""Numbers in an array that does not travel in messages."""
PATIENCE = 20.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Run a head, where this program is, and two nodes with a resource each."""
    with Cluster(num_cpus=1) as started:
        started.add_node(num_cpus=1, resources={"disk": 1})
        started.add_node(num_cpus=1, resources={"tape": 1})
        started.wait_for_nodes()
        started.connect()
        yield started


@raydask.remote
class Store:
    """Counts, and keeps what it is given."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.seen: list[Any] = []

    def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def keep(self, value: Any) -> int:
        self.seen.append(value)
        return len(self.seen)

    def kept(self) -> list[float]:
        return [float(np.sum(value)) for value in self.seen]

    def kept_refs(self) -> list[float]:
        return [float(np.sum(each)) for refs in self.seen for each in raydask.get(refs)]

    def forget(self) -> None:
        self.seen.clear()

    def total(self, array: Any, factor: float = 1.0) -> float:
        return float(np.sum(array)) * factor

    def make(self, size: int, value: float = 1.0) -> Any:
        return np.full(size, value)

    @raydask.method(num_returns=2)
    def make_two(self, size: int) -> tuple[Any, int]:
        return np.ones(size), size

    def make_refs(self) -> list[Any]:
        return [raydask.put(np.ones(LARGE)), raydask.put(7)]

    def fail(self) -> None:
        raise ValueError("it was asked to")

    def call_other(self, other: Any, number: int) -> int:
        return int(raydask.get(other.add.remote(number)))

    def pids(self) -> tuple[int, int]:
        return os.getpid(), os.getppid()

    def exit(self) -> None:
        os._exit(1)


def on_disk(**options: Any) -> Any:
    return Store.options(resources={"disk": 0.05}, **options)


def on_tape(**options: Any) -> Any:
    return Store.options(resources={"tape": 0.05}, **options)


def get(refs: Any) -> Any:
    return raydask.get(refs, timeout=PATIENCE)


def node_of(handle: Any, cluster: Cluster) -> ClusterNode:
    """Return the node where an actor lives."""
    _, parent = get(handle.pids.remote())
    # Its job's fork server, if it has one, is a child of the supervisor.
    supervisors = {parent, psutil.Process(parent).ppid()}
    return next(node for node in cluster.list_all_nodes() if node.pid in supervisors)


# --- calls ------------------------------------------------------------------------------------


def test_an_actor_lives_where_its_resources_are(cluster: Cluster) -> None:
    actor = on_disk().remote(3)
    assert get(actor.add.remote(4)) == 7
    assert node_of(actor, cluster) is cluster.worker_nodes[0]


def test_calls_keep_their_order(cluster: Cluster) -> None:
    actor = on_disk().remote()
    assert get([actor.add.remote() for _ in range(1000)]) == list(range(1, 1001))


def test_a_call_waits_for_its_inputs_and_holds_back_those_behind_it(cluster: Cluster) -> None:
    @raydask.remote
    def late() -> int:
        time.sleep(0.2)
        return 10

    actor = on_disk().remote()
    assert get([actor.add.remote(late.remote()), actor.add.remote(1)]) == [10, 11]


def test_tasks_on_other_nodes_call_it(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def use(actor: Any) -> tuple[list[int], float, float]:
        added = raydask.get([actor.add.remote() for _ in range(10)])
        made = raydask.get(actor.make.remote(LARGE))
        return added, float(made.sum()), raydask.get(actor.total.remote(np.ones(LARGE)))

    actor = on_disk().remote()
    added, made, total = get(use.remote(actor))
    assert (added, made, total) == (list(range(1, 11)), LARGE, LARGE)
    assert get(actor.add.remote()) == 11


def test_actors_on_two_nodes_call_each_other(cluster: Cluster) -> None:
    disk, tape = on_disk().remote(), on_tape().remote(100)
    assert get(disk.call_other.remote(tape, 1)) == 101
    assert get(tape.call_other.remote(disk, 2)) == 2


def test_an_actor_that_a_task_has_made_is_called_from_here(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def make() -> Any:
        return on_disk().remote(5)

    actor = get(make.remote())
    assert get(actor.add.remote(1)) == 6
    assert node_of(actor, cluster) is cluster.worker_nodes[0]


# --- values -----------------------------------------------------------------------------------


def test_large_arguments_reach_it(cluster: Cluster) -> None:
    actor = on_disk().remote()
    ref = raydask.put(np.full(LARGE, 2.0))
    calls = [
        actor.total.remote(np.ones(LARGE)),
        actor.total.remote(ref),
        actor.total.remote(ref, factor=3.0),
        actor.total.remote([np.ones(LARGE), np.ones(LARGE)]),
    ]
    assert get(calls) == [LARGE, 2 * LARGE, 6 * LARGE, 2 * LARGE]


def test_results_of_tasks_anywhere_reach_it(cluster: Cluster) -> None:
    @raydask.remote
    def make(value: float) -> Any:
        return np.full(LARGE, value)

    anywhere = [make.options(resources={name: 0.05}) for name in ("disk", "tape")]
    refs = [each.remote(value) for value in (1.0, 2.0) for each in (make, *anywhere)]
    actor = on_disk().remote()
    totals = get([actor.total.remote(ref) for ref in refs])
    assert totals == [LARGE] * 3 + [2 * LARGE] * 3


def test_large_results_come_back(cluster: Cluster) -> None:
    actor = on_disk().remote()
    made = get([actor.make.remote(LARGE, value) for value in range(5)])
    assert [float(array.sum()) for array in made] == [LARGE * value for value in range(5)]
    array, size = get(list(actor.make_two.remote(LARGE)))
    assert (float(array.sum()), size) == (LARGE, LARGE)


def test_large_results_can_be_waited_for_and_awaited(cluster: Cluster) -> None:
    actor = on_disk().remote()
    ready, rest = raydask.wait([actor.make.remote(LARGE)], timeout=PATIENCE)
    assert (len(ready), rest) == (1, [])
    assert actor.make.remote(LARGE).future().result(timeout=PATIENCE).sum() == LARGE

    async def await_it() -> Any:
        return await actor.make.remote(LARGE, 2.0)

    assert asyncio.run(await_it()).sum() == 2 * LARGE


def test_results_are_given_to_tasks_and_actors_without_coming_here(cluster: Cluster) -> None:
    @raydask.remote
    def total(array: Any) -> float:
        return float(array.sum())

    disk, tape = on_disk().remote(), on_tape().remote()
    tapes = total.options(resources={"tape": 0.05})
    made = [disk.make.remote(LARGE), disk.make.remote(10)]
    assert get([tapes.remote(each) for each in made]) == [LARGE, 10]
    assert get([tape.total.remote(each) for each in made]) == [LARGE, 10]
    assert get([disk.total.remote(tape.make.remote(LARGE))]) == [LARGE]


def test_the_ref_of_a_result_leaves_before_the_result_comes(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def call(actor: Any, size: int) -> list[Any]:
        return [actor.make.remote(size)]

    actor = on_disk().remote()
    for size in (10, LARGE):
        (ref,) = get(call.remote(actor, size))
        assert get(ref).sum() == size


def test_it_keeps_what_it_was_given(cluster: Cluster) -> None:
    actor = on_disk().remote()
    ref = raydask.put(np.full(LARGE, 2.0))
    assert get([actor.keep.remote(np.ones(LARGE)), actor.keep.remote(ref)]) == [1, 2]
    del ref
    time.sleep(0.2)  # what is let go of here is freed meanwhile
    assert get([actor.keep.remote(np.full(LARGE, 9.0)) for _ in range(3)]) == [3, 4, 5]
    assert get(actor.kept.remote()) == [LARGE, 2 * LARGE, *[9 * LARGE] * 3]


def test_it_keeps_refs_that_it_was_given(cluster: Cluster) -> None:
    actor = on_disk().remote()
    given = [raydask.put(np.ones(LARGE)), raydask.put(3)]
    assert get(actor.keep.remote([given[0], on_tape().remote().make.remote(5), given[1]])) == 1
    given.clear()
    time.sleep(0.2)
    assert get(actor.kept_refs.remote()) == [LARGE, 5, 3]


def test_refs_come_back_in_results(cluster: Cluster) -> None:
    actor = on_disk().remote()
    refs = get(actor.make_refs.remote())
    time.sleep(0.1)
    assert [float(np.sum(each)) for each in get(refs)] == [LARGE, 7]


def test_what_nobody_holds_is_freed_on_all_nodes(cluster: Cluster) -> None:
    actor = on_disk().remote()
    get([actor.make.remote(LARGE), actor.keep.remote(np.ones(LARGE))])
    get(actor.total.remote(actor.make.remote(LARGE)))
    get(actor.keep.remote(get(actor.make_refs.remote())))
    get(actor.forget.remote())
    del actor

    time.sleep(1.2)  # a node tells of itself once a second

    def held() -> list[tuple[int, int]]:
        return [(status.tasks, status.objects) for status in cluster.status()]

    eventually(lambda: held() == [(0, 0)] * 3)


def test_errors_come_back(cluster: Cluster) -> None:
    actor = on_disk().remote()
    with pytest.raises(ValueError, match="asked to") as caught:
        get(actor.fail.remote())
    assert isinstance(caught.value, TaskError)
    assert get(actor.add.remote()) == 1


def test_an_error_in_init_is_raised_by_calls(cluster: Cluster) -> None:
    @raydask.remote(resources={"disk": 0.05})
    class Broken:
        def __init__(self, value: Any) -> None:
            raise ValueError(f"no {float(value.sum())}")

        def call(self) -> None:
            pass

    actor = Broken.remote(np.ones(LARGE))
    with pytest.raises(ActorDiedError, match="no 1000000.0"):
        get(actor.call.remote())


# --- kinds of actors --------------------------------------------------------------------------


def test_threaded_and_async_actors(cluster: Cluster) -> None:
    @raydask.remote(resources={"disk": 0.05}, max_concurrency=4)
    class Threaded:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def meet(self, array: Any) -> float:
            self.barrier.wait(PATIENCE)
            return float(array.sum())

    @raydask.remote(resources={"tape": 0.05}, max_concurrency=4)
    class Async:
        def __init__(self) -> None:
            self.here = 0
            self.all_here = asyncio.Event()

        async def meet(self, array: Any) -> float:
            self.here += 1
            if self.here == 4:
                self.all_here.set()
            await asyncio.wait_for(self.all_here.wait(), PATIENCE)
            return float(array.sum())

    for actor in (Threaded.remote(), Async.remote()):
        calls = [actor.meet.remote(np.full(LARGE, value)) for value in (1.0, 2.0, 3.0, 4.0)]
        assert get(calls) == [LARGE, 2 * LARGE, 3 * LARGE, 4 * LARGE]


def test_a_named_actor_is_found_from_other_nodes(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def find() -> int:
        return int(raydask.get(raydask.get_actor("counter").add.remote(1)))

    actor = on_disk(name="counter").remote(41)
    assert get(find.remote()) == 42
    assert get(raydask.get_actor("counter").add.remote(1)) == 43
    again = on_disk(name="counter", get_if_exists=True).remote()
    assert again == actor


def test_a_handle_in_a_value_keeps_it_alive(cluster: Cluster) -> None:
    box = raydask.put([on_disk().remote(1)])
    time.sleep(0.1)
    (actor,) = get(box)
    assert get(actor.add.remote()) == 2
    pid, _ = get(actor.pids.remote())
    del box, actor
    eventually(lambda: not _exists(pid))


def test_a_handle_that_another_actor_keeps_is_enough(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    class Holder:
        def __init__(self, actor: Any) -> None:
            self.actor = actor

        def add(self) -> int:
            return int(raydask.get(self.actor.add.remote()))

    actor = on_disk().remote()
    pid, _ = get(actor.pids.remote())
    holder = Holder.remote(actor)
    assert get(holder.add.remote()) == 1
    del actor
    time.sleep(0.2)
    assert get(holder.add.remote()) == 2
    del holder
    eventually(lambda: not _exists(pid))


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


# --- ends and restarts ------------------------------------------------------------------------


def test_kill_ends_it_from_any_node(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def kill(actor: Any) -> None:
        raydask.kill(actor)

    ours, theirs = on_disk().remote(), on_disk().remote()
    pids = [get(each.pids.remote())[0] for each in (ours, theirs)]
    raydask.kill(ours)
    get(kill.remote(theirs))
    for actor in (ours, theirs):
        with pytest.raises(ActorDiedError, match="kill"):
            get(actor.add.remote())
    eventually(lambda: not any(map(_exists, pids)))


def test_kill_ends_it_while_it_is_made(cluster: Cluster) -> None:
    @raydask.remote(resources={"disk": 0.05})
    class Slow:
        def __init__(self) -> None:
            time.sleep(PATIENCE)

        def call(self) -> None:
            pass

    actor = Slow.remote()
    call = actor.call.remote()
    time.sleep(0.3)
    raydask.kill(actor)
    with pytest.raises(ActorDiedError, match="kill"):
        get(call)


def test_it_is_restarted_after_its_process_has_died(cluster: Cluster) -> None:
    actor = on_disk(max_restarts=2, max_task_retries=-1).remote(10)
    first, _ = get(actor.pids.remote())
    assert get(actor.add.remote()) == 11
    with pytest.raises(ActorDiedError):
        get(actor.exit.options(max_task_retries=0).remote())
    assert get(actor.add.remote()) == 11
    raydask.kill(actor, no_restart=False)
    eventually(lambda: get(actor.add.remote()) == 11)
    assert get(actor.pids.remote())[0] != first


def test_without_restarts_it_is_dead_with_its_process(cluster: Cluster) -> None:
    actor = on_disk().remote()
    with pytest.raises(ActorDiedError):
        get(actor.exit.remote())
    with pytest.raises(ActorDiedError):
        get(actor.add.remote())


def test_cancelling_a_call(cluster: Cluster) -> None:
    @raydask.remote(resources={"disk": 0.05})
    class Sleeper:
        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    actor = Sleeper.remote()
    begun = actor.sleep.remote(0.5)
    waits = actor.sleep.remote(0.0)
    raydask.cancel(waits)
    with pytest.raises(raydask.errors.TaskCancelledError):
        get(waits)
    get(begun)


# --- deaths of nodes --------------------------------------------------------------------------


def test_it_is_restarted_when_its_node_dies(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, resources={"shelf": 1})
    actor = Store.options(resources={"shelf": 1}, max_restarts=1, max_task_retries=-1).remote(
        np.int64(5)
    )
    doomed = Store.options(resources={"shelf": 0}, num_cpus=0).remote()
    assert get(actor.add.remote()) == 6
    assert node_of(actor, cluster) is node

    cluster.remove_node(node, graceful=False)
    call = actor.add.remote()
    other = cluster.add_node(num_cpus=1, resources={"shelf": 1})
    assert get(call) == 6
    assert node_of(actor, cluster) is other
    del actor, doomed
    cluster.remove_node(other)


def test_it_is_dead_with_its_node_if_no_restarts_are_left(cluster: Cluster) -> None:
    @raydask.remote(resources={"tape": 0.05})
    def call(actor: Any) -> int:
        return int(raydask.get(actor.add.remote()))

    node = cluster.add_node(num_cpus=1, resources={"shelf": 1})
    actor = Store.options(resources={"shelf": 1}).remote()
    lost = actor.make.remote(LARGE)
    assert raydask.wait([lost], timeout=PATIENCE)[0] == [lost]
    cluster.remove_node(node, graceful=False)
    with pytest.raises(ActorDiedError, match=f"node {node.number}"):
        get(actor.add.remote())
    with pytest.raises(ActorDiedError, match=f"node {node.number}"):
        get(call.remote(actor))
    with pytest.raises(raydask.errors.ObjectLostError):
        get(lost)


def test_it_ends_when_its_home_dies(cluster: Cluster) -> None:
    @raydask.remote(resources={"shelf": 1})
    def make() -> Any:
        return on_disk().remote()

    node = cluster.add_node(num_cpus=1, resources={"shelf": 1})
    actor = get(make.remote())
    pid, _ = get(actor.pids.remote())
    cluster.remove_node(node, graceful=False)
    eventually(lambda: not _exists(pid))
    with pytest.raises(ActorDiedError, match="its home"):
        get(actor.add.remote())


def test_jobs_take_their_actors_with_them_and_leave_detached_ones(cluster: Cluster) -> None:
    name = on_tape(name="stays", lifetime="detached")
    raydask.shutdown()
    cluster.connect()
    stays, goes = name.remote(1), on_disk().remote()
    pid, _ = get(goes.pids.remote())
    assert get(stays.add.remote()) == 2
    raydask.shutdown()
    eventually(lambda: not _exists(pid))
    cluster.connect(cluster.worker_nodes[0])
    found = raydask.get_actor("stays")
    assert get(found.add.remote()) == 3
    raydask.kill(found)
    raydask.shutdown()
    cluster.connect()
