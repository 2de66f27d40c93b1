"""The logs of a session's own processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, os, sys
from pathlib import Path
from raydask.node.logs import log_to

log_to(Path(sys.argv[1]), "first", 2000)
log = logging.getLogger("raydask.somewhere")
for number in range(100):
    log.info("line %d", number)
os.write(2, b"a crash\\n")
if not os.fork():
    log_to(Path(sys.argv[1]), "second", 2000)
    log.info("of the child")
    os._exit(0)
os.wait()
if not os.fork():
    log_to(Path(sys.argv[1]), "third", 2000)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    for number in range(100):
        log.info("elsewhere %d", number)
    assert b"elsewhere 99" in os.read(reader, 1 << 16)
    os._exit(0)
assert os.wait()[1] == 0
log.info("the end")
"""


def test_each_process_has_a_log_of_its_own_that_is_rotated(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, timeout=30)
    logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}

    assert sorted(logs) == ["first.log", "first.log.1", "second.log", "third.log"]
    assert all(len(text) < 2200 for text in logs.values())
    assert logs["first.log"].endswith("the end\n")
    assert "a crash" in logs["first.log"] + logs["first.log.1"]
    assert "line 99" in logs["first.log"] + logs["first.log.1"]
    assert "of the child" in logs["second.log"]
    assert not any("elsewhere" in text for text in logs.values())
    assert (folder / "logs").stat().st_mode & 0o777 == 0o700
