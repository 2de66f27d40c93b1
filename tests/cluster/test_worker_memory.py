"""Workers that go for their memory: replaced between tasks, ended by the monitor or their limit."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import raydask
from raydask.errors import ActorDiedError, OutOfMemoryError, UsageError
from tests.cluster.probes import Gate, eventually

MB = 1_000_000
LIMIT = 600 * MB

Start = Callable[..., None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a session with these settings."""

    def run(cpus: int = 2, **settings: object) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"RAYDASK_{name.upper()}", str(value))
        raydask.init(num_cpus=cpus, object_store_memory=64 << 20)

    yield run
    raydask.shutdown()


def is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def hold(size: int, gate: Gate | None = None) -> int:
    """Hold memory of its own until the gate opens, or until somebody ends it."""
    own = b"x" * size
    if gate is not None:
        gate.wait()
    return len(own)


def hold_at_first(size: int, gate: Gate) -> int:
    """Hold memory only in the first attempt; return in which it came to its end."""
    attempt = raydask.get_runtime_context().attempt
    if not attempt:
        hold(size, gate)
    return attempt


# --- max_calls ------------------------------------------------------------------------------


def test_a_worker_is_replaced_after_max_calls(start: Start, capfd: Any) -> None:
    start()

    @raydask.remote(max_calls=7)
    def add(number: int) -> tuple[int, int, int]:
        return number + 1, os.getpid(), raydask.get_runtime_context().attempt

    results = raydask.get([add.remote(number) for number in range(200)], timeout=60)
    calls = Counter(pid for _, pid, _ in results)

    assert [value for value, _, _ in results] == list(range(1, 201))
    assert max(calls.values()) == 7 and len(calls) >= 200 // 7
    assert {attempt for _, _, attempt in results} == {0}
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_other_functions_go_on_in_between(start: Start) -> None:
    start()

    @raydask.remote(max_calls=1)
    def once(value: int) -> int:
        return value

    @raydask.remote
    def often(value: int) -> int:
        return value

    refs = [kind.remote(i) for i in range(30) for kind in (once, often)]
    assert raydask.get(refs, timeout=60) == [i for i in range(30) for _ in range(2)]


def test_what_a_replaced_worker_has_printed_and_returned_is_not_lost(
    start: Start, capfd: Any
) -> None:
    @raydask.remote(max_calls=1)
    def tell(number: int) -> raydask.ObjectRef:
        print(f"<{number}>", end="")  # stays in the process until that ends
        return raydask.put([number])

    start()
    refs = raydask.get([tell.remote(number) for number in range(6)], timeout=20)
    assert raydask.get(refs, timeout=20) == [[number] for number in range(6)]
    shown = ""

    def all_is_shown() -> bool:
        nonlocal shown
        shown += "".join(capfd.readouterr())
        return all(f"<{number}>" in shown for number in range(6))

    eventually(all_is_shown)


# --- enforced memory ------------------------------------------------------------------------


def test_a_task_beyond_its_memory_is_ended(start: Start, gate: Callable[[], Gate]) -> None:
    start()
    tight = raydask.remote(hold).options(memory=100 * MB, enforce_memory=True)
    with pytest.raises(OutOfMemoryError) as caught:
        raydask.get(tight.remote(300 * MB, gate()), timeout=20)
    text = str(caught.value)
    assert "'hold'" in text and "peak" in text and "100 MB" in text and "started 1 times" in text

    gate().open()
    assert raydask.get(tight.remote(30 * MB, gate()), timeout=20) == 30 * MB


def test_it_is_tried_again_when_max_retries_says_so(
    start: Start, gate: Callable[[], Gate], capfd: Any
) -> None:
    start()
    tight = raydask.remote(hold_at_first).options(
        memory=100 * MB, enforce_memory=True, max_retries=1
    )
    assert raydask.get(tight.remote(300 * MB, gate()), timeout=20) == 1
    told = eventually(lambda: capfd.readouterr().err)
    assert "'hold_at_first' was ended for its memory and is tried again" in told


