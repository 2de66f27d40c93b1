"""What comes to the ports of a cluster's nodes from outside: refused, and harmless.

There are five ports: that of the global scheduler, and for each of two nodes one for messages and
one for objects.  A member of the cluster, who knows its secret, gets further, and does no harm
either with frames that make no sense.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.ids import FunctionID, IDSource, NodeNumber, ObjectID, ProcessNumber, TaskID
from raydask.object_store.transfer import encode_request
from raydask.task import TaskSpec, TaskTemplate
from raydask.version import VERSION
from raydask.wire import messages as wire
from raydask.wire.endpoint import Endpoint
from raydask.wire.framing import FrameDecoder, encode
from raydask.wire.messages import ObjectValue, TaskResult, Whereabouts
from tests.cluster.nodes import on, where
from tests.cluster.probes import eventually, process_named
from tests.cluster.test_strangers import (
    FRAMES,
    ROOM,
    connect,
    is_closed,
    mutated,
    prove,
    send_all,
)

FAKE = 70_000
"""A node that there is not; no slip of one byte makes it one that there is."""
PORTS = ("global", "link 1", "data 1", "link 2", "data 2")


class Ports(NamedTuple):
    cluster: Cluster
    secret: str
    of: dict[str, Endpoint]


@pytest.fixture(scope="module")
def two() -> Iterator[Ports]:
    """Run two nodes, of which number `i` has the resource ``n<i>``, and join them."""
    with Cluster(num_cpus=1, resources={"n1": 10}) as cluster:
        cluster.add_node(num_cpus=1, resources={"n2": 10})
        cluster.wait_for_nodes()
        cluster.connect()
        # So that the nodes are connected, and what they need has been imported.
        raydask.get(on(2, where).remote(), timeout=20)
        raydask.get(on(2, lambda: bytes(1 << 20)).remote(), timeout=20)
        head = cluster.head_node
        assert head is not None
        found = {"global": listening(head.folder, "global-scheduler")}
        for node in cluster.list_all_nodes():
            link, data = node_ports(node.folder)
            found[f"link {node.number}"], found[f"data {node.number}"] = link, data
        yield Ports(cluster, cluster._secret, {name: found[name] for name in PORTS})


def listening(folder: str, process: str) -> Endpoint:
    (port,) = ports_of(process_named(folder, process))
    return Endpoint("127.0.0.1", port)


def ports_of(process: psutil.Process) -> list[int]:
    """Return the ports at which a process listens, in the order in which it has opened them."""
    connections = sorted(process.net_connections("tcp"), key=lambda each: each.fd)
    return [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]


def node_ports(folder: str) -> tuple[Endpoint, Endpoint]:
    """Return a node's ports for messages and for objects."""
    first, second = (Endpoint("127.0.0.1", p) for p in ports_of(process_named(folder, "node")))
    return first, second


def greeting() -> bytes:
    return encode(wire.Hello("node", 1, process=FAKE))


def samples() -> list[bytes]:
    """Return well-formed frames of all kinds that go to these ports."""
    ids = IDSource(NodeNumber(FAKE), ProcessNumber(1))
    task, object_id = ids.next_task_id(), ids.next_put_id()
    template = TaskTemplate(FunctionID(b"f" * 16), "f", resources={"CPU": 1})
    settings = wire.JobSettings(FAKE << 16, "", [], "/")
    messages = (
        wire.Hello("node", 1, process=FAKE),
        wire.Hello("control", 1, process=99),
        wire.JoinCluster("0", "3.11"),
        wire.Request(0, "nodes", b"\xc0"),
        wire.RegisterNode(FAKE, 1, "here", "host", {"CPU": 1}, {}, 1, [], "x", "y", "other"),
        wire.Heartbeat(FAKE, {"CPU": -1}, 0, 0.0, 0),
        wire.PassUp(FAKE, [wire.PassedUp(task, "f", {"CPU": -5})]),
        wire.Demands([wire.ShapeDemand(1, {"CPU": 10_000}, 1 << 40)]),
        wire.NodeUnreachable(FAKE, "it is not there"),
        wire.Lend(
            settings,
            [wire.LentTemplate(1, template, b"code", [])],
            [TaskSpec(task, 1, b"", [object_id], [])],
            [ObjectValue(object_id, 0, b"x")],
            [Whereabouts(object_id, 1 << 50, [1, 2])],
        ),
        wire.LentResults([TaskResult(task, 0, [ObjectValue(object_id, 1)], 0.0, 0.0)]),
        wire.Progress([(task, 1)]),
        wire.GiveBack([task]),
        wire.RecallTasks([TaskID(b"")]),
        wire.CancelLent([task], True, True),
        wire.EndGuestJob(1 << 16),
        wire.Borrow(1, [ObjectID(b"x")]),
        wire.Borrowed(-1),
        wire.Want([object_id], True),
        wire.Located([Whereabouts(object_id, -1, [])]),
        wire.Fetch(object_id, -1),
        wire.Places([wire.Place(object_id, 1, -1, 1 << 60, -1)]),
        wire.NotHere(object_id, 1),
        wire.CopiesMade([object_id]),
        wire.CopiesDropped([object_id]),
        wire.Forget([object_id]),
        wire.Unpin([object_id]),
        wire.Release([object_id]),
        wire.Values([ObjectValue(object_id, 1, b"", 0, 1 << 50)]),
        wire.JobLines(1 << 16, [wire.LogLine(1, "f", "stdout", "line")]),
        wire.NodesDied([(1, "it is not wanted")]),
        wire.EndSession("it is not wanted"),
    )
    requests = [
        encode_request(0, 0, 100),
        encode_request(0, 1 << 62, 1 << 62),
        encode_request(7, 0, 1 << 40),
        encode_request(0, (1 << 64) - 1, 1),
    ]
    return [encode(message) for message in messages] + requests


