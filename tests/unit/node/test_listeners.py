"""The two sockets at which other nodes reach a node."""

from __future__ import annotations

import pytest

from raydask.errors import StartError
from raydask.node.listeners import open_listeners, reached_at
from raydask.wire.endpoint import endpoint_of


def test_a_node_listens_twice() -> None:
    listeners = open_listeners("127.0.0.1", 0, 0)
    assert reached_at(listeners.link) == str(endpoint_of(listeners.link))
    assert reached_at(listeners.link) != reached_at(listeners.data)
    listeners.close()
    assert listeners.link.fileno() == listeners.data.fileno() == -1


def test_a_port_that_is_taken_leaves_neither_open() -> None:
    first = open_listeners("127.0.0.1", 0, 0)
    link, data = endpoint_of(first.link).port, endpoint_of(first.data).port
    with pytest.raises(StartError, match="--link-port"):
        open_listeners("127.0.0.1", link, 0)
    with pytest.raises(StartError, match="--data-port"):
        open_listeners("127.0.0.1", 0, data)
    first.close()
