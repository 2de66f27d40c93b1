"""From a Dask node to a program and the operands that are particular to the node.

See `raydask.compat.dask.program` for what a program is and why.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    Set,
    Task,
    TaskRef,
    Tuple,
    _execute_subgraph,
)
from dask.utils import key_split

from raydask.compat.dask import program as programs
from raydask.compat.dask.literals import SHARED_FROM, Constant, Literals
from raydask.compat.dask.program import FIRST_RESULT, Program, Step
from raydask.graph import Output

Call = tuple[Callable[..., Any], tuple[Any, ...], "dict[str, Any] | None"]
"""A function, its positional and its keyword arguments."""

Scope = Callable[[Any], int]
"""Returns the register that holds a key's value."""

_CONTAINERS: dict[type, Callable[..., Any]] = {
    List: programs.as_list,
    Tuple: programs.as_tuple,
    Set: programs.as_set,
    Dict: programs.as_dict,
}


def is_fused(node: GraphNode) -> bool:
    """Say whether the node is several tasks that an optimizer of Dask's made one."""
    return (
        type(node) is Task
        and node.func is _execute_subgraph
        and not node.kwargs
        and len(node.args) >= 3
        and type(node.args[0]) is dict
    )


class Compiler:
    """Compiles the nodes of one graph, and finds out which of them share a program.

    Parameters
    ----------
    literals : Literals
    outputs : mapping of key to Output
        The tasks that make keys' values.
    values : mapping of key to object
        The values of keys that are data.
    """

    def __init__(
        self,
        literals: Literals,
        outputs: Mapping[Any, Output],
        values: Mapping[Any, object],
    ) -> None:
        self._literals = literals
        self._outputs = outputs
        self._values = values
        self._programs: dict[Hashable, tuple[Program, _Assembly]] = {}
        self._fused_uses: dict[Hashable, tuple[int, GraphNode]] = {}
        self._fused: dict[Hashable, tuple[Program, tuple[Any, ...]]] = {}

    def compile(self, key: Any, node: GraphNode) -> Call:
        """Return the call that makes `key`'s value."""
        if is_fused(node):
            arguments = [
                self._outputs.get(argument.key if type(argument) is TaskRef else None)
                for argument in node.args[3:]
            ]
            if None not in arguments:
                return self._compile_fused(key, node, arguments)
        assembly = _Assembly(self._literals)
        assembly.finish(assembly.emit(node, lambda used: self._reference(assembly, used)))
        return assembly.unwrapped() or (self._program(key, assembly), assembly.operands, None)

    def _reference(self, assembly: _Assembly, key: Any) -> int:
        output = self._outputs.get(key)
        if output is not None:
            return assembly.output(output)
        return assembly.literal(self._values[key])

    def _compile_fused(self, key: Any, node: GraphNode, arguments: list[Any]) -> Call:
        """Compile an inner graph that all blocks of a layer may share.

        At its first uses it is compiled like any other.  Then `Literals` knows what the
        blocks share, and the result is the one to keep for those that follow.
        """
        inner, output, inputs = node.args[:3]
        identity = (id(inner), output, inputs)
        known = self._fused.get(identity)
        if known is None:
            assembly = _Assembly(self._literals)
            registers = [assembly.operand(argument) for argument in arguments]
            assembly.finish(assembly.emit_fused(node, registers))
            known = (self._program(key, assembly), assembly.operands[len(arguments) :])
            uses, _ = self._fused_uses.get(identity, (0, node))
            self._fused_uses[identity] = (uses + 1, node)
            if uses + 1 >= SHARED_FROM:
                self._fused[identity] = known
        return known[0], (*arguments, *known[1]), None

    def _program(self, key: Any, assembly: _Assembly) -> Program:
        identity = assembly.identity()
        known = self._programs.get(identity)
        if known is None:
            program = Program(key_split(key), assembly.constants, assembly.finished_steps())
            known = self._programs[identity] = (program, assembly)
        return known[0]


