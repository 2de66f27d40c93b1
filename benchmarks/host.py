"""The child process that plays one contender's driver: ``python -m benchmarks.host``.

A host imports and starts its contender, and runs rounds when told. It talks to the runner in
JSON lines over an inherited socket: standard output belongs to the engines, which print to it.

    runner -> host   {"do": "warm_up" | "measure", "case": …, "quick": …}   {"do": "stop"}
    host -> runner   {"ready": true}   {"values": {…}, "answer": …}   {"error": "traceback"}

A host which serves a case that starts the contender itself (`Case.starts_contender`) does not
start it before.
"""

from __future__ import annotations

import json
import socket
import sys
import traceback
from typing import Any

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.port import Contender


def main(connection_number: int, contender_name: str, cpus: int, start: bool) -> None:
    """Serve a runner until it says stop or goes away."""
    # The socket must not leak into the engines' processes, or nobody would see this one's end.
    connection = socket.socket(fileno=connection_number)
    connection.set_inheritable(False)
    contender = CONTENDERS[contender_name](cpus)
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        try:
            if start:
                contender.prepare()
                contender.start()
            _reply(stream, {"ready": True})
            for line in stream:
                request = json.loads(line)
                if request["do"] == "stop":
                    break
                _reply(stream, _serve(contender, request))
        except Exception:
            _reply(stream, {"error": traceback.format_exc()})
        finally:
            if start:
                contender.stop()


def _serve(contender: Contender, request: dict[str, Any]) -> dict[str, Any]:
    case_class = CASES[request["case"]]
    try:
        if request["do"] == "warm_up":
            case_class(quick=True).measure(contender)
            return {"ready": True}
        outcome = case_class(quick=request["quick"]).measure(contender)
        return {"values": outcome.values, "answer": outcome.answer}
    except Exception:
        return {"error": traceback.format_exc()}


def _reply(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "start")
