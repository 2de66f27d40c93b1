"""Weighs a session: its processes by psutil, Redis by its own account, the arena by the node's.

RSS counts every page that a process maps, those of the arena that it has touched included.
*Private* memory is RSS without pages of files and of shared memory.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import psutil

import raydask
from raydask.control.redis_connection import RedisAddress, RedisConnection

_ROLES = {"node.log": "node", "global-scheduler.log": "global scheduler"}
_MEGABYTE = 1e6
_REDIS_SECONDS = 5.0


class SessionProbe:
    """Weighs the session that this process has started.

    Parameters
    ----------
    session : str
        Its folder.
    driver : int
        The process that is weighed as the driver.
    """

    def __init__(self, session: str, driver: int) -> None:
        self._session = Path(session)
        self._driver = psutil.Process(driver)
        self._supervisor = next(
            child
            for child in psutil.Process().children()
            if child.pid != driver and session in child.cmdline()
        )
        password = (self._session / "secret").read_text()
        self._redis = [
            RedisConnection(RedisAddress(path=str(path), password=password), _REDIS_SECONDS)
            for path in self._session.glob("redis-*/redis.sock")
        ]

    def close(self) -> None:
        """Close the connections to Redis."""
        for connection in self._redis:
            connection.close()

    def sample(self) -> dict[str, float]:
        """Return the figures of this moment by name, in MB of 10^6 bytes."""
        rss: dict[str, int] = defaultdict(int)
        private: dict[str, int] = defaultdict(int)
        for role, process in [("driver", self._driver), *self._children()]:
            try:
                memory = process.memory_info()
            except psutil.Error:
                continue
            rss[role] += memory.rss
            private[role] += memory.rss - memory.shared
        return {
            "driver, RSS": rss["driver"] / _MEGABYTE,
            "driver, private": private["driver"] / _MEGABYTE,
            "node, RSS": rss["node"] / _MEGABYTE,
            "global scheduler, RSS": rss["global scheduler"] / _MEGABYTE,
            "workers, RSS": rss["workers"] / _MEGABYTE,
            "workers, private": private["workers"] / _MEGABYTE,
            "Redis, used_memory": self._redis_memory() / _MEGABYTE,
            "arena, used": raydask.nodes()[0]["object_store_used"] / _MEGABYTE,
        }

    def _children(self) -> list[tuple[str, psutil.Process]]:
        """Return the session's processes with their roles, those left out that have none.

        Workers are the supervisor's children, or those of their job's fork server.
        """
        found = []
        for child in self._supervisor.children(recursive=True):
            try:
                standard_error = os.readlink(f"/proc/{child.pid}/fd/2")
            except OSError:
                continue
            name = os.path.basename(standard_error)
            if name in _ROLES:
                found.append((_ROLES[name], child))
            elif standard_error.startswith("socket:"):
                found.append(("workers", child))
        return found

    def _redis_memory(self) -> int:
        used = 0
        for connection in self._redis:
            connection.send([("INFO", "memory")])
            (reply,) = connection.receive(1)
            for line in bytes(reply).decode().splitlines():
                name, _, value = line.partition(":")
                if name == "used_memory":
                    used += int(value)
        return used