class _Assembly:
    """A program in the making."""

    __slots__ = ("_constants", "_literals", "_operands", "_output_registers", "_steps")

    def __init__(self, literals: Literals) -> None:
        self._literals = literals
        self._operands: list[Any] = []
        self._constants: dict[int, tuple[int, object]] = {}
        self._output_registers: dict[int, int] = {}
        self._steps: list[
            tuple[Callable[..., Any], tuple[int, ...], tuple[tuple[str, int], ...]]
        ] = []

    @property
    def operands(self) -> tuple[Any, ...]:
        """The operands, in the order of their registers."""
        return tuple(self._operands)

    @property
    def constants(self) -> tuple[object, ...]:
        """The constants, in the order of their registers."""
        return tuple(value for _, value in self._constants.values())

    def operand(self, value: object) -> int:
        """Return the register of a new operand."""
        self._operands.append(value)
        return len(self._operands) - 1

    def output(self, output: Output) -> int:
        """Return the register of another task's result."""
        register = self._output_registers.get(output)
        if register is None:
            register = self._output_registers[output] = self.operand(output)
        return register

    def literal(self, value: object) -> int:
        """Return the register of a value that stands in the graph."""
        placed = self._literals.place(value)
        if not isinstance(placed, Constant):
            return self.operand(placed)
        known = self._constants.get(placed.identity)
        if known is None:
            known = (-1 - len(self._constants), placed.value)
            self._constants[placed.identity] = known
        return known[0]

    def step(
        self,
        function: Callable[..., Any],
        arguments: tuple[int, ...],
        keywords: tuple[tuple[str, int], ...] = (),
    ) -> int:
        """Append a call and return its result's register."""
        self._steps.append((function, arguments, keywords))
        return FIRST_RESULT + len(self._steps) - 1

    def emit(self, node: GraphNode, scope: Scope) -> int:
        """Append what makes the node's value and return its register."""
        kind = type(node)
        if kind is Alias:
            return scope(node.target)
        if kind is DataNode:
            return self.literal(node.value)
        if kind is not Task and kind not in _CONTAINERS:
            keys = tuple(node.dependencies)
            node_register = self.operand(node)
            keys_register = self.operand(keys)
            values = tuple(map(scope, keys))
            return self.step(programs.run_node, (node_register, keys_register, *values))
        if is_fused(node):
            return self.emit_fused(node, [self._argument(a, scope) for a in node.args[3:]])
        arguments = tuple(self._argument(argument, scope) for argument in node.args)
        if kind is not Task:
            return self.step(_CONTAINERS[kind], arguments)
        keywords = tuple(
            (name, self._argument(argument, scope)) for name, argument in node.kwargs.items()
        )
        return self.step(self._literals.function(node.func), arguments, keywords)

    def _argument(self, argument: Any, scope: Scope) -> int:
        if type(argument) is TaskRef:
            return scope(argument.key)
        if isinstance(argument, GraphNode):
            return self.emit(argument, scope)
        return self.literal(argument)

    def emit_fused(self, node: Task, inputs: list[int]) -> int:
        """Append the inner graph of a fused task, whose inputs are in these registers."""
        inner, output, input_keys = node.args[:3]
        registers: dict[Any, int] = dict(zip(input_keys, inputs, strict=True))
        stack = [output]
        while stack:
            key = stack[-1]
            if key in registers:
                stack.pop()
                continue
            missing = [used for used in inner[key].dependencies if used not in registers]
            if missing:
                stack.extend(missing)
            else:
                registers[key] = self.emit(inner[key], registers.__getitem__)
                stack.pop()
        return registers[output]

    def finish(self, register: int) -> None:
        """Make the last step's result the one in `register`."""
        if not self._steps or register != FIRST_RESULT + len(self._steps) - 1:
            self.step(programs.same, (register,))

    def unwrapped(self) -> Call | None:
        """Return the program as a plain call of one function, where it is no more."""
        if len(self._steps) != 1 or self._constants:
            return None
        function, arguments, keywords = self._steps[0]
        registers = [*arguments, *(register for _, register in keywords)]
        if registers != list(range(len(self._operands))):
            return None
        names = [name for name, _ in keywords]
        values = self._operands[len(arguments) :]
        return (
            function,
            tuple(self._operands[: len(arguments)]),
            dict(zip(names, values, strict=True)) or None,
        )

    def identity(self) -> Hashable:
        """Return what two assemblies have in common exactly if they make one program."""
        return (
            tuple((id(function), *registers) for function, *registers in self._steps),
            tuple(self._constants),
        )

    def finished_steps(self) -> tuple[Step, ...]:
        """Return the steps, each with the registers that it is the last to read."""
        steps: list[Step] = []
        read_later: set[int] = set()
        for function, arguments, keywords in reversed(self._steps):
            read = {*arguments, *(register for _, register in keywords)}
            steps.append(Step(function, arguments, keywords, tuple(read - read_later)))
            read_later |= read
        return tuple(reversed(steps))
