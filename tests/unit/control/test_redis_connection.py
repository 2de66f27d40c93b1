"""The URLs of Redis servers."""

from __future__ import annotations

import pytest

from raydask.control.redis_connection import RedisAddress, parse_url
from raydask.errors import UsageError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("unix:///run/a b.sock", RedisAddress(path="/run/a b.sock", password="p")),
        ("unix:///run/a%3Fb", RedisAddress(path="/run/a?b", password="p")),
        ("redis://host", RedisAddress(host="host", password="p")),
        ("redis://host:1/2", RedisAddress(host="host", port=1, database=2, password="p")),
        ("redis://[::1]:1", RedisAddress(host="::1", port=1, password="p")),
        ("redis://:s%40@host", RedisAddress(host="host", password="s@")),
        ("redis://me:s@host/0", RedisAddress(host="host", user="me", password="s")),
        ("rediss://host", RedisAddress(host="host", tls=True, password="p")),
        (
            "rediss://host/1?ca=/etc/ca.pem",
            RedisAddress(host="host", tls=True, authority="/etc/ca.pem", database=1, password="p"),
        ),
    ],
)
def test_a_url_is_an_address(url: str, address: RedisAddress) -> None:
    assert parse_url(url, "p") == address


@pytest.mark.parametrize(
    "url", ["", "host:6379", "http://host", "redis://", "unix://", "redis://host/x", "redis://h:x"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_url(url)


def test_what_is_refused_is_shown_without_its_password() -> None:
    for url in ("http://:secret@h", "redis://:secret@h:x", "unix://:secret@"):
        with pytest.raises(UsageError) as caught:
            parse_url(url)
        assert "secret" not in str(caught.value)


def test_an_address_is_shown_without_its_password() -> None:
    for url in ("unix:///a", "redis://me:secret@h", "rediss://me:secret@h:1/2"):
        assert "secret" not in str(parse_url(url, "secret"))
