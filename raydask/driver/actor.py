"""Actors as their users see them: classes, handles, methods.

An actor lives as long as somebody holds a handle to it, in any process, unless it is
detached.  A handle holds the *creation object* of its actor, so the counting of refs counts
handles too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydask.driver.object_ref import ObjectRef
from raydask.driver.options import (
    ACTOR_OPTIONS,
    METHOD_OPTIONS,
    actor_template,
    check_names,
    method_template,
)
from raydask.driver.session import Session, current_session
from raydask.errors import UsageError
from raydask.ids import ActorID, actor_of
from raydask.serialization import serialize

_OPTIONS_ATTRIBUTE = "__raydask_method_options__"


def method(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a method of an actor class options of its own.

    Parameters
    ----------
    num_returns : int
        How many refs a call returns.
    max_task_retries : int
    retry_exceptions : bool or list of exception types
    name : str
        What calls are called in errors and listings, instead of ``Class.method``.

    Raises
    ------
    UsageError
        An option is unknown, or its value makes no sense.
    """
    check_names(options, METHOD_OPTIONS, "a method")
    method_template("", "", 1, options)  # a wrong value fails here

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, _OPTIONS_ATTRIBUTE, options)
        return function

    return mark


class ActorShape:
    """What a handle knows of its actor's class: its methods and their options."""

    __slots__ = ("_numbers", "_session", "class_name", "max_task_retries", "methods")

    def __init__(
        self, class_name: str, methods: dict[str, dict[str, Any]], max_task_retries: int
    ) -> None:
        self.class_name = class_name
        self.methods = methods
        self.max_task_retries = max_task_retries
        self._session: Session | None = None
        self._numbers: dict[str, tuple[int, int]] = {}

    def template(self, session: Session, name: str) -> tuple[int, int]:
        """Return the number of the method's template, and how many returns it has."""
        if self._session is not session:
            self._session = session
            self._numbers = {}
        entry = self._numbers.get(name)
        if entry is None:
            entry = self.changed_template(session, name, {})
            self._numbers[name] = entry
        return entry

    def changed_template(
        self, session: Session, name: str, options: dict[str, Any]
    ) -> tuple[int, int]:
        """Return the same for a method with some options changed."""
        template = method_template(self.class_name, name, 1, {**self.methods[name], **options})
        return session.actors.register_template(template), template.num_returns

    def __reduce__(self) -> tuple[Any, ...]:
        return (ActorShape, (self.class_name, self.methods, self.max_task_retries))


