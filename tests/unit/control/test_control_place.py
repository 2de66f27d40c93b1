"""External Redis servers, as they describe themselves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raydask.control.control_place import ControlPlace, check_servers, clear_place, parse_place
from raydask.control.redis_connection import RedisAddress
from raydask.errors import StartError, UsageError

GOOD = {
    "redis_version": "6.2.14",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}


@contextmanager
def server(answer: bytes) -> Iterator[RedisAddress]:
    """A server that answers whoever connects first once, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield RedisAddress(host="127.0.0.1", port=listener.getsockname()[1])
        thread.join(20)
        assert not thread.is_alive()


def judged(**described: str) -> list[str]:
    info = "".join(f"{name}:{value}\r\n" for name, value in {**GOOD, **described}.items()).encode()
    with server(b"$%d\r\n%s\r\n" % (len(info), info)) as address:
        return check_servers(ControlPlace([address], "c"))


def test_a_server_as_it_should_be() -> None:
    assert judged() == []
    assert judged(redis_version="7.2.4", valkey_version="8.0.1") == []


@pytest.mark.parametrize(
    ("described", "remedy"),
    [
        ({"redis_version": "5.0.14"}, "5.0.14: raydask needs 6.0 or later"),
        ({"redis_version": ""}, "unknown"),
        ({"redis_mode": "cluster"}, "name servers that are not"),
        ({"role": "slave", "master_host": "h", "master_port": "1"}, r"copies \(h:1\)"),
    ],
)
def test_a_server_that_cannot_be_used(described: dict[str, str], remedy: str) -> None:
    with pytest.raises(StartError, match=remedy):
        judged(**described)


def test_a_server_that_may_forget_is_warned_of() -> None:
    (evicting,) = judged(maxmemory="1000", maxmemory_policy="allkeys-lru")
    assert "noeviction" in evicting
    (volatile,) = judged(aof_enabled="0")
    assert "appendonly" in volatile


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (b"-NOAUTH Authentication required.\r\n", "RAYDASK_REDIS_PASSWORD"),
        (b"-NOPERM no permissions to run the 'info' command\r\n", "let its user run"),
        (b"", "is the port the right one"),
        (b"HTTP/1.1 400 Bad Request\r\n", "is the port the right one"),
    ],
)
def test_a_server_that_refuses(answer: bytes, remedy: str) -> None:
    with server(answer) as address, pytest.raises(StartError, match=remedy):
        check_servers(ControlPlace([address], "c"))


def test_several_urls_are_the_shards_of_one_place() -> None:
    place = parse_place("redis://a/1, redis://:own@b", "c1", "shared")

    assert [(s.host, s.database, s.password) for s in place.servers] == [
        ("a", 1, "shared"),
        ("b", 0, "own"),
    ]
    assert place.prefix == "raydask:c1:"
    with pytest.raises(UsageError, match="same database"):
        parse_place("redis://a,redis://a:6379/0", "c1")


def test_own_servers_have_no_prefix() -> None:
    assert ControlPlace([]).prefix == ""


def test_what_cannot_be_removed_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    place = ControlPlace([RedisAddress(host="127.0.0.1", port=port)], "c")

    assert "did not answer" in clear_place(place)
