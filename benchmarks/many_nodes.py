"""What the way between nodes costs: ``python -m benchmarks.many_nodes``.

Three questions, on nodes of this machine that talk over loopback:

transfer
    How fast is an object of 200 MB brought from one node to another, beside a program that does
    nothing but send the same bytes over loopback with ``sendfile``?  In alternating rounds.
broadcast
    How many bytes does each node send when three others want an object of one node at once?
    Each of the three needs it once.
locality
    How many tasks run where their large inputs are, and what is gained by it?
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec
from rich.console import Console

_MB = 1_000_000
_TRANSFER_BYTES = 200 * _MB
_BROADCAST_BYTES = 100 * _MB
_INPUT_BYTES = 100 * _MB
_TASKS = 100
_NODES = 4
_MEMORY_SHARE = 0.5
"""Of the memory that is free, for the inputs of one round of locality."""
_PATIENCE = 120.0
_PIECE = 1 << 20


class Transfer(msgspec.Struct):
    """Seconds of each round, for so many bytes."""

    size: int
    raydask: list[float]
    sendfile: list[float]

    @property
    def share(self) -> float:
        """How fast raydask is, as a part of sendfile."""
        return median(self.sendfile) / median(self.raydask)


class Broadcast(msgspec.Struct):
    """Of each round: bytes that each node has sent, and seconds."""

    size: int
    sent: list[dict[int, int]]
    seconds: list[float]

    @property
    def times(self) -> float:
        """How often a node has sent the object, at most."""
        return max(max(sent.values()) for sent in self.sent) / self.size

    @property
    def total(self) -> float:
        """How often the object has been sent by all nodes together, at most."""
        return max(sum(sent.values()) for sent in self.sent) / self.size


class Locality(msgspec.Struct):
    """Of each round: the share of the tasks that ran where their inputs were, and seconds."""

    size: int
    tasks: int
    shares: list[float]
    seconds: list[float]


class Report(msgspec.Struct):
    """All that was measured."""

    transfer: Transfer
    broadcast: Broadcast
    local: Locality
    anywhere: Locality


# --- tasks --------------------------------------------------------------------------------


def make(size: int, value: int) -> Any:
    """Return an array of so many bytes."""
    import numpy as np

    return np.full(size // 8, value, dtype=np.int64)


def read(array: Any) -> tuple[int, int]:
    """Read an input; return where, and its sum."""
    return _node(), int(array.sum())


def touch(array: Any) -> int:
    """Have an input brought; return its last number."""
    return int(array[-1])


def _node() -> int:
    import raydask

    return int(raydask.get_runtime_context().node_id)


def _on(node: int, function: Callable[..., Any]) -> Any:
    import raydask

    return raydask.remote(function).options(resources={f"n{node}": 1})


@contextmanager
def cluster_of(count: int, store: int) -> Iterator[Any]:
    """Run so many nodes of one CPU, of which number `i` has the resource ``n<i>``, and join."""
    from raydask.cluster_utils import Cluster

    with Cluster(num_cpus=1, resources={"n1": 100}, object_store_memory=store) as cluster:
        for number in range(2, count + 1):
            cluster.add_node(num_cpus=1, resources={f"n{number}": 100}, object_store_memory=store)
        cluster.wait_for_nodes()
        cluster.connect()
        yield cluster


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster does not come to rest")
        time.sleep(0.05)


def _is_idle(cluster: Any) -> bool:
    return all(each.available == each.resources for each in cluster.status())


# --- transfer -----------------------------------------------------------------------------


class SendFile:
    """Sends a file in memory over loopback with ``sendfile``, into warm memory.

    Parameters
    ----------
    size : int
        Bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by `close`)
        for _ in range(size // _MB):
            self._file.write(os.urandom(_MB))
        self._file.flush()
        self._target = mmap.mmap(-1, size)

    def close(self) -> None:
        """Let go of both memories."""
        self._target.close()
        self._file.close()

    def run(self) -> float:
        """Send everything once; return the seconds."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sender = threading.Thread(target=self._send, args=(listener.getsockname(),))
            begun = time.perf_counter()
            sender.start()
            connection, _ = listener.accept()
            with connection, memoryview(self._target) as target:
                received = 0
                while received < self._size:
                    received += connection.recv_into(target[received : received + _PIECE])
            sender.join()
            return time.perf_counter() - begun

    def _send(self, address: tuple[str, int]) -> None:
        with socket.create_connection(address) as connection:
            sent = 0
            while sent < self._size:
                sent += os.sendfile(
                    connection.fileno(), self._file.fileno(), sent, self._size - sent
                )


def measure_transfer(size: int, rounds: int) -> Transfer:
    """Bring objects from one node to another, and send as much with sendfile."""
    import raydask

    found = Transfer(size, [], [])
    plain = SendFile(size)
    with cluster_of(2, 4 * size):
        for number in range(rounds + 2):
            ref = _on(2, make).remote(size, number)
            raydask.wait([ref], timeout=_PATIENCE)
            begun = time.perf_counter()
            array = raydask.get(ref, timeout=_PATIENCE)
            seconds = time.perf_counter() - begun
            assert touch(array) == number
            del array, ref
            sendfile = plain.run()
            if number >= 2:  # the first write to fresh memory, on both sides
                found.raydask.append(seconds)
                found.sendfile.append(sendfile)
    plain.close()
    return found


# --- broadcast ----------------------------------------------------------------------------


def measure_broadcast(size: int, rounds: int) -> Broadcast:
    """Have three nodes read an object of the first at once."""
    import raydask

    found = Broadcast(size, [], [])
    with cluster_of(_NODES, 4 * size) as cluster:
        before = dict.fromkeys(range(1, _NODES + 1), 0)
        for number in range(rounds + 1):
            ref = raydask.put(make(size, number))
            begun = time.perf_counter()
            readers = [_on(node, touch).remote(ref) for node in range(2, _NODES + 1)]
            assert raydask.get(readers, timeout=_PATIENCE) == [number] * (_NODES - 1)
            seconds = time.perf_counter() - begun
            del ref, readers
            needed = sum(before.values()) + size * (_NODES - 1)
            # Nodes report what they have sent about once a second.
            _wait_for(lambda: sum(e.sent for e in cluster.status()) >= needed)  # noqa: B023
            time.sleep(1.5)
            after = {each.node: each.sent for each in cluster.status()}
            if number:
                found.seconds.append(seconds)
                found.sent.append({node: after[node] - before[node] for node in after})
            before = after
    return found


# --- locality -----------------------------------------------------------------------------


def measure_locality(size: int, tasks: int, rounds: int, *, locality: bool) -> Locality:
    """Run tasks whose inputs are spread over the nodes."""
    import raydask

    found = Locality(size, tasks, [], [])
    os.environ["RAYDASK_LOCALITY"] = str(int(locality))
    try:
        with cluster_of(_NODES, size * tasks // _NODES * 2) as cluster:
            task = raydask.remote(read)
            for number in range(rounds + 1):
                homes = [i % _NODES + 1 for i in range(tasks)]
                inputs = [_on(node, make).remote(size, i) for i, node in enumerate(homes)]
                raydask.wait(inputs, num_returns=tasks, timeout=_PATIENCE)
                _wait_for(lambda: _is_idle(cluster))
                begun = time.perf_counter()
                ran = raydask.get([task.remote(each) for each in inputs], timeout=_PATIENCE)
                seconds = time.perf_counter() - begun
                assert [total for _, total in ran] == [i * (size // 8) for i in range(tasks)]
                del inputs
                if number:
                    hits = sum(node == home for (node, _), home in zip(ran, homes, strict=True))
                    found.shares.append(hits / tasks)
                    found.seconds.append(seconds)
    finally:
        del os.environ["RAYDASK_LOCALITY"]
    return found


def input_size(tasks: int) -> int:
    """Return the bytes of an input, as large as free memory allows."""
    with open("/proc/meminfo") as file:
        (kilobytes,) = (line.split()[1] for line in file if line.startswith("MemAvailable"))
    allowed = int(int(kilobytes) * 1024 * _MEMORY_SHARE) // tasks
    return min(_INPUT_BYTES, allowed // _MB * _MB)


# --- the report ---------------------------------------------------------------------------


def lines_of(report: Report) -> Iterator[tuple[str, bool]]:
    """Yield what was found in words, each with whether it is as it should be."""
    transfer, broadcast = report.transfer, report.broadcast
    rates = [
        transfer.size / median(seconds) / 1e9 for seconds in (transfer.raydask, transfer.sendfile)
    ]
    yield (
        f"transfer of {transfer.size // _MB} MB: {rates[0]:.2f} GB/s, "
        f"sendfile {rates[1]:.2f} GB/s, that is {transfer.share:.0%} of it (target: 50%)",
        transfer.share >= 0.5,
    )
    sent = ", ".join(
        f"node {node} {median(each[node] for each in broadcast.sent) / broadcast.size:.2f}"
        for node in sorted(broadcast.sent[0])
    )
    yield (
        f"broadcast of {broadcast.size // _MB} MB to {_NODES - 1} nodes: "
        f"{median(broadcast.seconds) * 1e3:.0f} ms; times that each sent it: {sent}; "
        f"{broadcast.total:.2f} in all at most (needed: {_NODES - 1}; target: no node above 2)",
        broadcast.times <= 2 and broadcast.total <= _NODES,
    )
    for name, found in (("on", report.local), ("off", report.anywhere)):
        share = median(found.shares)
        target = " (target: 95%)" if name == "on" else ""
        yield (
            f"locality {name}: {found.tasks} tasks with {found.size // _MB} MB each: {share:.0%} "
            f"ran where their input is{target}, in {median(found.seconds):.2f} s",
            name == "off" or share >= 0.95,
        )


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Measured rounds of each part.")
@click.option("--quick", is_flag=True, help="Small objects and two rounds: for trying out.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write everything measured to this file.",
)
def main(rounds: int, quick: bool, json_file: Path | None) -> None:
    """Measure transfers, broadcasts and locality; exit 1 when a target is missed."""
    rounds, scale, tasks = (2, 10, 20) if quick else (rounds, 1, _TASKS)
    size = min(input_size(tasks), _INPUT_BYTES // scale)
    report = Report(
        measure_transfer(_TRANSFER_BYTES // scale, rounds),
        measure_broadcast(_BROADCAST_BYTES // scale, rounds),
        measure_locality(size, tasks, rounds, locality=True),
        measure_locality(size, tasks, rounds, locality=False),
    )
    if json_file is not None:
        json_file.write_text(
            json.dumps(msgspec.to_builtins(report, str_keys=True), indent=1) + "\n"
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    good = True
    for line, is_good in lines_of(report):
        console.print(line if is_good else f"{line} MISSED", highlight=False)
        good = good and is_good
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
