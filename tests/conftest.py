"""What holds for every test: a temporary folder of the run's own, and nothing left behind.

- A warning or worse from the logger ``raydask`` fails the test, unless the test declares
  ``@pytest.mark.expect_log("regex")``; with ``required=False`` it need not come.
- Whatever a module under ``tests/cluster`` or ``tests/compat`` started is gone ten seconds
  after its last test: processes, session folders, shared memory, file descriptors.
- Session- and package-scoped fixtures may keep what they made until the session ends.
"""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.leaks import LeakLedger, LogAudit, PrivateFolder

AUDITED = ("cluster", "compat")

FOLDER = pytest.StashKey[PrivateFolder]()
LEDGER = pytest.StashKey[LeakLedger]()
LOGS = pytest.StashKey[LogAudit]()


class LongLivedFixtures:
    """Lets what session- and package-scoped fixtures make stay until the session ends.

    A plugin of its own: the hooks of a conftest file are not called for fixtures whose
    scope is above its folder.
    """

    def __init__(self, ledger: LeakLedger) -> None:
        self._ledger = ledger

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Adopt what appears while such a fixture is set up."""
        # Fixtures without a baseid belong to plugins and start nothing of ours.
        if fixturedef.scope in {"session", "package"} and fixturedef.baseid:
            with self._ledger.adopting():
                return (yield)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell has started this in the background; what tests start has to hear it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = PrivateFolder()
    folder.open()
    logs = LogAudit()
    config.stash[FOLDER] = folder
    config.stash[LEDGER] = LeakLedger(folder.path)
    config.pluginmanager.register(LongLivedFixtures(config.stash[LEDGER]))
    config.stash[LOGS] = logs
    logging.getLogger("raydask").addHandler(logs)


def pytest_unconfigure(config: pytest.Config) -> None:
    logging.getLogger("raydask").removeHandler(config.stash[LOGS])
    config.stash[LEDGER].end_leftover_processes()
    config.stash[FOLDER].close()


@pytest.fixture(scope="session", autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail at the end of the session if anything that it started is still there."""
    ledger = request.config.stash[LEDGER]
    before = ledger.snapshot()
    yield
    _report(ledger.last_leftovers(before))


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_of_the_module(
    request: pytest.FixtureRequest, nothing_stays: None
) -> Iterator[None]:
    """Fail a module of cluster or compat tests that leaves something behind."""
    if request.path.relative_to(Path(__file__).parent).parts[0] not in AUDITED:
        yield
        return
    ledger = request.config.stash[LEDGER]
    before = ledger.snapshot()
    yield
    _report(ledger.leftovers(before) + request.config.stash[LOGS].settle())


@pytest.fixture(autouse=True)
def no_unexpected_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which raydask warns of something that the test does not expect."""
    yield
    expected = [
        (mark.args[0], mark.kwargs.get("required", True))
        for mark in request.node.iter_markers("expect_log")
    ]
    _report(request.config.stash[LOGS].settle(expected))


def _report(wrong: list[str]) -> None:
    if wrong:
        pytest.fail("\n".join(["left behind:", *wrong]), pytrace=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets, whose paths must be short: pytest's folders are not."""
    made = Path(tempfile.mkdtemp(prefix="gs"))
    yield made
    shutil.rmtree(made)
