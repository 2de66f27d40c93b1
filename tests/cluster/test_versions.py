"""Nodes and drivers of other versions: refused, or warned of, with a table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from raydask.cluster_utils import Cluster
from raydask.session_folder import running_sessions
from raydask.version import VERSION
from raydask.wire.handshake import protocol
from tests.architecture.source import ROOT
from tests.cluster.probes import eventually, run_driver, session_processes
from tests.cluster.test_commands import command

PYTHON = "{}.{}.{}".format(*sys.version_info)
OTHER_VERSION = 'import raydask.wire.handshake as handshake; handshake.VERSION = "0.0.1"\n'
OTHER_PROTOCOL = 'import raydask.wire.handshake as handshake; handshake.protocol = lambda: "0"\n'
OTHER_PICKLER = 'import cloudpickle; cloudpickle.__version__ = "0.1.0"\n'
JOIN = """
import os
import raydask

try:
    raydask.init(os.environ["ADDRESS"])
except raydask.errors.ClusterUnavailableError as error:
    print(error)
else:
    print(raydask.get(raydask.remote(lambda: 5).remote()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Run a head and a node."""
    with Cluster() as made:
        made.add_node()
        made.wait_for_nodes()
        yield made


def cells(table: str) -> dict[str, list[str]]:
    """Return the rows of a table by whose they are."""
    rows = [line.split("  ") for line in table.splitlines() if line[:1].strip()]
    return {row[0].strip(): [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (OTHER_VERSION, f"this node runs raydask {VERSION} and the driver has 0.0.1"),
        (OTHER_PROTOCOL, "whose messages differ"),
    ],
)
def test_a_driver_that_does_not_fit_is_refused_with_the_table(
    cluster: Cluster, patch: str, reason: str
) -> None:
    node = cluster.worker_nodes[0]
    code, out, _ = run_driver(patch + JOIN, ADDRESS=node.folder)

    first, _, rows = out.partition("\n")
    assert (code, reason in first) == (0, True)
    found = cells(rows)
    assert found["the head"] == found["this node"]
    assert found["the head"] == [VERSION, PYTHON, protocol(), cloudpickle.__version__]
    assert [cell.endswith(" !") for cell in found["the driver"]] == [
        "handshake.VERSION" in patch,
        False,
        "handshake.protocol" in patch,
        False,
    ]


def test_a_driver_that_fits_badly_is_told_and_works(cluster: Cluster) -> None:
    code, out, err = run_driver(OTHER_PICKLER + JOIN, ADDRESS=cluster.worker_nodes[0].folder)

    assert (code, out) == (0, "5\n")
    assert f"this node has cloudpickle {cloudpickle.__version__} and the driver 0.1.0" in err
    assert cells(err)["the driver"][-1] == "0.1.0 ?"


def start_node(cluster: Cluster, folder: Path, patch: str) -> tuple[int, str, str]:
    """Start a node whose processes begin with `patch`; return exit code, output and errors."""
    (folder / "sitecustomize.py").write_text(patch)
    words = ("--num-cpus", "1", "--object-store-memory", str(100 << 20))
    path = f"{folder}{os.pathsep}{ROOT}"
    result = command("start", "--address", cluster.address, *words, PYTHONPATH=path)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (OTHER_VERSION, f"the head runs raydask {VERSION} and the new node has 0.0.1"),
        (OTHER_PROTOCOL, "whose messages differ"),
    ],
)
def test_a_node_that_does_not_fit_is_refused_with_the_table(
    cluster: Cluster, tmp_path: Path, patch: str, reason: str
) -> None:
    sessions = running_sessions()
    code, _, err = start_node(cluster, tmp_path, patch)

    assert (code, reason in err) == (1, True)
    assert {"the head", "the new node"} <= set(cells(err))
    assert running_sessions() == sessions


def test_a_node_that_fits_badly_joins_with_a_warning(cluster: Cluster, tmp_path: Path) -> None:
    code, out, err = start_node(cluster, tmp_path, OTHER_PICKLER)
    assert code == 0, err
    folder = out.split()[3]
    try:
        assert f"the head has cloudpickle {cloudpickle.__version__} and this node 0.1.0" in err
        result = command("status", "--versions", "--address", cluster.address)
        assert cells(result.stdout)["node 3"][-1] == "0.1.0 ?"
    finally:
        command("stop", "--address", folder)
    eventually(lambda: not session_processes(folder))


def test_the_versions_of_all_nodes_are_a_table_or_json(cluster: Cluster) -> None:
    found = cells(command("status", "--versions", "--address", cluster.address).stdout)
    assert found["node 1"] == [VERSION, PYTHON, protocol(), cloudpickle.__version__]
    assert found["node 2"] == found["node 1"]
    assert found["this command"][:3] == found["node 1"][:3]
    seen = json.loads(command("status", "--json", "--address", cluster.address).stdout)
    assert [each["versions"]["Python"] for each in seen[:2]] == [PYTHON, PYTHON]
