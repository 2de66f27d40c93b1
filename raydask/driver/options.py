"""Options of remote functions and actors: checked once, turned into templates."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from raydask.driver.amounts import CPU, GPU, MEMORY, amount, custom_amounts, named_amounts
from raydask.errors import UsageError
from raydask.ids import FunctionID
from raydask.pickling import code_dumps
from raydask.placement import Strategy
from raydask.task import RESOURCE_UNIT, ActorOptions, TaskKind, TaskTemplate

_REMEDIES = dict.fromkeys((CPU, GPU, MEMORY), "num_cpus, num_gpus or memory")

_COMMON = (
    "num_cpus",
    "num_gpus",
    "memory",
    "enforce_memory",
    "resources",
    "name",
    "priority",
    "scheduling_strategy",
)
TASK_OPTIONS = frozenset(
    (*_COMMON, "num_returns", "max_retries", "max_calls", "retry_exceptions", "timeout")
)
ACTOR_OPTIONS = frozenset(
    (
        *_COMMON,
        "namespace",
        "max_concurrency",
        "max_restarts",
        "max_task_retries",
        "lifetime",
        "get_if_exists",
    )
)
METHOD_OPTIONS = frozenset(("num_returns", "max_task_retries", "retry_exceptions", "name"))


def check_names(options: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    """Refuse options that do not exist.

    Raises
    ------
    UsageError
    """
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(
            f"unknown option{'s' * (len(unknown) > 1)} {', '.join(unknown)} for {what}; "
            f"there are {', '.join(sorted(known))}"
        )


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    return amount(name, value)


def _count(options: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def resources_of(options: Mapping[str, Any], default_cpus: float) -> dict[str, int]:
    """Return what the options ask for, in steps of 1 / ``RESOURCE_UNIT``."""
    wanted = {
        CPU: _number(options, "num_cpus", default_cpus),
        GPU: _number(options, "num_gpus", 0),
        MEMORY: _number(options, "memory", 0),
        **custom_amounts(options.get("resources"), _REMEDIES),
    }
    return _in_steps(wanted)


def _in_steps(wanted: Mapping[str, float]) -> dict[str, int]:
    return {name: round(each * RESOURCE_UNIT) for name, each in wanted.items() if each}


def bundle_of(amounts: Any) -> dict[str, int]:
    """Return what a placement group's bundle reserves, in steps of 1 / ``RESOURCE_UNIT``.

    Raises
    ------
    UsageError
        It is no mapping of names to amounts, or reserves nothing.
    """
    bundle = _in_steps(named_amounts(amounts, "a bundle is"))
    if not bundle:
        raise UsageError(f"a bundle reserves something, unlike {amounts!r}")
    return bundle


def _placed(
    options: Mapping[str, Any], resources: dict[str, int]
) -> tuple[dict[str, int], Strategy | None]:
    """Return what is asked for of whatever node the strategy allows, and the strategy."""
    value = options.get("scheduling_strategy")
    if value is None or value == "DEFAULT":
        return resources, None
    if value == "SPREAD":
        return resources, Strategy("SPREAD")
    from raydask.driver.strategies import SchedulingStrategy  # for programs that use one

    if not isinstance(value, SchedulingStrategy):
        raise UsageError(
            'scheduling_strategy is "DEFAULT", "SPREAD" or one of '
            f"raydask.util.scheduling_strategies, not {value!r}"
        )
    return value.applied_to(resources)


def _enforced_memory(options: Mapping[str, Any]) -> int:
    """Return the bytes that are enforced, 0 for none."""
    enforce = options.get("enforce_memory")
    if enforce not in (None, True, False):
        raise UsageError(f"enforce_memory must be True or False, not {enforce!r}")
    if not enforce:
        return 0
    limit = int(_number(options, MEMORY, 0))
    if not limit:
        raise UsageError("enforce_memory needs to know how much: options(memory=BYTES)")
    return limit


def _retry_exceptions(options: Mapping[str, Any]) -> bytes | None:
    value = options.get("retry_exceptions")
    if not value:
        return None
    if value is True:
        return b""
    kinds = tuple(value) if isinstance(value, Sequence) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise UsageError("retry_exceptions must be True, False or a list of exception types")
    try:
        return code_dumps(kinds)
    except Exception as error:
        raise UsageError(f"retry_exceptions cannot be pickled: {error}") from error


def task_template(
    function_id: FunctionID, name: str, options: Mapping[str, Any], **fixed: Any
) -> TaskTemplate:
    """Return the template of a remote function with these options.

    Raises
    ------
    UsageError
        An option's value makes no sense.
    """
    timeout = options.get("timeout")
    given = options.get("name") or ""
    if not isinstance(given, str):
        raise UsageError(f"name must be a string, not {given!r}")
    enforced = _enforced_memory(options)
    resources, strategy = _placed(options, resources_of(options, 1))
    return TaskTemplate(
        function_id,
        given or name,
        TaskKind.NORMAL,
        num_returns=_count(options, "num_returns", 1, 0),
        resources=resources,
        # What has taken too much once mostly does so again.
        max_retries=_count(options, "max_retries", 0 if enforced else 3, -1),
        retry_exceptions=_retry_exceptions(options),
        timeout=None if timeout is None else _number(options, "timeout", 0),
        priority=_count(options, "priority", 0, -1_000_000),
        max_calls=_count(options, "max_calls", 0, 0),
        enforced_memory=enforced,
        strategy=strategy,
        **fixed,
    )


def actor_template(
    function_id: FunctionID,
    class_name: str,
    options: Mapping[str, Any],
    namespace: str,
    is_async: bool,
) -> TaskTemplate:
    """Return the template of the task that creates an actor with these options.

    Raises
    ------
    UsageError
        An option's value makes no sense.
    """
    lifetime = options.get("lifetime")
    if lifetime not in (None, "detached", "non_detached"):
        raise UsageError(f'lifetime must be "detached" or None, not {lifetime!r}')
    name = options.get("name") or ""
    if not isinstance(name, str):
        raise UsageError(f"an actor's name must be a string, not {name!r}")
    if options.get("get_if_exists") and not name:
        raise UsageError("get_if_exists needs a name to look for: options(name=…)")
    resources, strategy = _placed(options, resources_of(options, 0))
    return TaskTemplate(
        function_id,
        class_name,
        TaskKind.ACTOR_CREATION,
        resources=resources,
        max_retries=0,
        priority=_count(options, "priority", 0, -1_000_000),
        actor=ActorOptions(
            name=name,
            namespace=str(options.get("namespace") or namespace),
            max_concurrency=_count(options, "max_concurrency", 1000 if is_async else 1, 1),
            max_restarts=_count(options, "max_restarts", 0, -1),
            max_task_retries=_count(options, "max_task_retries", 0, -1),
            detached=lifetime == "detached",
            is_async=is_async,
            get_if_exists=bool(options.get("get_if_exists")),
        ),
        enforced_memory=_enforced_memory(options),
        strategy=strategy,
    )


def method_template(
    class_name: str, method: str, num_returns: int, options: Mapping[str, Any]
) -> TaskTemplate:
    """Return the template of calls of an actor's method.

    Raises
    ------
    UsageError
        An option's value makes no sense.
    """
    _count(options, "max_task_retries", 0, -1)  # for the caller: the template has no place for it
    name = options.get("name") or f"{class_name}.{method}"
    if not isinstance(name, str):
        raise UsageError(f"name must be a string, not {name!r}")
    return TaskTemplate(
        FunctionID(b""),
        name,
        TaskKind.ACTOR_METHOD,
        num_returns=_count(options, "num_returns", num_returns, 0),
        retry_exceptions=_retry_exceptions(options),
    )


def describe_exceptions(pickled: bytes) -> tuple[type[BaseException], ...]:
    """Return the exception types that a template's ``retry_exceptions`` names."""
    kinds: tuple[type[BaseException], ...] = pickle.loads(pickled)
    return kinds
