"""Tasks that run on other nodes than the one where they were submitted."""

from __future__ import annotations

import gc
import time
from collections import Counter
from pathlib import Path

import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.errors import GetTimeoutError, TaskError, TaskTimeoutError, WorkerCrashedError
from tests.cluster.nodes import eventually_nothing_is_held_by, on, where
from tests.cluster.probes import eventually, run_driver

pytestmark = pytest.mark.usefixtures("four_nodes")


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return where()


def add(*numbers: int) -> int:
    return sum(numbers)


# --- where tasks run ------------------------------------------------------------------------


def test_many_tasks_run_on_all_nodes() -> None:
    task = raydask.remote(sleep)
    ran = Counter(raydask.get([task.remote(0.03) for _ in range(120)], timeout=30))
    assert set(ran) == {1, 2, 3, 4}
    assert min(ran.values()) >= 10


def test_short_tasks_come_back_in_order() -> None:
    double = raydask.remote(lambda x: 2 * x)
    for _ in range(3):
        refs = [double.remote(i) for i in range(3000)]
        assert raydask.get(refs, timeout=30) == list(range(0, 6000, 2))


@pytest.mark.parametrize("node", [1, 2, 3, 4])
def test_a_task_runs_where_its_resource_is(node: int) -> None:
    refs = [on(node, where).remote() for _ in range(5)]
    assert raydask.get(refs, timeout=10) == [node] * 5


def test_no_more_run_at_once_than_a_distant_resource_allows() -> None:
    def at_work() -> tuple[float, float]:
        begun = time.time()
        time.sleep(0.05)
        return begun, time.time()

    task = raydask.remote(at_work).options(num_cpus=0, resources={"n3": 5})
    spans = raydask.get([task.remote() for _ in range(8)], timeout=20)
    for begun, _ in spans:
        assert sum(start <= begun < end for start, end in spans) <= 2


def test_tasks_of_a_program_that_joined_at_another_node(four_nodes: Cluster) -> None:
    script = """
        import sys, time
        import raydask

        context = raydask.init({folder!r})

        @raydask.remote
        def where():
            time.sleep(0.05)
            return raydask.get_runtime_context().node_id

        print(context["node"], *sorted(set(raydask.get([where.remote() for _ in range(60)]))))
        ref = where.options(resources={{"n1": 1}}).remote()
        print(raydask.get(ref, timeout=10))
    """
    for node in four_nodes.worker_nodes[:2]:
        code, out, err = run_driver(script.format(folder=node.folder))
        assert (code, err) == (0, "")
        assert out.splitlines() == [f"{node.number} 1 2 3 4", "1"]


# --- refs -----------------------------------------------------------------------------------


def test_refs_are_arguments_on_any_node() -> None:
    total = raydask.put(1)
    for node in (2, 3, 4, 1, 2):
        total = on(node, add).remote(total, 10)
    assert raydask.get(total, timeout=10) == 51


def test_refs_of_several_nodes_meet_in_one_task() -> None:
    parts = [on(node, lambda n: n * n).remote(node) for node in (1, 2, 3, 4)]
    assert raydask.get(on(4, add).remote(*parts), timeout=10) == 30


def test_refs_inside_of_values_are_read_elsewhere() -> None:
    parts = {node: on(node, where).remote() for node in (1, 2, 3, 4)}

    def read(refs: dict[int, raydask.ObjectRef]) -> dict[int, int]:
        return {node: raydask.get(ref) for node, ref in refs.items()}

    assert raydask.get(on(3, read).remote(parts), timeout=10) == {n: n for n in (1, 2, 3, 4)}
    held = raydask.put(parts)
    del parts
    assert raydask.get(on(2, read).remote(held), timeout=10) == {n: n for n in (1, 2, 3, 4)}


def test_refs_in_closures_are_read_elsewhere() -> None:
    kept = on(3, lambda: "made on 3").remote()
    put = raydask.put("put on 1")

    def read() -> list[str]:
        return raydask.get([kept, put])

    for node in (2, 3, 4):
        assert raydask.get(on(node, read).remote(), timeout=10) == ["made on 3", "put on 1"]


def test_refs_that_a_distant_task_returns_stay_good(four_nodes: Cluster) -> None:
    def make() -> list[raydask.ObjectRef]:
        return [raydask.put("put"), on(4, where).remote(), raydask.remote(where).remote()]

    ref = on(2, make).remote()
    put, distant, anywhere = raydask.get(ref, timeout=10)
    del ref
    time.sleep(0.3)  # what could go too early has gone
    assert raydask.get(put, timeout=10) == "put"
    assert raydask.get(distant, timeout=10) == 4
    assert raydask.get(anywhere, timeout=10) in (1, 2, 3, 4)
    assert raydask.get(on(3, lambda x, y: (x, y)).remote(put, distant), timeout=10) == ("put", 4)
    del put, distant, anywhere
    eventually_nothing_is_held_by(four_nodes)


# --- nesting --------------------------------------------------------------------------------


