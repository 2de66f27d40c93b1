"""What tasks print and log reaches their driver, prefixed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import raydask
from tests.cluster.probes import run_driver

PRINTING = """
import logging, os, sys, time
import raydask

raydask.init(num_cpus=1, log_to_driver={log})

@raydask.remote
def speak():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").warning("a warning")
    os.write(1, b"raw bytes \\xff\\n")
    os.system("echo from a child")
    print("no newline", end="")
    print()
    return "spoken"

@raydask.remote
class Actor:
    def speak(self):
        print("an actor's words")
        return "spoken"

def say(text):
    # One write, where print() makes two of an unbuffered stream: a line of a task may come
    # in between.
    sys.stdout.write(text + "\\n")

say(raydask.get(speak.remote()))
actor = Actor.remote()
say(raydask.get(actor.speak.remote()))
raydask.shutdown()
say("end")
"""


def test_lines_reach_the_driver_prefixed_with_task_and_process() -> None:
    code, out, err = run_driver(PRINTING.format(log=True))
    assert code == 0, err
    lines = out.splitlines()
    for text in ("to stdout", "raw bytes \N{REPLACEMENT CHARACTER}", "from a child", "no newline"):
        (line,) = [line for line in lines if line.endswith(text)]
        assert re.fullmatch(r"\(speak pid=\d+\) .*", line), line
    (line,) = [line for line in lines if line.endswith("an actor's words")]
    assert re.fullmatch(r"\(Actor(\.speak)? pid=\d+\) .*", line), line
    assert lines[-1] == "end" and lines.count("spoken") == 2
    assert re.search(r"^\(speak pid=\d+\) to stderr$", err, re.MULTILINE)
    assert re.search(r"^\(speak pid=\d+\) .*a warning$", err, re.MULTILINE)


def test_nothing_comes_when_it_is_switched_off() -> None:
    assert run_driver(PRINTING.format(log=False)) == (0, "spoken\nspoken\nend\n", "")


def test_lines_that_are_printed_while_the_driver_computes_appear() -> None:
    code, out, _ = run_driver(
        """
        import io, sys, time
        import raydask

        raydask.init(num_cpus=1)
        real, sys.stdout = sys.stdout, io.StringIO()
        ref = raydask.remote(lambda: print("early")).remote()
        deadline = time.monotonic() + 5
        while "early" not in sys.stdout.getvalue() and time.monotonic() < deadline:
            pass
        real.write(sys.stdout.getvalue())
        """
    )
    assert code == 0 and out.endswith("early\n")


def test_many_lines_arrive_whole_and_in_order() -> None:
    code, out, err = run_driver(
        """
        import raydask

        raydask.init(num_cpus=1)

        @raydask.remote
        def many():
            for i in range(5000):
                print(i, "x" * 100)

        raydask.get(many.remote())
        raydask.shutdown()
        """
    )
    assert code == 0, err
    numbers = [int(line.split()[2]) for line in out.splitlines()]
    assert numbers == list(range(5000))


def test_the_session_has_a_log_for_each_process() -> None:
    with raydask.init(num_cpus=1) as context:
        raydask.get(raydask.remote(lambda: 1).remote())
        logs = {path.name for path in (Path(context["address"]) / "logs").iterdir()}
    assert {"node.log", "global-scheduler.log", "supervisor.log", "workers.log"} <= logs


@pytest.mark.parametrize("text", ["", " ", "ü €", "\ttab", "a\rb"])
def test_odd_lines_do_no_harm(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with raydask.init(num_cpus=1):
        raydask.get(raydask.remote(print).remote(text))
    assert "pid=" in capfd.readouterr().out


STOPPED = """
import os, signal, sys
import raydask

raydask.init(num_cpus=1)

@raydask.remote
def speak(driver):
    os.kill(driver, signal.SIGSTOP)
    try:
        for number in range(40_000):
            sys.stdout.write(f"{number:>999}\\n")
        sys.stdout.flush()
    finally:
        os.kill(driver, signal.SIGCONT)

raydask.get(speak.remote(os.getpid()))
raydask.shutdown()
"""


def test_a_driver_that_was_stopped_is_told_how_many_lines_it_is_not_shown() -> None:
    code, out, err = run_driver(STOPPED)
    assert code == 0, err
    found = re.search(r"^raydask: (\d+) lines that workers have printed are not shown", err, re.M)
    assert found, err
    assert len(out.splitlines()) + int(found[1]) == 40_000
    assert len(out) > 16 << 20
