"""A store of 64 MiB for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.object_store.local_store import LocalStore


@pytest.fixture
def store() -> Iterator[LocalStore]:
    """A store of 64 MiB with slabs of 1 MiB."""
    store = LocalStore(64 << 20, 1 << 20)
    yield store
    store.close()
