"""The files under docs/deploy: they parse, and do here what they are for, with stand-ins."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydask.session_folder import running_sessions
from tests.architecture.source import ROOT
from tests.cluster.probes import eventually
from tests.cluster.test_commands import SECRET, command

DEPLOY = ROOT / "docs" / "deploy"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give an environment in which `raydask` is this one, and `ssh` and `srun` run things here."""
    scripts = {
        "raydask": f'exec {sys.executable} -m raydask "$@"',
        "python3": f'exec {sys.executable} "$@"',
        "ssh": 'shift; exec bash -c "$*"',
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo 127.0.0.1",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PORT": str(port),
    }
    command("stop")
    eventually(lambda: not running_sessions())


def run(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        ["bash", *words],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ssh_script_starts_nodes_and_lets_them_leave(tools: dict[str, str]) -> None:
    script = str(DEPLOY / "ssh_cluster.sh")
    tools |= {"RAYDASK_SECRET": SECRET, "OPTIONS": "--num-cpus 1"}
    run(tools, script, "up", "127.0.0.1", "127.0.0.1", "127.0.0.1")
    nodes = json.loads(command("status", "--json").stdout)
    assert [node["resources"]["CPU"] for node in nodes] == [1, 1, 1]
    assert len(running_sessions()) == 3

    run(tools, script, "down", "127.0.0.1", "127.0.0.1", "127.0.0.1")
    assert running_sessions() == []


def test_the_ssh_script_makes_a_secret_and_shows_it(tools: dict[str, str]) -> None:
    script = str(DEPLOY / "ssh_cluster.sh")
    tools.pop("RAYDASK_SECRET", None)
    out = run(tools | {"OPTIONS": "--num-cpus 1"}, script, "up", "127.0.0.1")
    shown = out.splitlines()[0].removeprefix("RAYDASK_SECRET=")
    assert len(shown) == 32
    (session,) = running_sessions()
    assert (session / "secret").read_text() == shown


def test_the_ssh_script_says_when_a_machine_cannot_be_a_node(tools: dict[str, str]) -> None:
    script = str(DEPLOY / "ssh_cluster.sh")
    tools |= {"RAYDASK_SECRET": SECRET, "OPTIONS": "--resources nonsense"}
    done = subprocess.run(
        ["bash", script, "up", "127.0.0.1", "127.0.0.1"],
        env=tools,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert b"--resources" in done.stderr


def test_the_slurm_script_runs_a_program_on_all_nodes(
    tools: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, raydask\n"
        "raydask.init()\n"
        "print(sys.argv[1], len(raydask.nodes()), raydask.cluster_resources()['CPU'])\n"
    )
    tools |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    out = run(tools, str(DEPLOY / "slurm.sbatch"), str(program), "argument")
    assert "argument 2 2.0" in out.splitlines()
    assert running_sessions() == []


def documents() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def test_the_manifest_is_consistent() -> None:
    service, head, worker = documents()
    for deployment in (head, worker):
        spec = deployment["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        (container,) = spec["template"]["spec"]["containers"]
        assert {entry["name"] for entry in container["env"]} == {"POD_IP", "RAYDASK_SECRET"}
    assert service["spec"]["selector"] == head["spec"]["selector"]["matchLabels"]
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert f"--address={name}:{port}" in container["command"]
    grace = worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    seconds = [word for word in container["command"] if word.startswith("--drain-seconds")]
    assert seconds == [container["lifecycle"]["preStop"]["exec"]["command"][-1]]
    assert int(seconds[0].partition("=")[2]) < grace


def test_the_manifests_commands_are_understood() -> None:
    """Each with `--help` behind it, which is looked at when all words are known."""
    for document in documents()[1:]:
        (container,) = document["spec"]["template"]["spec"]["containers"]
        commands = [container["command"]]
        if "lifecycle" in container:
            commands.append(container["lifecycle"]["preStop"]["exec"]["command"])
        for words in commands:
            assert words[0] == "raydask"
            known = command(words[1], "--help").stdout
            options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
            assert [option for option in options if option not in known] == []
