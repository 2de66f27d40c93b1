"""Random programs for simulated processes, and what a whole history consists of."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from raydask.driver.object_ref import ObjectRef
from raydask.errors import (
    ActorDiedError,
    GetTimeoutError,
    InfeasibleError,
    RaydaskError,
    TaskCancelledError,
)
from raydask.ids import function_id
from raydask.task import ActorOptions, TaskKind, TaskTemplate
from raydask.testing.processes import Context
from raydask.testing.programs import (
    Compute,
    Get,
    Given,
    Made,
    Program,
    ProgramFailed,
    Run,
    Wait,
    refs_of,
)

SECONDS = (0.00001, 0.0001, 0.0005, 0.002, 0.02, 0.2)


def template(name: str, **options: Any) -> TaskTemplate:
    resources = options.pop("resources", {"CPU": 10_000})
    made: TaskTemplate = TaskTemplate(
        function_id(name.encode()),
        name,
        resources=resources,
        **options,
    )
    return made


LEAF = template("leaf")
PAIR = template("leaf", num_returns=2)
NOTHING = template("leaf", num_returns=0)
FRAIL = template("leaf", max_retries=0)
HASTY = template("leaf", timeout=0.1)
SEEN = template("leaf", observed=True)
FREE = template("leaf", resources={})
WIDE = template("leaf", resources={"CPU": 20_000})
HUGE = template("leaf", resources={"CPU": 9_990_000})
SHARE = template("leaf", resources={"GPU": 3_000})
WHOLE = template("leaf", resources={"GPU": 10_000})
FAILING = template("failing")
STUBBORN = template("failing", retry_exceptions=b"")
COUNTED = template("leaf", max_calls=2)
ENFORCED = template("leaf", enforced_memory=1 << 29, max_retries=1)
TREE = template("tree")
ACTOR = TaskTemplate(
    function_id(b"actor"), "actor", TaskKind.ACTOR_CREATION, max_retries=0, actor=ActorOptions()
)
RESTARTING = TaskTemplate(
    function_id(b"actor"),
    "actor",
    TaskKind.ACTOR_CREATION,
    resources={"memory": 10},
    max_retries=0,
    actor=ActorOptions(max_restarts=2),
)
BROKEN = TaskTemplate(
    function_id(b"failing"), "failing", TaskKind.ACTOR_CREATION, max_retries=0, actor=ActorOptions()
)
DETACHED = TaskTemplate(
    function_id(b"actor"),
    "actor",
    TaskKind.ACTOR_CREATION,
    max_retries=0,
    actor=ActorOptions(detached=True),
)
SIMPLE = (LEAF, LEAF, LEAF, LEAF, PAIR, NOTHING, FRAIL, SEEN, FREE, WIDE, FAILING, STUBBORN)
ODD = (HASTY, HUGE, SHARE, WHOLE)
ACTORS = (ACTOR, RESTARTING, BROKEN)


def made_of(rng: random.Random, refs: Sequence[ObjectRef]) -> Made:
    """A value that contains some of the refs."""
    count = rng.choice((0, 0, 0, 1, 2))
    stored = rng.random() < 0.3
    return Made(rng.sample(list(refs), min(count, len(refs))), stored, rng.choice((1, 50_000)))


def leaf(context: Context, given: Given) -> Run:
    """Compute, now and then wait for a ref that was lent, return what may contain it."""
    rng = given.rng
    yield Compute(rng.choice(SECONDS))
    refs = [*given.refs, *(ref for received in given.inputs for ref in received.refs)]
    if refs and rng.random() < 0.3:
        try:
            yield Get([rng.choice(refs)], rng.choice((None, None, 0.01)))
        except (RaydaskError, GetTimeoutError) as error:
            refs += refs_of(error)
        yield Compute(0.0001)
    if rng.random() < 0.2:
        refs.append(context.put(made_of(rng, refs)))
    return [made_of(rng, refs), made_of(rng, refs)]


def failing(context: Context, given: Given) -> Run:
    """Fail, at the first attempts at least."""
    yield Compute(given.rng.choice(SECONDS))
    if given.attempt < 2 or given.rng.random() < 0.5:
        carried = [*given.refs, context.put(made_of(given.rng, given.refs))]
        raise ProgramFailed(retryable=True, refs=carried)
    return [Made()]


def tree(context: Context, given: Given) -> Run:
    """Submit children, wait for them or return their refs."""
    rng = given.rng
    context.put(Made())
    refs = list(given.refs)
    for _ in range(rng.randint(1, 3)):
        deeper = rng.random() < 0.35
        kind = TREE if deeper else rng.choice(SIMPLE)
        inputs = rng.sample(refs, min(len(refs), rng.choice((0, 0, 1))))
        refs += context.submit(kind, inputs, [], rng.getrandbits(60))
    if refs and rng.random() < 0.7:
        try:
            yield Get(refs)
        except RaydaskError:
            pass
    else:
        yield Compute(rng.choice(SECONDS))
    return [Made(refs[:2])]


def actor(context: Context, given: Given) -> Run:
    """Be made, and keep some refs."""
    yield Compute(given.rng.choice(SECONDS))
    return [Made(given.refs)]


PROGRAMS: dict[str, Program] = {"leaf": leaf, "failing": failing, "tree": tree, "actor": actor}


class Story:
    """A driver's random program of so many steps.

    Parameters
    ----------
    steps : int
    templates : sequence of TaskTemplate
        What it submits.
    cancels : bool
    """

    def __init__(
        self, steps: int, templates: Sequence[TaskTemplate], *, cancels: bool = True
    ) -> None:
        self._steps = steps
        self._templates = templates
        self._cancels = cancels
        self.unexpected: list[BaseException] = []

    def __call__(self, context: Context, given: Given) -> Run:
        rng = given.rng
        refs: list[ObjectRef] = []
        actors: list[ObjectRef] = []
        for _ in range(self._steps):
            choice = rng.random()
            if choice < 0.55:
                kind = rng.choice(self._templates)
                some = [*refs, *actors]
                inputs = rng.sample(refs, min(len(refs), rng.choice((0, 0, 0, 1, 2))))
                lent = rng.sample(some, min(len(some), rng.choice((0, 0, 1))))
                new = context.submit(kind, inputs, lent, rng.getrandbits(60))
                (actors if kind.kind == TaskKind.ACTOR_CREATION else refs).extend(new)
            elif choice < 0.62:
                refs.append(context.put(made_of(rng, refs)))
            elif choice < 0.72 and refs:
                del refs[rng.randrange(len(refs)) :]
            elif choice < 0.85 and refs:
                chosen = rng.sample(refs, rng.randint(1, min(5, len(refs))))
                try:
                    for received in (yield Get(chosen, rng.choice((None, None, 0.001)))):
                        refs += received.refs
                except (RaydaskError, GetTimeoutError) as error:
                    refs += refs_of(error)
                received = chosen = None  # type: ignore[assignment]
            elif choice < 0.89 and refs:
                chosen = rng.sample(refs, rng.randint(1, min(5, len(refs))))
                yield Wait(chosen, 1, rng.choice((None, 0.001)))
                chosen = []
            elif choice < 0.93 and refs and self._cancels:
                context.cancel(
                    rng.choice(refs), force=rng.random() < 0.4, recursive=rng.random() < 0.6
                )
            elif choice < 0.95 and actors:
                context.kill_actor(rng.choice(actors), no_restart=rng.random() < 0.5)
            elif choice < 0.97 and actors:
                actors.pop(rng.randrange(len(actors)))
            else:
                yield Compute(rng.choice(SECONDS))
        try:
            yield Get(refs)
        except (RaydaskError, TaskCancelledError, InfeasibleError, ActorDiedError):
            pass
        return []