class ActorMethod:
    """A method of one actor; call it with ``.remote(...)``."""

    __slots__ = ("_handle", "_name", "_options")

    def __init__(self, handle: ActorHandle, name: str, options: dict[str, Any] | None) -> None:
        self._handle = handle
        self._name = name
        self._options = options

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method in the actor's process.

        Returns
        -------
        ObjectRef or list of ObjectRef or None
            One ref; a list where ``num_returns`` is above 1; None where it is 0.
        """
        handle = self._handle
        session = current_session()
        shape = handle._shape
        retries = shape.max_task_retries
        if self._options is None:
            template, count = shape.template(session, self._name)
        else:
            template, count = shape.changed_template(session, self._name, self._options)
        own = shape.methods[self._name]
        if own or self._options:
            merged = {**own, **(self._options or {})}
            retries = merged.get("max_task_retries", retries)
        refs = session.actors.call(
            handle._actor_id, template, count, retries, args, kwargs, handle._ref
        )
        return refs[0] if count == 1 else (refs or None)

    def options(self, **options: Any) -> ActorMethod:
        """Return this method with some options changed; see `method`."""
        check_names(options, METHOD_OPTIONS, "a method")
        method_template("", "", 1, options)  # a wrong value fails here
        return ActorMethod(self._handle, self._name, {**(self._options or {}), **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UsageError(
            f"{self._name} runs in the actor's process: call .{self._name}.remote(...), which "
            "returns an ObjectRef"
        )


class ActorHandle:
    """Refers to an actor; pass it to tasks and other actors like any value."""

    __slots__ = ("_actor_id", "_ref", "_shape")

    def __init__(self, actor_id: ActorID, ref: ObjectRef, shape: ActorShape) -> None:
        self._actor_id = actor_id
        self._ref = ref
        self._shape = shape

    def __getattr__(self, name: str) -> ActorMethod:
        if name not in self._shape.methods:
            raise AttributeError(f"actor class {self._shape.class_name} has no method {name!r}")
        return ActorMethod(self, name, None)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._shape.methods]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __repr__(self) -> str:
        return f"ActorHandle({self._shape.class_name}, {self._actor_id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (ActorHandle, (self._actor_id, self._ref, self._shape))


class ActorClass:
    """A class whose instances live in processes of their own."""

    def __init__(self, cls: type, options: dict[str, Any], find: Callable[[], Session]) -> None:
        check_names(options, ACTOR_OPTIONS, "an actor")
        if options:
            actor_template(_NO_FUNCTION, "", options, "", False)  # a wrong value fails here
        self._cls = cls
        self._options = options
        self._find = find
        self._bound: tuple[Session, int, ActorShape] | None = None
        self.__doc__ = cls.__doc__
        self.__name__ = cls.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UsageError(
            f"{self._cls.__name__} is an actor class: create one with "
            f"{self._cls.__name__}.remote(...)"
        )

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor.

        Returns
        -------
        ActorHandle
            At once; an error in ``__init__`` is raised by the first call's ``get``.

        Raises
        ------
        UsageError
            An actor of this name exists already and ``get_if_exists`` was not asked for.
        """
        session, template, shape = self._bind()
        task_id = session.ids.next_task_id()
        actor_id = actor_of(task_id)
        name = self._options.get("name")
        if name:
            existing = self._claim(session, name, actor_id, shape)
            if existing is not None:
                return existing
        (ref,) = session.submit(template, 1, args, kwargs, task_id)
        return ActorHandle(actor_id, ref, shape)

    def options(self, **options: Any) -> ActorClass:
        """Return this class with some options changed.

        Parameters
        ----------
        num_cpus, num_gpus, memory, resources
            What it occupies as long as it lives; an actor takes no CPU unless asked to.
        enforce_memory : bool
            End its process when the private memory of that has grown by more than `memory`
            since it was made; the actor is restarted or dead then, as after a crash.
        name, namespace : str
            For `get_actor`.
        get_if_exists : bool
            Return the actor of this name if there is one.
        max_concurrency : int
            How many calls run at once, in threads or as coroutines.
        max_restarts, max_task_retries : int
            How often its process is restarted and a call repeated; -1 means always.
        lifetime : str
            ``"detached"``: it outlives this driver.
        scheduling_strategy : str or strategy
            As for remote functions.
        """
        return ActorClass(self._cls, {**self._options, **options}, self._find)

    def _bind(self) -> tuple[Session, int, ActorShape]:
        if self._bound is not None and self._bound[0].lost is None:
            return self._bound
        session = self._find()
        name = self._cls.__qualname__
        methods, is_async = _methods_of(self._cls)
        template = actor_template(
            session.exports.add(self._cls, name), name, self._options, session.namespace, is_async
        )
        assert template.actor is not None
        shape = ActorShape(name, methods, template.actor.max_task_retries)
        self._bound = (session, session.register_template(template), shape)
        return self._bound

    def _claim(
        self, session: Session, name: str, actor_id: ActorID, shape: ActorShape
    ) -> ActorHandle | None:
        namespace = str(self._options.get("namespace") or session.namespace)
        handle = serialize(shape).to_bytes()
        found, pickled = session.request(
            "claim_name", (name, namespace, actor_id, handle), tuple[bytes, bytes]
        )
        if not found:
            return None
        if not self._options.get("get_if_exists"):
            raise UsageError(
                f"an actor named {name!r} exists already in namespace {namespace!r}; get it "
                "with raydask.get_actor, or create with options(get_if_exists=True)"
            )
        return handle_of(session, ActorID(found), pickled)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._cls, self._options))


_NO_FUNCTION: Any = b""


def handle_of(session: Session, actor_id: ActorID, pickled_shape: bytes) -> ActorHandle:
    """Return a handle to an actor that was found by name."""
    from raydask.driver.object_ref import received_ref
    from raydask.ids import creation_object
    from raydask.serialization import deserialize

    ref = received_ref(creation_object(actor_id), session.references)
    return ActorHandle(actor_id, ref, deserialize(pickled_shape))


def _methods_of(cls: type) -> tuple[dict[str, dict[str, Any]], bool]:
    import inspect  # a quarter of the time that importing raydask would take

    methods: dict[str, dict[str, Any]] = {}
    is_async = False
    for name, member in inspect.getmembers(cls):
        if name.startswith("__") and name != "__call__":
            continue
        if not callable(member) or isinstance(member, type):
            continue
        methods[name] = dict(getattr(member, _OPTIONS_ATTRIBUTE, {}))
        is_async = is_async or inspect.iscoroutinefunction(member)
    return methods, is_async


def _rebuild(cls: type, options: dict[str, Any]) -> ActorClass:
    from raydask.driver.api import ensure_session

    return ActorClass(cls, options, ensure_session)