def private_memory(cluster: Cluster) -> dict[str, int]:
    processes = {
        f"{name} {node.number}": process_named(node.folder, name)
        for node in cluster.list_all_nodes()
        for name in ("node", "supervisor")
    }
    assert cluster.head_node is not None
    folder = cluster.head_node.folder
    processes["global scheduler"] = process_named(folder, "global-scheduler")
    return {
        f"{name}, pid {process.pid}": process.memory_full_info().uss
        for name, process in processes.items()
    }


def assert_it_works(cluster: Cluster) -> None:
    assert [each.node for each in cluster.status() if each.alive] == [1, 2]
    refs = [on(node, where).remote() for node in (1, 2, 2, 1)]
    assert raydask.get(refs, timeout=15) == [1, 2, 2, 1]
    assert len(raydask.get(on(2, lambda: bytes(1 << 20)).remote(), timeout=15)) == 1 << 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("proven", [False, True], ids=["strangers", "members"])
@pytest.mark.parametrize("port", PORTS)
def test_frames_that_make_no_sense(two: Ports, port: str, proven: bool) -> None:
    rng = random.Random(f"{port} {proven}")
    well_formed = samples()

    def frames(count: int) -> Iterator[bytes]:
        for _ in range(count):
            kind = rng.random()
            if kind < 0.3:
                yield rng.randbytes(rng.randint(1, 400))
            elif kind < 0.5:
                yield greeting() + mutated(rng.choice(well_formed), rng)
            else:
                yield mutated(rng.choice(well_formed), rng)

    secret = two.secret if proven else None
    send_all(two.of[port], frames(FRAMES // 20), proven=secret)
    before = private_memory(two.cluster)
    send_all(two.of[port], frames(FRAMES), proven=secret)
    after = private_memory(two.cluster)
    assert after.keys() == before.keys()
    grown = {name: size - before[name] for name, size in after.items()}
    assert all(size < ROOM for size in grown.values()), grown
    assert_it_works(two.cluster)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("secret", ["", "x" * 24])
def test_a_wrong_secret_is_refused_everywhere(two: Ports, port: str, secret: str) -> None:
    with connect(two.of[port]) as sock, pytest.raises(ConnectionError):
        prove(sock, secret)


@pytest.mark.parametrize("port", PORTS)
def test_who_proves_nothing_hears_nothing(two: Ports, port: str) -> None:
    with connect(two.of[port]) as sock:
        heard = b""
        try:
            sock.sendall(greeting() * 10)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(1 << 16):
                heard += piece
        except OSError:
            pass  # it was closed at once
        assert len(heard) < 100  # a greeting and a nonce, and none of what it asked for


@pytest.mark.parametrize("port", ["link 1", "link 2"])
def test_a_link_begins_with_who_it_is_from(two: Ports, port: str) -> None:
    for first in (wire.Borrowed(1), wire.Hello("driver", 1), wire.Hello("node", 1, process=1)):
        with connect(two.of[port]) as sock:
            prove(sock, two.secret)
            sock.sendall(encode(first) + encode(wire.JobLines(1 << 16, [])))
            assert is_closed(sock)  # also as node 1, which is there and connected
    assert_it_works(two.cluster)


@pytest.mark.parametrize(
    "wrong",
    [
        wire.Want([ObjectID(b"short")]),
        wire.Lend(
            wire.JobSettings(5 << 16, "", [], "/"),
            [],
            [TaskSpec(TaskID((99).to_bytes(4, "big") + bytes(12)), 5, b"", [], [])],
            [],
            [],
        ),
        wire.Heartbeat(1, {}, 0, 0.0, 0),
    ],
    ids=["an object", "a task", "a message of another kind"],
)
def test_a_node_that_says_what_cannot_be_is_parted_with(two: Ports, wrong: object) -> None:
    folder = two.cluster.list_all_nodes()[1].folder
    log = Path(folder) / "logs" / "node.log"
    with connect(two.of["global"]) as joining:
        prove(joining, two.secret)
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        joining.sendall(encode(wire.JoinCluster(VERSION, python)))
        (joined,) = FrameDecoder().feed(joining.recv(1 << 16))
    number = joined.node
    with connect(two.of["global"]) as member, connect(two.of["link 2"]) as link:
        prove(member, two.secret)
        register = wire.RegisterNode(
            number, 1, "", "elsewhere", {"CPU": 0}, {}, 1, [], "127.0.0.1:1", "127.0.0.1:2"
        )
        member.sendall(encode(register))
        eventually(lambda: number in [each.node for each in two.cluster.status()])
        prove(link, two.secret)
        hello = encode(wire.Hello("node", 1, VERSION, process=number))
        link.sendall(hello + encode(wire.Borrowed(1)) + encode(wrong) + encode(wire.Borrowed(1)))
        assert is_closed(link)
        eventually(lambda: log.read_text().count(type(wrong).__name__))
        # The global scheduler gives up the newer of the two.
        eventually(lambda: [each.node for each in two.cluster.status() if each.alive] == [1, 2])
    assert_it_works(two.cluster)


def test_nodes_that_there_are_not_are_not_remembered(two: Ports) -> None:
    node = process_named(two.cluster.list_all_nodes()[1].folder, "node")
    connections = len(node.net_connections("tcp"))
    for number in range(FAKE, FAKE + 50):
        with connect(two.of["link 2"]) as sock:
            prove(sock, two.secret)
            sock.sendall(encode(wire.Hello("node", 1, process=number)))
            sock.sendall(encode(wire.Borrowed(1)) * 10)
    eventually(lambda: len(node.net_connections("tcp")) <= connections)
    assert_it_works(two.cluster)
