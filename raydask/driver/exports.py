"""Functions and classes on their way to the node, once each, and the modules they will want.

Before a function that names one of the packages that workers share (``Config.preload``), the
node is told which of their modules this process has imported, so that one process imports
them and the job's workers are forked from it.  What is told may be too much or too little:
then workers share what they do not need, or import by themselves what they do.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType

from raydask.ids import FunctionID
from raydask.ids import function_id as hash_code
from raydask.serialization import dumps_code
from raydask.wire.messages import Export, Preload

_BY_VALUE = b"cloudpickle"
"""Is in the pickle of a function that carries its code and what that refers to."""


class Exports:
    """What a process has exported.

    Parameters
    ----------
    send : callable
        Takes a message for the node.
    packages : sequence of str
        Top-level packages that workers share.
    """

    def __init__(self, send: Callable[[object], None], packages: Sequence[str]) -> None:
        self._send = send
        self._packages = frozenset(packages)
        self._mention: re.Pattern[bytes] | None = None
        """Finds a package's name in a pickle; made for the first, which few workers export."""
        self._exported: set[FunctionID] = set()
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def add(self, function: object, name: str) -> FunctionID:
        """See that the node has the function's code; return its identifier."""
        code, nested = dumps_code(function)
        function_id = hash_code(code)
        with self._lock:
            if function_id not in self._exported:
                if self._wants_packages(function, code):
                    self._name_modules()
                self._send(Export(function_id, code, name, nested))
                self._exported.add(function_id)
        return function_id

    def _wants_packages(self, function: object, code: bytes) -> bool:
        if not self._packages:
            return False
        if self._mention is None:
            names = "|".join(map(re.escape, sorted(self._packages))).encode()
            self._mention = re.compile(rb"(?<![\w])(?:" + names + rb")(?![\w])")
        if self._mention.search(code):
            return True
        if _BY_VALUE in code:
            return False
        # Pickled by its name alone, it may use whatever its module has imported.
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        return module is not None and any(map(self._is_of_packages, list(vars(module).values())))

    def _is_of_packages(self, value: object) -> bool:
        attribute = "__name__" if isinstance(value, ModuleType) else "__module__"
        try:
            name = getattr(value, attribute, None)
        except Exception:  # a stranger's object may do anything
            return False
        return isinstance(name, str) and name.partition(".")[0] in self._packages

    def _name_modules(self) -> None:
        modules = [
            name
            for name, module in list(sys.modules.items())
            if name not in self._named and name.partition(".")[0] in self._packages
        ]
        if modules:
            self._named.update(modules)
            self._send(Preload(modules))
