"""Nodes that are only an arena and its transfer, connected by socket pairs."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydask.object_store.backing import Backing
from raydask.object_store.partial_objects import PartialObjects
from raydask.object_store.puller import Puller
from raydask.object_store.transfer import TransferServer

MIB = 1 << 20
ARENA = 32 * MIB
SECONDS = 20.0

Connect = Callable[[int], socket.socket]


class TransferNode:
    """A node's side of transfers, as a source and as a puller.

    Parameters
    ----------
    folder : Path
        Of its spill files.
    connect : callable, optional
        How it connects; by default to whatever nodes `others` has.
    server_options, puller_options : dict
    """

    def __init__(
        self,
        folder: Path,
        connect: Connect | None = None,
        *,
        partial: PartialObjects | None = None,
        server_options: dict[str, Any] | None = None,
        puller_options: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.backing = Backing.create(ARENA)
        self.partial = partial or PartialObjects(SECONDS)
        self.others: dict[int, TransferNode] = {}
        self.connections: list[int] = []
        """The nodes that it has connected to, in order."""
        self.ended: queue.Queue[tuple[int, str]] = queue.Queue()
        self.arrived: dict[int, int] = {}
        """By number, how many bytes had arrived when a pull ended."""
        self.server = TransferServer(
            self.backing.fd,
            self.backing.size,
            lambda file: str(folder / f"{file}.spill"),
            self.partial,
            **(server_options or {}),
        )
        self.puller = Puller(
            self.backing.fd,
            self.backing.size,
            self.partial,
            connect or self.connect,
            self._on_end,
            **{"patience": SECONDS, **(puller_options or {})},
        )

    def _on_end(self, number: int, error: str, arrived: int) -> None:
        self.arrived[number] = arrived
        self.ended.put((number, error))

    def connect(self, node: int) -> socket.socket:
        """Return a connection to another node's server."""
        self.connections.append(node)
        here, there = socket.socketpair()
        self.others[node].server.serve(there)
        return here

    def fill(self, offset: int, data: bytes) -> None:
        os.pwrite(self.backing.fd, data, offset)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.backing.fd, size, offset)

    def end_of_pull(self) -> tuple[int, str]:
        """Return (number, error) of the next pull that ends."""
        return self.ended.get(timeout=SECONDS)

    def close(self) -> None:
        self.puller.close()
        self.server.close()
        self.backing.close()


def transfer_threads() -> list[str]:
    """Return the names of the threads that transfers have begun and that are there."""
    names = ("raydask-send", "raydask-pull", "raydask-prove", "raydask-accept")
    return [thread.name for thread in threading.enumerate() if thread.name in names]