def test_an_actor_beyond_its_memory_dies(start: Start) -> None:
    start()

    @raydask.remote
    class Hoard:
        def __init__(self) -> None:
            self.own: list[bytes] = []

        def take(self, size: int) -> int:
            self.own.append(b"x" * size)
            return len(self.own)

    hoard = Hoard.options(memory=100 * MB, enforce_memory=True).remote()
    assert raydask.get(hoard.take.remote(30 * MB), timeout=20) == 1

    def is_dead() -> str:
        try:
            raydask.get(hoard.take.remote(100 * MB if len(taken) < 2 else 0), timeout=20)
            taken.append(1)
        except ActorDiedError as error:
            return str(error)
        return ""

    taken: list[int] = []
    text = eventually(is_dead)
    assert "ended for its memory" in text and "100 MB" in text


def test_enforced_memory_without_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="memory=BYTES"):
        raydask.remote(hold).options(enforce_memory=True)
    with pytest.raises(UsageError, match="enforce_memory must be"):
        raydask.remote(hold).options(memory=MB, enforce_memory="yes")


# --- recycling ------------------------------------------------------------------------------


def leak(size: int) -> int:
    """Keep memory for as long as the process lives; return which process that is."""
    kept = raydask.__dict__.setdefault("_kept_by_a_test", [])
    kept.append(b"x" * size)
    return os.getpid()


def test_a_worker_that_has_grown_is_replaced_when_idle(start: Start) -> None:
    start(cpus=1, worker_memory_limit=150 * MB)
    keep = raydask.remote(leak)
    small = raydask.get(keep.remote(20 * MB), timeout=20)
    assert raydask.get(keep.remote(20 * MB), timeout=20) == small
    grown = raydask.get(keep.remote(200 * MB), timeout=20)
    assert grown == small
    eventually(lambda: not is_alive(grown))

    assert raydask.get(keep.remote(MB), timeout=20) != grown


def test_a_worker_that_is_never_idle_is_replaced_too(start: Start) -> None:
    start(cpus=1, worker_memory_limit=150 * MB)
    keep = raydask.remote(leak)
    # Enough for a worker to have the next before it ends the last, for seconds.
    refs = [keep.remote(200_000) for _ in range(3000)]
    pids = Counter(raydask.get(refs, timeout=60))

    assert sum(pids.values()) == 3000
    assert len(pids) > 1


# --- the monitor ----------------------------------------------------------------------------


def test_a_task_that_uses_the_memory_up_is_ended(start: Start, gate: Callable[..., Gate]) -> None:
    start(memory_limit=LIMIT)
    small = raydask.remote(hold).remote(MB, gate("small"))
    large = raydask.remote(hold).options(name="huge", max_retries=0)
    with pytest.raises(OutOfMemoryError) as caught:
        raydask.get(large.remote(LIMIT, gate("large")), timeout=20)
    text = str(caught.value)
    assert "'huge'" in text and "peak" in text
    assert "of 600 MB" in text and "memory_usage_threshold is 95.0%" in text

    gate("small").open()
    assert raydask.get(small, timeout=20) == MB, "the small one had to do with it"


def test_it_is_tried_again_when_there_is_memory(start: Start, gate: Callable[[], Gate]) -> None:
    start(memory_limit=LIMIT)
    begun = time.monotonic()
    large = raydask.remote(hold_at_first)

    assert raydask.get(large.remote(LIMIT, gate()), timeout=20) == 1
    assert time.monotonic() - begun >= 1, "it was to wait before it tried again"


def test_idle_workers_go_first(start: Start, gate: Callable[..., Gate]) -> None:
    def hold_later(begin: Gate, end: Gate) -> int:
        begin.wait()
        return hold(300 * MB, end)

    start(memory_limit=LIMIT, worker_memory_limit=0)
    busy = raydask.remote(hold_later).options(max_retries=0).remote(gate("begin"), gate("end"))
    idle = raydask.get(raydask.remote(leak).remote(300 * MB), timeout=20)
    assert is_alive(idle)
    gate("begin").open()
    eventually(lambda: not is_alive(idle))
    gate("end").open()

    assert raydask.get(busy, timeout=20) == 300 * MB


def test_tasks_without_retries_outlast_those_with(start: Start, gate: Callable[..., Gate]) -> None:
    start(memory_limit=LIMIT)
    frail = raydask.remote(hold).options(max_retries=0).remote(250 * MB, gate("frail"))
    tough = raydask.remote(hold_at_first).remote(350 * MB, gate("never"))

    assert raydask.get(tough, timeout=20) == 1
    gate("frail").open()
    assert raydask.get(frail, timeout=20) == 250 * MB
