"""What the tests of a running session share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raydask
from tests.cluster.probes import Gate


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Run raydask on two CPUs while the module's tests last; its address."""
    with raydask.init(num_cpus=2, object_store_memory=512 << 20) as context:
        yield context["address"]


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Gate]:
    """Make gates by name, at which tasks wait or tell that they have begun."""
    return lambda name="gate": Gate(tmp_path, name)
