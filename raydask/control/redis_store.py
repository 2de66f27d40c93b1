"""The control store on one or several Redis servers.

Keys are spread over the servers by ``schema.shard_of``.  A call sends each shard one
pipeline, to all of them before it waits for the first, so it costs one round trip however
many shards there are.

When a connection breaks nobody can know which of its commands were executed, so all are
sent again.  That is harmless for what it is used for:

=====================  ================================================================
request                when it is executed twice
=====================  ================================================================
``MSET DEL MGET SCAN``   the same as once
``INCR``               a number is skipped
``SET NX``             the second one fails; the value tells whether the first was ours
append to the stream   a script compares the append's number with the writer's last one
=====================  ================================================================
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import hiredis

from raydask.control.redis_connection import (
    CONNECTION_FAILURES,
    Address,
    Command,
    RedisConnection,
    Reply,
    parse_url,
)
from raydask.control.schema import EVENTS_KEY, counter_key, events_appended_key, shard_of
from raydask.control.store import ControlStoreError, ControlStoreUnavailableError, claim_schema
from raydask.errors import UsageError

_MAX_KEYS = 512
_MAX_BYTES = 1 << 20
_MAX_EVENTS = 1000
_SCAN_PAGE = 1000
_FIRST_PAUSE = 0.01
_MAX_PASSES = 10
_REMEDIES = (
    (
        ("ERR Client sent AUTH", "ERR AUTH <password> called without any password"),
        "it has no password: give none, in the URL or in RAYDASK_REDIS_PASSWORD",
    ),
    (
        ("NOAUTH", "WRONGPASS", "ERR AUTH", "ERR invalid password"),
        "give the right password in the URL or as `password`, or for an external Redis in "
        "RAYDASK_REDIS_PASSWORD",
    ),
    (("NOPERM",), "let its user run all commands on keys that begin with raydask:"),
    (("ERR DB index", "ERR invalid DB"), "name a database that it has: redis://host:port/0"),
    (("OOM",), "raise its maxmemory"),
    (("READONLY",), "name the server that may be written, and not a copy of it"),
    (("MOVED", "CROSSSLOT"), "name servers that are not part of a Redis Cluster"),
)
_TRANSIENT_REPLIES = ("LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN")

_APPEND_SCRIPT = """
if redis.call('GET', KEYS[2]) == ARGV[1] then return 0 end
for i = 3, #ARGV do redis.call('XADD', KEYS[1], '*', 'event', ARGV[i]) end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'EX', 600)
return #ARGV - 2
"""


class _Answer(NamedTuple):
    """The replies of one shard, and whether its commands were sent more than once."""

    replies: list[Reply]
    resent: bool


class RedisStore:
    """A ``ControlStore`` on Redis 6 or later, or Valkey.

    Parameters
    ----------
    urls : sequence of str or Address
        One a shard, in the order of their numbers; see ``redis_connection.parse_url``.
    password : str
        For the URLs that have none.
    prefix : str
        What all keys begin with there, unseen by who uses the store.
    timeout : float
        Seconds that one read or write on a socket may take.
    attempts : int
        How often a request is sent before it counts as failed.  The pauses between
        attempts begin at 10 ms and double: 8 attempts last 1.3 s.
    """

    def __init__(
        self,
        urls: Sequence[str | Address],
        *,
        password: str = "",
        prefix: str = "",
        timeout: float = 10.0,
        attempts: int = 8,
    ) -> None:
        if not urls:
            raise UsageError("a control store needs the URL of at least one Redis server")
        self._connections = [
            RedisConnection(parse_url(url, password) if isinstance(url, str) else url, timeout)
            for url in urls
        ]
        self._prefix = prefix
        self._attempts = attempts
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._closed.set()
        self._writer = os.urandom(8).hex()
        self._appends = itertools.count(1)

    def start(self) -> None:
        """See ``ControlStore.start``."""
        self._closed.clear()
        try:
            self._send({shard: [("PING",)] for shard in range(len(self._connections))})
            claim_schema(self)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See ``ControlStore.close``.  A call in another thread that waits gives up."""
        self._closed.set()
        with self._lock:
            for connection in self._connections:
                connection.close()

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """See ``ControlStore.write``."""
        pipelines: dict[int, list[Command]] = {}
        for shard, keys in self._by_shard(puts).items():
            pipelines[shard] = _set_commands(puts, keys, self._prefix)
        for shard, keys in self._by_shard(deletes).items():
            pipelines.setdefault(shard, []).extend(self._key_commands("DEL", keys))
        self._send(pipelines)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See ``ControlStore.read``."""
        by_shard = self._by_shard(keys)
        answers = self._send(
            {shard: self._key_commands("MGET", some) for shard, some in by_shard.items()}
        )
        values: dict[str, bytes | None] = {}
        for shard, some in by_shard.items():
            values.update(
                zip(some, itertools.chain.from_iterable(answers[shard].replies), strict=True)
            )
        return [values[key] for key in keys]

    def scan(self, prefix: str) -> Iterator[str]:
        """See ``ControlStore.scan``."""
        begin = len(self._prefix)
        for shard in range(len(self._connections)):
            for keys in self._scan(shard, prefix):
                yield from (key.decode()[begin:] for key in keys)

    def _scan(self, shard: int, prefix: str) -> Iterator[list[bytes]]:
        """Yield the names that keys have on a shard, page by page."""
        pattern = _literal_glob(self._prefix + prefix) + "*"
        connection = self._connections[shard]
        cursor: str | bytes = "0"
        times_connected = connection.times_connected
        while True:
            page: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_PAGE)
            cursor, keys = self._send_one(shard, page).replies[0]
            yield keys
            if connection.times_connected != times_connected:
                # The cursor of a server that was restarted means nothing to the new one.
                times_connected, cursor = connection.times_connected, "0"
            elif cursor == b"0":
                break

    def clear(self) -> None:
        """See ``ControlStore.clear``."""
        for shard in range(len(self._connections)):
            for _ in range(_MAX_PASSES):
                found = False
                for keys in self._scan(shard, ""):
                    if keys:
                        found = True
                        self._send_one(shard, ("DEL", *keys))
                if not found:
                    break

    def increment(self, counter: str) -> int:
        """See ``ControlStore.increment``."""
        key = counter_key(counter)
        command = ("INCR", self._prefix + key)
        number: int = self._send_one(self._shard(key), command).replies[0]
        return number

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """See ``ControlStore.put_if_absent``."""
        answer = self._send_one(self._shard(key), ("SET", self._prefix + key, value, "NX"))
        if answer.replies[0] is not None:
            return True
        return answer.resent and self.read([key]) == [value]

    def append_events(self, events: Sequence[bytes], max_entries: int) -> None:
        """See ``ControlStore.append_events``."""
        shard = self._shard(EVENTS_KEY)
        stream = self._prefix + EVENTS_KEY
        appended = self._prefix + events_appended_key(self._writer)
        head = ("EVAL", _APPEND_SCRIPT, 2, stream, appended)
        for start in range(0, len(events), _MAX_EVENTS):
            some = events[start : start + _MAX_EVENTS]
            self._send_one(shard, (*head, next(self._appends), max_entries, *some))

    def read_events(self, after: str = "0-0", limit: int = 1000) -> list[tuple[str, bytes]]:
        """See ``ControlStore.read_events``."""
        stream = self._prefix + EVENTS_KEY
        command: Command = ("XREAD", "COUNT", limit, "STREAMS", stream, after)
        streams = self._send_one(self._shard(EVENTS_KEY), command).replies[0]
        if streams is None:
            return []
        return [(entry_id.decode(), fields[1]) for entry_id, fields in streams[0][1]]

    def used_memory(self) -> int:
        """See ``ControlStore.used_memory``."""
        shards = range(len(self._connections))
        answers = self._send({shard: [("INFO", "memory")] for shard in shards})
        return sum(_used_memory(answer.replies[0]) for answer in answers.values())

    def _key_commands(self, name: str, keys: Sequence[str]) -> list[Command]:
        """Return commands that take any number of keys."""
        prefix = self._prefix
        names = [prefix + key for key in keys] if prefix else keys
        starts = range(0, len(names), _MAX_KEYS)
        return [(name, *names[start : start + _MAX_KEYS]) for start in starts]

    def _shard(self, key: str) -> int:
        return shard_of(key, len(self._connections))

    def _by_shard(self, keys: Mapping[str, bytes] | Sequence[str]) -> dict[int, list[str]]:
        shards = len(self._connections)
        if shards == 1:
            return {0: list(keys)} if keys else {}
        by_shard: dict[int, list[str]] = {}
        for key in keys:
            by_shard.setdefault(shard_of(key, shards), []).append(key)
        return by_shard

    def _send_one(self, shard: int, command: Command) -> _Answer:
        return self._send({shard: [command]})[shard]

    def _send(self, pipelines: Mapping[int, Sequence[Command]]) -> dict[int, _Answer]:
        """Send each shard its pipeline, and again where that failed, until all answered."""
        waiting = dict(pipelines)
        answers: dict[int, _Answer] = {}
        pause = _FIRST_PAUSE
        with self._lock:
            for attempt in range(self._attempts):
                if attempt:
                    self._closed.wait(pause)
                    pause *= 2
                if self._closed.is_set():
                    raise ControlStoreError("the control store is not open: call start() first")
                failures = self._attempt(waiting, answers, resent=attempt > 0)
                if not waiting:
                    return answers
        (shard, failure), *_ = failures.items()
        raise ControlStoreUnavailableError(
            f"Redis at {self._connections[shard].address} did not answer {self._attempts} "
            f"attempts ({failure}): check that it runs and can be reached from here"
        ) from failure

    def _attempt(
        self, waiting: dict[int, Sequence[Command]], answers: dict[int, _Answer], resent: bool
    ) -> dict[int, Exception]:
        """Move each shard that answers from `waiting` to `answers`; return why others did not."""
        failures: dict[int, Exception] = {}
        for shard, commands in waiting.items():
            try:
                self._connections[shard].send(commands)
            except CONNECTION_FAILURES as failure:
                failures[shard] = failure
            except hiredis.ReplyError as reply:
                failures[shard] = self._passing(shard, reply, waiting)
        for shard in [shard for shard in waiting if shard not in failures]:
            try:
                replies = self._connections[shard].receive(len(waiting[shard]))
            except CONNECTION_FAILURES as failure:
                failures[shard] = failure
                continue
            error = next((r for r in replies if isinstance(r, hiredis.ReplyError)), None)
            if error is None:
                answers[shard] = _Answer(replies, resent)
                del waiting[shard]
            else:
                failures[shard] = self._passing(shard, error, waiting)
        self._drop_connections(failures)
        return failures

    def _passing(
        self, shard: int, error: hiredis.ReplyError, waiting: Mapping[int, object]
    ) -> hiredis.ReplyError:
        """Return the error if it is one that passes by itself; else raise what it means."""
        if str(error).startswith(_TRANSIENT_REPLIES):
            return error
        self._drop_connections(waiting)
        raise self._refused(shard, error) from error

    def _drop_connections(self, shards: Mapping[int, object]) -> None:
        # Replies that nobody will read may be on their way.
        for shard in shards:
            self._connections[shard].close()

    def _refused(self, shard: int, error: hiredis.ReplyError) -> ControlStoreError:
        reason = str(error)
        return ControlStoreError(
            f"Redis at {self._connections[shard].address} refused ({reason}): {remedy_for(reason)}"
        )


def remedy_for(reason: str) -> str:
    """Return what to do about a refusal."""
    for beginnings, remedy in _REMEDIES:
        if reason.startswith(beginnings):
            return remedy
    return "see https://redis.io/docs/latest/ for the meaning of the reply"


def _set_commands(puts: Mapping[str, bytes], keys: Sequence[str], prefix: str) -> list[Command]:
    """Return MSET commands for `keys`, none so long that it would hold up the server."""
    commands: list[Command] = []
    arguments: list[str | bytes] = ["MSET"]
    size = 0
    for key in keys:
        value = puts[key]
        arguments += (prefix + key, value)
        size += len(value)
        if size >= _MAX_BYTES or len(arguments) > 2 * _MAX_KEYS:
            commands.append(tuple(arguments))
            arguments = ["MSET"]
            size = 0
    if len(arguments) > 1:
        commands.append(tuple(arguments))
    return commands


def _literal_glob(text: str) -> str:
    """Return the pattern that matches `text` and nothing else."""
    return "".join("\\" + character if character in "\\*?[]^" else character for character in text)


def _used_memory(info: bytes) -> int:
    """Return what the state takes, less the buffers for clients and file that come and go."""
    lines = (line.partition(b":") for line in info.splitlines())
    fields = {name: value for name, _, value in lines}
    if b"used_memory" not in fields:
        raise ControlStoreError("Redis reports no used_memory: is INFO allowed to this user?")
    buffers = (b"mem_clients_normal", b"mem_aof_buffer")
    return int(fields[b"used_memory"]) - sum(int(fields.get(name, 0)) for name in buffers)