def test_tasks_that_a_distant_task_submits_run_on_others() -> None:
    def parent() -> tuple[int, Counter[int]]:
        child = raydask.remote(sleep)
        return where(), Counter(raydask.get([child.remote(0.05) for _ in range(60)]))

    node, ran = raydask.get(on(3, parent).remote(), timeout=30)
    assert node == 3
    assert set(ran) == {1, 2, 3, 4}


def test_a_chain_of_tasks_goes_around_the_nodes() -> None:
    def descend(n: int) -> list[int]:
        if not n:
            return [where()]
        return [where(), *raydask.get(on(n % 4 + 1, descend).remote(n - 1))]

    path = raydask.get(on(1, descend).remote(12), timeout=30)
    assert path == [1, *(n % 4 + 1 for n in range(12, 0, -1))]


def test_recursion_on_all_nodes() -> None:
    @raydask.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(raydask.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert raydask.get(fib.remote(11), timeout=60) == 89


# --- errors, retries, limits ------------------------------------------------------------------


def test_an_error_comes_with_its_traceback_and_where_it_was() -> None:
    def divide(x: int) -> float:
        return x / 0

    ref = on(3, divide).remote(1)
    with pytest.raises(ZeroDivisionError) as caught:
        raydask.get(ref, timeout=10)
    error = caught.value
    assert isinstance(error, TaskError)
    assert "return x / 0" in error.remote_traceback
    assert error.where.endswith("node 3")
    with pytest.raises(ZeroDivisionError):
        raydask.get(on(4, add).remote(1, ref), timeout=10)


def test_exceptions_are_retried_on_another_node(tmp_path: Path) -> None:
    def fail_twice() -> int:
        (tmp_path / str(time.monotonic_ns())).touch()
        if len(list(tmp_path.iterdir())) < 3:
            raise OSError("not yet")
        return where()

    ref = on(2, fail_twice, max_retries=2, retry_exceptions=True).remote()
    assert raydask.get(ref, timeout=10) == 2


def test_a_task_whose_distant_worker_dies_is_retried_as_often_as_allowed(tmp_path: Path) -> None:
    def crash(times: int) -> int:
        import os

        (tmp_path / str(time.monotonic_ns())).touch()
        if len(list(tmp_path.iterdir())) <= times:
            os._exit(5)
        return where()

    assert raydask.get(on(4, crash, max_retries=2).remote(2), timeout=15) == 4
    with pytest.raises(WorkerCrashedError, match="exited with code 5"):
        raydask.get(on(4, crash, max_retries=1).remote(100), timeout=15)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_distant_task_over_its_time_is_interrupted() -> None:
    ref = on(2, sleep, timeout=0.2).remote(60)
    with pytest.raises(TaskTimeoutError):
        raydask.get(ref, timeout=10)


def test_a_get_of_a_distant_task_that_times_out() -> None:
    ref = on(3, sleep).remote(0.4)
    with pytest.raises(GetTimeoutError):
        raydask.get(ref, timeout=0.1)
    assert raydask.get(ref, timeout=10) == 3


# --- wait, output -----------------------------------------------------------------------------


def test_wait_tells_which_distant_tasks_have_ended() -> None:
    slow = on(2, sleep).remote(0.8)
    quick = [on(node, sleep).remote(0.0) for node in (3, 4)]
    ready, rest = raydask.wait([slow, *quick], num_returns=2, timeout=10)
    assert (sorted(ready, key=quick.index), rest) == (quick, [slow])
    assert raydask.wait([slow], timeout=0) == ([], [slow])
    assert raydask.wait([slow], timeout=10) == ([slow], [])


def test_a_distant_task_waits_for_tasks_of_others() -> None:
    def parent(refs: list[raydask.ObjectRef]) -> tuple[int, int]:
        ready, rest = raydask.wait([*refs, on(3, where).remote()], num_returns=3)
        return len(ready), len(rest)

    refs = [on(2, where).remote(), raydask.put(1)]
    assert raydask.get(on(4, parent).remote(refs), timeout=10) == (3, 0)


def test_what_distant_tasks_print_reaches_their_driver(four_nodes: Cluster) -> None:
    script = """
        import sys
        import raydask

        raydask.init({folder!r})

        def speak(node):
            print("words from", node)
            print("complaints from", node, file=sys.stderr)

        tasks = [raydask.remote(speak).options(resources={{f"n{{n}}": 1}}) for n in (1, 2, 3, 4)]
        raydask.get([task.remote(node) for node, task in enumerate(tasks, 1)], timeout=20)
        raydask.shutdown()
    """
    code, out, err = run_driver(script.format(folder=four_nodes.worker_nodes[0].folder))
    assert code == 0, err
    for node in (1, 2, 3, 4):
        (line,) = [line for line in out.splitlines() if line.endswith(f"words from {node}")]
        assert line.startswith("(speak pid=")
        assert f"complaints from {node}" in err


# --- the end --------------------------------------------------------------------------------


def test_nothing_is_held_when_all_has_ended(four_nodes: Cluster) -> None:
    gc.collect()  # errors and the frames that caught them are circles
    eventually_nothing_is_held_by(four_nodes)
    eventually(
        lambda: all(each.available == each.resources for each in four_nodes.status()), "all is free"
    )
