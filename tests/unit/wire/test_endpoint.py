"""HOST:PORT, and what listens there."""

from __future__ import annotations

import socket

import pytest

from raydask.errors import StartError, UsageError
from raydask.wire.endpoint import (
    Endpoint,
    endpoint_of,
    listen_at,
    looks_like_endpoint,
    notice_silence,
    parse_endpoint,
)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:80", Endpoint("127.0.0.1", 80)),
        ("head:0", Endpoint("head", 0)),
        ("[::1]:6400", Endpoint("::1", 6400)),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: Endpoint) -> None:
    assert looks_like_endpoint(text)
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["auto", "/tmp/raydask-0/s-1", "::1", "host:", ":80", "a b:1", ""])
def test_other_addresses_are_none(text: str) -> None:
    assert not looks_like_endpoint(text)
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_endpoint(text)


def test_a_port_has_a_limit() -> None:
    with pytest.raises(UsageError, match="65535"):
        parse_endpoint("host:65536")


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, only_here: bool) -> None:
    assert Endpoint(host, 1).is_loopback == only_here


def test_any_port_that_is_free_and_then_that_one_is_taken() -> None:
    with listen_at(Endpoint("127.0.0.1", 0)) as listener:
        endpoint = endpoint_of(listener)
        assert endpoint.port
        with pytest.raises(StartError, match=f"nothing can listen at {endpoint}"):
            listen_at(endpoint)


def test_what_listens_somewhere_is_reached_there() -> None:
    assert Endpoint("10.0.0.1", 5).reachable == Endpoint("10.0.0.1", 5)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_what_listens_everywhere_is_reached_at_one_address_of_this_machine(host: str) -> None:
    reachable = Endpoint(host, 5).reachable
    assert reachable.host not in ("0.0.0.0", "::")
    assert reachable.port == 5
    assert (":" in reachable.host) == (":" in host)
    assert Endpoint(host, 5).is_reached_at(reachable)


@pytest.mark.parametrize(
    ("listens", "meant", "same"),
    [
        ("10.0.0.1:5", "10.0.0.1:5", True),
        ("10.0.0.1:5", "10.0.0.1:6", False),
        ("10.0.0.1:5", "10.0.0.2:5", False),
        ("127.0.0.1:5", "localhost:5", True),
        ("localhost:5", "127.0.0.1:5", True),
        ("0.0.0.0:5", "127.0.0.1:5", True),
        ("0.0.0.0:5", "203.0.113.7:5", False),
        ("nowhere.invalid:5", "nowhere.invalid:5", True),
    ],
)
def test_two_names_of_one_endpoint(listens: str, meant: str, same: bool) -> None:
    assert parse_endpoint(listens).is_reached_at(parse_endpoint(meant)) == same


def test_a_listener_says_with_which_options_another_is_chosen() -> None:
    with (
        listen_at(Endpoint("127.0.0.1", 0)) as listener,
        pytest.raises(StartError, match="choose another with --host and --link-port"),
    ):
        listen_at(endpoint_of(listener), "--host and --link-port")


def test_a_connection_whose_other_end_vanished_does_not_stay() -> None:
    listener = listen_at(Endpoint("127.0.0.1", 0))
    with listener, socket.create_connection(endpoint_of(listener)) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        notice_silence(client)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
