"""The benchmarks run, and end every process that they started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import raydask
from benchmarks.host_process import HostError, HostProcess
from benchmarks.soak.probe import SessionProbe
from benchmarks.soak.tasks import make

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [
        *(sys.executable, "-m", "benchmarks", "--quick", "--json", str(file)),
        *("--contenders", "raydask,process-pool,raw-limit", "--cases", "noop-async,startup"),
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "init to first result" in done.stdout
    assert "left" not in done.stderr
    noop, startup = json.loads(file.read_text())["cases"]
    assert noop["contenders"].keys() == {"raydask", "process-pool", "raw-limit"}
    assert noop["contenders"]["raydask"]["metrics"]["task"]["ratio"] == 1
    assert startup["contenders"]["raydask"]["metrics"]["idle memory"]["median"] > 0


def host(**options: float) -> HostProcess:
    limit = options.get("limit", 60.0)
    return HostProcess("raw-limit", cpus=2, starts_contender=True, limit=limit)


def test_a_paused_host_answers_once_resumed() -> None:
    paused = host()
    try:
        paused.wait_ready()
        paused.pause()
        paused.resume()
        assert paused.ask("measure", "noop-sync", quick=True)["answer"] == sum(range(20))
    finally:
        assert paused.close() == 0


def test_an_error_in_a_round_comes_back_and_the_host_goes_on() -> None:
    served = host()
    try:
        served.wait_ready()
        with pytest.raises(HostError, match="create_actor"):
            served.ask("measure", "actor-sync", quick=True)
        assert served.ask("measure", "noop-sync", quick=True)["values"]["task"] > 0
    finally:
        assert served.close() == 0


def test_a_host_that_does_not_answer_is_given_up_and_killed() -> None:
    silent = host(limit=5.0)
    silent.wait_ready()
    silent.pause()
    with pytest.raises(HostError, match="no answer within 5 s"):
        silent.ask("measure", "noop-sync", quick=True)
    assert silent.kill() == 3


def test_a_host_that_dies_is_reported_with_its_last_words() -> None:
    dying = HostProcess("no-such-contender", cpus=1, starts_contender=True, limit=60.0)
    with pytest.raises(HostError, match="KeyError: 'no-such-contender'"):
        dying.wait_ready()
    dying.kill()


def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    command = [
        *(sys.executable, "-m", "benchmarks.soak", "--tasks", "2000", "--window", "400"),
        # So short a run is all warm-up; what it may not do is keep anything.
        *("--allowance", "1000", "--json", str(file)),
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2,000 tasks in" in done.stdout
    soak = json.loads(file.read_text())
    assert soak["after_the_driver"] == {"tasks": 0, "objects": 0, "bytes": 0}
    assert soak["ended"][-1] == 2000
    for name, series in soak["series"].items():
        assert len(series) == len(soak["ended"])
        assert max(series) > 0, name


def test_the_soak_weighs_every_process_wherever_it_comes_from() -> None:
    with raydask.init(num_cpus=2) as context:
        task = raydask.remote(make)
        for _ in range(2):  # the second time by workers that share numpy
            raydask.get([task.remote(number) for number in range(4)])
        probe = SessionProbe(context["address"], os.getpid())
        sample = probe.sample()
        probe.close()
    roles = ("driver, RSS", "node, RSS", "global scheduler, RSS", "workers, RSS")
    assert all(sample[role] > 0 for role in roles), sample
