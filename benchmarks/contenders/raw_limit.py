"""The least that sending tasks to other processes can cost in Python.

Forked workers and the driver exchange batches of pickled tasks over socket pairs, and nothing
else: no scheduler, no dependencies, no failures, no store. What an engine takes beyond this is
the price of being an engine.

    driver --[length][pickle of [(function, argument), …]]--> worker
    driver <--[length][pickle of [result, …]]--------------- worker
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contenders.port import RunsTasks

_BATCH = 500
_LENGTH = struct.Struct("<I")


class RawLimit(RunsTasks):
    """Batches of pickled tasks over socket pairs to forked workers."""

    name = "raw-limit"

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._sockets: list[socket.socket] = []
        self._workers: list[int] = []

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        for _ in range(self.cpus):
            ours, theirs = socket.socketpair()
            worker = os.fork()
            if worker == 0:
                ours.close()
                for sibling in self._sockets:
                    sibling.close()
                _serve(theirs)
                os._exit(0)
            theirs.close()
            self._sockets.append(ours)
            self._workers.append(worker)

    def stop(self) -> None:
        for connection in self._sockets:
            connection.close()
        for worker in self._workers:
            os.waitpid(worker, 0)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        connection = self._sockets[0]
        _send(connection, [(function, arguments)])
        return _receive(connection)[0]

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        tasks = [(function, (argument,)) for argument in arguments]
        batches = [tasks[start : start + _BATCH] for start in range(0, len(tasks), _BATCH)]
        sent = self._sockets * (len(batches) // len(self._sockets) + 1)
        # One batch ahead per worker keeps it busy while the driver unpickles the one before;
        # more could fill both directions of a socket pair and block both sides.
        ahead = 2 * len(self._sockets)
        results: list[Any] = []
        for number, batch in enumerate(batches):
            if number >= ahead:
                results += _receive(sent[number - ahead])
            _send(sent[number], batch)
        for number in range(max(0, len(batches) - ahead), len(batches)):
            results += _receive(sent[number])
        return results


def _serve(connection: socket.socket) -> None:
    while True:
        try:
            tasks = _receive(connection)
        except EOFError:
            return
        _send(connection, [function(*arguments) for function, arguments in tasks])


def _send(connection: socket.socket, message: list[Any]) -> None:
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_LENGTH.pack(len(payload)) + payload)


def _receive(connection: socket.socket) -> list[Any]:
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    message: list[Any] = pickle.loads(_read(connection, length))
    return message


def _read(connection: socket.socket, length: int) -> bytes:
    payload = connection.recv(length, socket.MSG_WAITALL)
    if len(payload) < length:
        raise EOFError
    return payload
