"""The native API: what ``import raydask`` offers."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from raydask.driver import launcher
from raydask.driver.actor import ActorClass, ActorHandle, handle_of
from raydask.driver.context import RuntimeContext, runtime_context
from raydask.driver.object_ref import ObjectRef
from raydask.driver.remote_function import RemoteFunction
from raydask.driver.session import Session, current_session, find_session, install_session
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.ids import ActorID, is_put, task_of

_ABSENT: Any = object()
_RESOURCE_DIGITS = 4
"""Amounts of resources are multiples of 1 / `RESOURCE_UNIT`."""


class ClusterContext(dict[str, Any]):
    """What `init` returns: a mapping with ``address``, ``node``, ``job`` and ``session``.

    As a context manager it calls `shutdown` at the end.
    """

    def __enter__(self) -> ClusterContext:
        return self

    def __exit__(self, *exception: object) -> None:
        shutdown()


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    num_redis_shards: int = 1,
    namespace: str = "default",
    log_to_driver: bool = True,
    ignore_reinit_error: bool = False,
) -> ClusterContext:
    """Start raydask on this machine, or join a session that runs.

    Parameters
    ----------
    address : str, optional
        Join the session with this address: its folder, or the HOST:PORT at which `raydask
        start` says that it listens; ``"auto"`` means this user's latest.
        None starts a new session, unless the environment variable ``RAYDASK_ADDRESS`` names
        one.
    num_cpus, num_gpus : float, optional
        How many this machine offers; the CPUs this process may use, and the GPUs that
        ``CUDA_VISIBLE_DEVICES`` names, if not given.
    resources : mapping of str to float, optional
        Custom resources that it offers.
    object_store_memory : int, optional
        Bytes of the object store; a share of the machine's memory if not given.
    num_redis_shards : int
        How many Redis servers hold the control state.
    namespace : str
        In which named actors are found.
    log_to_driver : bool
        Whether what tasks print appears here.
    ignore_reinit_error : bool
        Whether a second call is harmless.

    Raises
    ------
    UsageError
        raydask runs in this process already, or an argument makes no sense.
    StartError
        The session could not be started; the message says what to do.
    ClusterUnavailableError
        There is no session at `address`.
    """
    existing = find_session()
    if existing is not None and existing.lost is None:
        if ignore_reinit_error:
            return _context(existing)
        raise UsageError(
            "raydask runs in this process already; call raydask.shutdown() first, or pass "
            "ignore_reinit_error=True"
        )
    if existing is not None:
        shutdown()
    address = address or os.environ.get("RAYDASK_ADDRESS") or None
    supervised: launcher.Supervised | None = None
    if address is None:
        options = launcher.session_options(
            num_cpus, num_gpus, resources, object_store_memory, num_redis_shards
        )
        supervised = launcher.Supervised(options)
        supervised.start()
        folder = options.folder
    else:
        given = (num_cpus, num_gpus, resources, object_store_memory)
        if any(value is not None for value in given) or num_redis_shards != 1:
            raise UsageError(
                "num_cpus, num_gpus, resources, object_store_memory and num_redis_shards belong "
                f"to the session at {address!r}, which runs already; leave them out to join it"
            )
        folder = launcher.find_address(address)
    try:
        session = _join(folder, namespace, log_to_driver)
    except BaseException:
        if supervised is not None:
            supervised.stop()
        raise
    session.supervised = supervised
    atexit.register(shutdown)
    announce_to_dask()
    _prefer_dask_shuffles_by_tasks(address)
    return _context(session)


def announce_to_dask() -> None:
    """Make ``scheduler="raydask"`` known to Dask, if Dask is loaded already.

    Dask offers no way to name a scheduler before it is loaded, and raydask does not load it.
    """
    if "dask.base" in sys.modules:
        from raydask.compat.dask import register_name

        register_name()


def _prefer_dask_shuffles_by_tasks(address: str | None) -> None:
    from raydask.compat.dask.shuffles import preference

    preference.begin(joined=address is not None)


def _forget_dask_shuffles() -> None:
    from raydask.compat.dask.shuffles import preference

    preference.end()


def _join(folder: str, namespace: str, log_to_driver: bool) -> Session:
    connection, welcome = launcher.connect(folder, namespace=namespace, log_to_driver=log_to_driver)
    try:
        arena = os.open(welcome.arena_path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        connection.close()
        raise ClusterUnavailableError(
            f"the object store at {welcome.arena_path} cannot be opened: {error}; only "
            "processes of the same user on the same machine can join a session"
        ) from error
    try:
        session = Session(connection, welcome, arena, namespace)
        session.start()
    finally:
        os.close(arena)
    install_session(session)
    return session


def _context(session: Session) -> ClusterContext:
    welcome = session.welcome
    return ClusterContext(
        address=welcome.session, node=welcome.node, job=welcome.job, session=welcome.session
    )


def ensure_session(num_cpus: float | None = None) -> Session:
    """Return this process's session, starting one with so many CPUs if there is none.

    Raises
    ------
    ClusterUnavailableError
        It has one, and that is lost: what was meant for a cluster does not run elsewhere.
    """
    session = find_session()
    if session is None:
        init(num_cpus=num_cpus, ignore_reinit_error=True)
        session = current_session()
    session.check_lost()
    return session


def shutdown() -> None:
    """Leave the session; end it if this process started it.  Harmless when there is none."""
    session = find_session()
    if session is None:
        return
    atexit.unregister(shutdown)
    try:
        if session.lost is None:
            session.request("leave", None, bool)
    except (ClusterUnavailableError, OSError):
        pass  # it is gone already, which is what was wanted
    install_session(None)
    _forget_dask_shuffles()
    session.close()
    if session.supervised is not None:
        session.supervised.stop()


def is_initialized() -> bool:
    """Say whether this process has a session."""
    session = find_session()
    return session is not None and session.lost is None


@overload
def remote(function_or_class: Callable[..., Any], /) -> Any: ...


@overload
def remote(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...


def remote(*args: Any, **options: Any) -> Any:
    """Make a function a remote function, or a class an actor class.

    Use it as ``@remote`` or with options, ``@remote(num_cpus=2)``; see
    `RemoteFunction.options` and `ActorClass.options`.

    Raises
    ------
    UsageError
        What is decorated is neither a function nor a class, or an option is unknown.
    """
    if args and (len(args) > 1 or options or not callable(args[0])):
        raise UsageError(
            "use @raydask.remote alone, or with keyword options: @raydask.remote(num_cpus=2)"
        )

    def make(target: Any) -> Any:
        if isinstance(target, type):
            return ActorClass(target, options, ensure_session)
        if not callable(target):
            raise UsageError(f"@raydask.remote is for functions and classes, not {target!r}")
        return RemoteFunction(target, options, ensure_session)

    return make(args[0]) if args else make


def get(
    refs: Any,
    keys: Any = _ABSENT,
    /,
    *,
    timeout: float | None = None,
    copy: bool = False,
    **kwargs: Any,
) -> Any:
    """Return the values of refs; or, with `keys`, compute a Dask graph.

    Parameters
    ----------
    refs : ObjectRef or sequence of ObjectRef
        What to get; or a Dask graph, if `keys` is given.
    keys : optional
        The graph's keys, as Dask passes them to a scheduler.
    timeout : float, optional
        Seconds to wait; None waits for as long as it takes.  Only for refs.
    copy : bool
        Whether to read through memory of this process's own.  Arrays and frames are then plain
        copies: writable, independent of each other and of the object store, which may reuse,
        move or spill the object as if nobody had read it.  Only for refs: what a Dask graph
        gives can be written without.
    **kwargs
        For the Dask scheduler.

    Returns
    -------
    object or list
        The value, or the values in the order of the refs.  Without `copy`, arrays are
        read-only views of the object store, which keep the object there while they exist.

    Raises
    ------
    TaskError
        A task raised; the error is an instance of the exception's own type as well.
    GetTimeoutError
        Not all values came in time.
    UsageError
        This process has no session, or what is given are no refs.
    RaydaskError
        A worker, an actor or an object was lost; the message says what happened.
    """
    if keys is not _ABSENT:
        if copy:
            raise UsageError(
                "copy=True is for get(refs); the results of a Dask graph can be written without it"
            )
        if timeout is not None:
            raise UsageError("timeout is for get(refs); a Dask graph is waited for until its end")
        from raydask.compat.dask import get as get_graph

        return get_graph(refs, keys, **kwargs)
    if kwargs:
        raise UsageError(f"get() has no option {', '.join(sorted(kwargs))}")
    _check_timeout(timeout)
    if isinstance(refs, ObjectRef):
        return current_session().get((refs.live_id(),), timeout, copy=copy)[0]
    ids = [ref.live_id() for ref in _checked_refs(refs, "get")]
    if not ids:
        return []
    return current_session().get(ids, timeout, copy=copy)


def _check_timeout(timeout: Any) -> None:
    if timeout is not None and (not isinstance(timeout, (int, float)) or timeout < 0):
        raise UsageError(f"timeout must be seconds or None, not {timeout!r}")


def _checked_refs(refs: Any, what: str) -> Sequence[ObjectRef]:
    if not isinstance(refs, (list, tuple)):
        raise UsageError(
            f"{what}() takes an ObjectRef or a list of them, not {type(refs).__name__}"
        )
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise UsageError(
                f"{what}() takes ObjectRefs; the list contains {type(ref).__name__}: {ref!r:.80}"
            )
    return refs


def put(value: Any) -> ObjectRef:
    """Put a value into the object store.

    Returns
    -------
    ObjectRef

    Raises
    ------
    UsageError
        The value is a ref already.
    ObjectStoreFullError
        There is no room for it.
    """
    return ensure_session().put(value)


def wait(
    refs: Sequence[ObjectRef],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until some of the refs have values.

    Parameters
    ----------
    refs : list of ObjectRef
        All different.
    num_returns : int
        For how many to wait.
    timeout : float, optional
        Seconds after which to return with fewer.
    fetch_local : bool
        Without effect, as a value counts wherever it is, and `get` brings it; Ray has it.

    Returns
    -------
    ready, not_ready : list of ObjectRef
        In the order of `refs`; at most `num_returns` are ready.  A task that failed is ready.

    Raises
    ------
    UsageError
    """
    _check_timeout(timeout)
    if isinstance(refs, ObjectRef):
        raise UsageError("wait() takes a list of ObjectRefs: wait([ref])")
    checked = list(_checked_refs(refs, "wait"))
    if len(set(checked)) != len(checked):
        raise UsageError("wait() takes refs that all differ")
    if not _is_count(num_returns, len(checked)):
        raise UsageError(f"num_returns must be from 1 to {len(checked)}, not {num_returns!r}")
    del fetch_local
    found = current_session().wait([ref.live_id() for ref in checked], num_returns, timeout)
    ready = [ref for ref in checked if ref._id in found][:num_returns]
    chosen = set(ready)
    return ready, [ref for ref in checked if ref not in chosen]


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and 1 <= value <= most


