"""What comes to a listening port from outside: refused, and harmless."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterator

import psutil
import pytest

from raydask.wire import messages as wire
from raydask.wire.authentication import GREETING, NONCE_SIZE, PROOF_SIZE, ClientProver
from raydask.wire.endpoint import Endpoint, parse_endpoint
from raydask.wire.framing import FRAME_TYPES, HEADER, encode
from tests.cluster.probes import process_named
from tests.cluster.test_commands import SECRET, command, start

FRAMES = 10_000
A_CONNECTION = 20
"""Frames that are sent over one connection, unless it is closed before."""
ROOM = 6 << 20
"""Bytes by which a process may grow: heaps are not given back to the byte."""
SECONDS = 8.0


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[str, Endpoint]]:
    folder, endpoint = start(RAYDASK_SECRET=SECRET)
    yield folder, parse_endpoint(endpoint)
    command("stop")


def connect(endpoint: Endpoint) -> socket.socket:
    sock = socket.create_connection(endpoint, SECONDS)
    sock.settimeout(SECONDS)
    return sock


def prove(sock: socket.socket, secret: str = SECRET) -> None:
    """Say what a member of the cluster says, and hear the answer."""
    prover = ClientProver(secret, os.urandom(NONCE_SIZE))
    sock.sendall(prover.feed(receive(sock, len(GREETING) + NONCE_SIZE)))
    prover.feed(receive(sock, PROOF_SIZE))
    assert prover.done


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("closed")
        data += piece
    return data


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1 << 16) == b""
    except ConnectionError:
        return True


def samples() -> list[bytes]:
    """Return well-formed frames of many kinds."""
    hello = wire.Hello("observer", 1)
    return [
        encode(message)
        for message in (
            hello,
            wire.Request(0, "nodes", b"\xc0"),
            wire.Request(1, "x" * 100, bytes(1000)),
            wire.RegisterNode(9, 1, "here", "host", {"CPU": 1}, {}, 1, []),
            wire.Heartbeat(9, {"CPU": 1}, 0, 0.0, 0),
            wire.PassUp(9, []),
            wire.Unblocked(),
            wire.EndSession(),
            wire.ForkWorkers(1000),
        )
    ]


def mutated(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(4)
        place = rng.randrange(len(data))
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place:]
            data += b"\0"
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 30))
        else:
            data[:5] = HEADER.pack(rng.randrange(1 << 32), rng.randrange(len(FRAME_TYPES) + 5))
    return bytes(data)


def send_all(endpoint: Endpoint, frames: Iterator[bytes], *, proven: str | None) -> int:
    """Send the frames over as many connections as it takes; return how many were used.

    Each begins with a proof of the secret `proven`, unless that is None.
    """
    connections = 0
    left = next(frames, None)
    while left is not None:
        connections += 1
        with connect(endpoint) as sock:
            if proven is not None:
                prove(sock, proven)
            try:
                for _ in range(A_CONNECTION):
                    if left is None:
                        break
                    sock.sendall(left)
                    left = next(frames, None)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            except OSError:
                pass  # closed by the other side, as it should be
    return connections


def private_memory(folder: str) -> dict[str, int]:
    return {
        name: psutil.Process(process_named(folder, name).pid).memory_full_info().uss
        for name in ("global-scheduler", "node", "supervisor")
    }


def assert_it_works(folder: str, endpoint: Endpoint) -> None:
    result = command("status", "--address", str(endpoint), RAYDASK_SECRET=SECRET)
    assert result.returncode == 0, result.stderr
    assert "0 of 2 CPU" in result.stdout


@pytest.mark.parametrize("proven", [False, True], ids=["strangers", "members"])
def test_ten_thousand_frames_that_make_no_sense(
    started: tuple[str, Endpoint], proven: bool
) -> None:
    folder, endpoint = started
    rng = random.Random(20_261_126)
    well_formed = samples()

    def frames(count: int) -> Iterator[bytes]:
        for _ in range(count):
            if rng.random() < 0.5:
                yield rng.randbytes(rng.randint(1, 400))
            else:
                yield mutated(rng.choice(well_formed), rng)

    secret = SECRET if proven else None
    send_all(endpoint, frames(FRAMES // 10), proven=secret)
    before = private_memory(folder)
    pids = {name: process_named(folder, name).pid for name in before}
    connections = send_all(endpoint, frames(FRAMES), proven=secret)

    assert connections >= FRAMES / A_CONNECTION
    assert {name: process_named(folder, name).pid for name in before} == pids
    grown = {name: size - before[name] for name, size in private_memory(folder).items()}
    assert all(bytes_ < ROOM for bytes_ in grown.values()), grown
    assert_it_works(folder, endpoint)


def test_a_frame_that_claims_a_gigabyte_is_not_made_room_for(
    started: tuple[str, Endpoint],
) -> None:
    folder, endpoint = started
    before = private_memory(folder)
    with connect(endpoint) as sock:
        prove(sock)
        sock.sendall(HEADER.pack((1 << 30) + 1, 0))
        assert is_closed(sock)
    held = []
    for _ in range(20):
        sock = connect(endpoint)
        prove(sock)
        sock.sendall(HEADER.pack(1 << 29, 0) + bytes(100))
        held.append(sock)
    assert_it_works(folder, endpoint)
    grown = {name: size - before[name] for name, size in private_memory(folder).items()}
    assert all(bytes_ < ROOM for bytes_ in grown.values()), grown
    for sock in held:
        sock.close()


@pytest.mark.parametrize("secret", ["", "x" * 24, SECRET + "x"])
def test_a_wrong_secret_is_refused(started: tuple[str, Endpoint], secret: str) -> None:
    with connect(started[1]) as sock, pytest.raises(ConnectionError):
        prove(sock, secret)


def test_silent_connections_do_not_keep_the_cluster_from_its_own(
    started: tuple[str, Endpoint],
) -> None:
    folder, endpoint = started
    silent = [connect(endpoint) for _ in range(100)]
    try:
        answered = asyncio.run(_answers_within(folder, endpoint, 12.0))
        assert answered
    finally:
        for sock in silent:
            sock.close()


async def _answers_within(folder: str, endpoint: Endpoint, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        result = await asyncio.to_thread(
            command, "status", "--address", str(endpoint), RAYDASK_SECRET=SECRET
        )
        if result.returncode == 0:
            return True
        await asyncio.sleep(0.1)
    return False
