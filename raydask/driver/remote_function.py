"""Remote functions: what ``@raydask.remote`` makes of a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from raydask.driver.options import TASK_OPTIONS, check_names, task_template
from raydask.driver.session import Session
from raydask.errors import UsageError
from raydask.ids import FunctionID


class RemoteFunction:
    """A function whose calls run as tasks in the cluster.

    Call it with ``f.remote(...)``; change options for some calls with
    ``f.options(...).remote(...)``.
    """

    def __init__(
        self, function: Callable[..., Any], options: dict[str, Any], find: Callable[[], Session]
    ) -> None:
        check_names(options, TASK_OPTIONS, "a remote function")
        if options:
            task_template(FunctionID(b""), "", options)  # a wrong value fails here
        self._function = function
        self._options = options
        self._find = find
        self._session: Session | None = None
        self._template = -1
        self._num_returns = 1
        self._exported: tuple[Session, FunctionID] | None = None
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UsageError(
            f"{self._name} is a remote function: call {self._name}.remote(...), which returns "
            "an ObjectRef"
        )

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call.

        Returns
        -------
        ObjectRef or list of ObjectRef or None
            One ref; a list where ``num_returns`` is above 1; None where it is 0.
        """
        session = self._session
        if session is None or session.lost is not None:
            session = self._bind()
        refs = session.submit(self._template, self._num_returns, args, kwargs)
        return refs[0] if self._num_returns == 1 else (refs or None)

    def options(self, **options: Any) -> RemoteFunction:
        """Return this function with some options changed.

        Parameters
        ----------
        num_cpus, num_gpus : float
        memory : float
            Bytes to reserve.
        enforce_memory : bool
            End the task with `OutOfMemoryError` when its worker's private memory has grown by
            more than `memory` since it began.  It is not tried again unless `max_retries` is
            given too.
        resources : dict of str to float
        num_returns : int
        max_retries : int
            How often it is run again when its worker dies; -1 means always.
        max_calls : int
            Replace a worker that has run this function so often, for functions that leak memory
            or hold a GPU's; 0 means never.
        retry_exceptions : bool or list of exception types
        name : str
            For people.
        priority : int
            Higher goes first.
        timeout : float
            Seconds that it may run.
        scheduling_strategy : str or strategy
            Where it runs: ``"DEFAULT"``, ``"SPREAD"`` (on all nodes in turn), or one of
            `raydask.util.scheduling_strategies`.

        Raises
        ------
        UsageError
            An option is unknown or makes no sense.
        """
        changed = RemoteFunction(self._function, {**self._options, **options}, self._find)
        changed._exported = self._exported
        return changed

    def _bind(self) -> Session:
        session = self._find()
        if self._exported is None or self._exported[0] is not session:
            self._exported = (session, session.exports.add(self._function, self._name))
        template = task_template(self._exported[1], self._name, self._options)
        self._template = session.register_template(template)
        self._num_returns = template.num_returns
        self._session = session
        return session

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._function, self._options))


def _rebuild(function: Callable[..., Any], options: dict[str, Any]) -> RemoteFunction:
    from raydask.driver.api import ensure_session

    return RemoteFunction(function, options, ensure_session)
