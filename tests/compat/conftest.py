"""What the tests of the adapters share: a session of raydask for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import raydask


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run raydask on two CPUs while the module's tests last."""
    with raydask.init(num_cpus=2, resources={"license": 1}):
        yield