def cancel(ref: ObjectRef, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that makes the ref's value.

    A task that has not begun never runs; one that runs is interrupted by an exception, or with
    `force` by ending its worker.  ``get`` then raises ``TaskCancelledError``.  A task that has
    finished is not affected.  Of an actor's calls, those that wait are cancelled and coroutines
    that run; a plain method that runs goes on to its end, whatever `force` says: `kill` ends
    the actor.

    Parameters
    ----------
    ref : ObjectRef
    force : bool
    recursive : bool
        Whether the tasks that it has submitted are cancelled too.

    Raises
    ------
    UsageError
        The ref is not a task's return.
    """
    if not isinstance(ref, ObjectRef):
        raise UsageError(f"cancel() takes an ObjectRef, not {type(ref).__name__}")
    if is_put(ref.live_id()):
        raise UsageError("cancel() was given the ref of a put value, which is not a task's return")
    session = current_session()
    if session.actors.cancel(task_of(ref._id)):
        return
    session.request("cancel", ([task_of(ref._id)], force, recursive), bool)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor's process at once; calls on it fail with ``ActorDiedError``.

    Parameters
    ----------
    actor : ActorHandle
    no_restart : bool
        Whether it stays dead although ``max_restarts`` would allow another process.

    Raises
    ------
    UsageError
    """
    if not isinstance(actor, ActorHandle):
        raise UsageError(f"kill() takes an actor's handle, not {type(actor).__name__}")
    current_session().request("kill_actor", (actor._actor_id, no_restart), bool)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """Return a handle to a named actor.

    Raises
    ------
    UsageError
        No actor that lives has this name.
    """
    session = ensure_session()
    namespace = session.namespace if namespace is None else namespace
    found, pickled = session.request("get_actor", (name, namespace), tuple[bytes, bytes])
    if not found:
        raise UsageError(
            f"no actor named {name!r} lives in namespace {namespace!r}; it may have ended with "
            "its last handle: detached actors, options(lifetime='detached'), do not"
        )
    return handle_of(session, ActorID(found), pickled)


def nodes() -> list[dict[str, Any]]:
    """Return the nodes of the cluster.

    Returns
    -------
    list of dict
        With the node's number, whether it is alive, its resources and what of them is
        available, the bytes of its object store and how many are used, the number of tasks
        and objects that it knows, of tasks that are queued for its resources and of those that
        no node can run, of workers and drivers, the bytes of objects that it has sent to others,
        the folder of its session, the versions that it runs and its labels: the attributes of
        `raydask.util.NodeStatus`.  Of other nodes than the one that this process is connected to
        it is what they last reported, once a second.
    """
    return current_session().request("nodes", None, list[dict[str, Any]])


def cluster_resources() -> dict[str, float]:
    """Return the resources of all nodes together; memory is in bytes."""
    return _summed("resources")


def available_resources() -> dict[str, float]:
    """Return what of the resources is free now."""
    return _summed("available")


def _summed(which: str) -> dict[str, float]:
    summed: dict[str, float] = {}
    for node in nodes():
        if node["alive"]:
            for name, amount in node[which].items():
                summed[name] = round(summed.get(name, 0.0) + amount, _RESOURCE_DIGITS)
    return summed


def get_runtime_context() -> RuntimeContext:
    """Return what this process, and the task that runs in this thread, are."""
    return runtime_context(current_session())
