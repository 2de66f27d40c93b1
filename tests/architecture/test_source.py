"""The reader that the other architecture tests rely on sees every kind of import."""

from __future__ import annotations

from tests.architecture.source import Import, adapters, engine, parse

SAMPLE = """
import asyncio
from raydask import errors, init
if TYPE_CHECKING:
    from redis import Redis
def late():
    from . import graph
    from ..dask.graph import Graph
    return importlib.import_module("numpy.linalg")
"""


def test_every_kind_of_import_is_seen() -> None:
    seen = parse("compat/dask/probe.py", SAMPLE).imports()

    assert set(seen) >= {
        Import("asyncio", "", 2),
        Import("raydask.errors", "", 3),
        Import("raydask", "init", 3),
        Import("redis", "Redis", 5),
        Import("numpy.linalg", "", 9),
    }
    assert {found.module for found in seen if found.line == 8} == {"raydask.compat.dask.graph"}
    assert all(found.module.startswith("raydask.compat.dask") for found in seen if found.line == 7)


def test_names_are_those_that_files_install_as() -> None:
    assert parse("compat/dask/__init__.py", "").module == "raydask.compat.dask"
    assert parse("raydask/wire/framing.py", "").module == "raydask.wire.framing"


def test_there_is_source_to_read() -> None:
    assert {file.module for file in engine()} >= {"raydask", "raydask.ids", "raydask.task"}
    assert {file.module for file in adapters()} >= {"raydask.compat", "raydask.compat.dask"}
