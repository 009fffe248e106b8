"""A net as the page computes it: a list of nodes, read off the model's own program.

The program is traced with its layers tagged. A layer becomes what `kinds` says of it; what the model does between its
layers is read equation by equation. Whatever is not known is refused by name: a page never computes something else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from cnnjax.app.look.kinds import Shape, Step, Unknown, steps_of
from cnnjax.errors import UserError
from cnnjax.inspect.trace import for_evaluation, tag_p, trace


@dataclass
class Node:
    """One step of the page.

    Attributes:
      name: unlike all others: the layer's path, or its kind with a number.
      layer: the layer's class, or "" for what stands between layers.
      step: what is computed.
      inputs: the numbers of the nodes that it reads; node 0 is the image.
      path: the layer's path in the model; None for what stands between layers.
      ends_layer: whether this is the layer's output.
    """

    name: str
    layer: str
    step: Step
    inputs: list[int]
    path: tuple[Any, ...] | None = None
    ends_layer: bool = False


def read_graph(model: nnx.Module, input_shape: Sequence[int]) -> list[Node]:
    """Returns the nodes of a model in the order in which it computes them; the last is its output.

    Args:
      model: called as `model(x)`.
      input_shape: `(H, W, C)` of one image.

    Raises:
      UserError: it has a layer, or does something between its layers, that the page does not know.
    """
    model = for_evaluation(model)
    traced = trace(model, input_shape, "float32")
    reader = _Reader(dict(nnx.iter_modules(model)), traced.calls, tuple(input_shape))
    (result,) = reader.run(traced.jaxpr, [0])[:1]
    if result is None:
        raise UserError("look.html cannot show this net: its output does not depend on the image.")
    nodes = _join_scaled_tanh(reader.nodes)
    if result != len(reader.nodes) - 1:
        raise UserError("look.html cannot show this net: its output is not what it computes last.")
    return nodes


#: Equations that leave a value as it is, for the page.
IDENTITIES = ("copy", "copy_p", "convert_element_type", "stop_gradient", "sharding_constraint", "reshard")
#: Functions of one array, by their primitives.
FUNCTIONS = {"logistic": "sigmoid", "tanh": "tanh", "neg": "negate", "exp": "exp"}


class _Reader:
    """Values are the numbers of nodes; None where a value does not depend on the image."""

    def __init__(self, modules: dict[Any, nnx.Module], calls: Sequence[Any], shape: Shape):
        self.modules, self.calls = modules, calls
        self.nodes = [Node("input", "", Step("input", shape), [])]
        self.within: int | None = None  # the call of a layer whose equations are passed over
        self.source = 0

    def run(self, program: ClosedJaxpr | Jaxpr, values: Sequence[int | None]) -> list[int | None]:
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        known: dict[Any, int | None] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> int | None:
            return None if isinstance(atom, Literal) else known.get(atom)

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, values: list[int | None]) -> Sequence[int | None]:
        if equation.primitive is tag_p:
            return [self._tag(equation.params, values[0])]
        if self.within is not None:
            return [None] * len(equation.outvars)
        if all(value is None for value in values):
            return [None] * len(equation.outvars)
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if isinstance(inner, ClosedJaxpr | Jaxpr) and equation.primitive.name not in ("scan", "while", "cond"):
            return self.run(inner, values)
        try:
            return [self._between(equation, values)]
        except Unknown as unknown:
            raise UserError(
                f"look.html cannot show this net: after {self.nodes[-1].name} it computes "
                f"{equation.primitive.name!r}, {unknown}. Make a layer of it that cnnjax.app.look.kinds knows."
            ) from None

    def _tag(self, params: dict[str, Any], value: int | None) -> int | None:
        number = params["number"]
        if params["end"] == "input":
            if self.within is None:
                self.within, self.source = number, -1 if value is None else value
            return value
        if number != self.within:  # a layer within a layer
            return None
        self.within = None
        return self._layer(self.calls[number])

    def _layer(self, call: Any) -> int:
        layer, kind = self.modules[call.path], type(self.modules[call.path]).__name__
        path = ".".join(map(str, call.path)) or kind
        try:
            if self.source < 0:
                raise Unknown("it does not read the image")
            if call.batch != 1:
                raise Unknown(f"it reads {call.input}, and the page knows one batch axis alone")
            steps = steps_of(layer, call.input[1:], call.output[1:])
        except Unknown as unknown:
            raise UserError(f"look.html cannot show the layer {path} ({kind}): {unknown}.") from None
        source = self.source
        for step in steps:
            name = f"{path}.{step.suffix}" if step.suffix else path
            source = self._add(name, kind, step, [source], call.path)
        self.nodes[-1].ends_layer = True
        return source

    def _between(self, equation: JaxprEqn, values: list[int | None]) -> int:
        """Returns the node of an equation between layers."""
        name = equation.primitive.name
        out: Any = equation.outvars[0]
        shape = out.aval.shape[1:]
        dependent = [value for value in values if value is not None]
        first = dependent[0]
        if name in IDENTITIES and np.issubdtype(out.aval.dtype, np.inexact):
            return first
        if name in FUNCTIONS:
            return self._add(FUNCTIONS[name], "", Step(FUNCTIONS[name], shape), [first])
        if name == "reshape":
            before = self.nodes[first].step.shape
            if shape == before:
                return first
            if shape != (int(np.prod(before)),):
                raise Unknown(f"from {before} to {shape}, and the page knows flattening alone")
            return self._add("flatten", "", Step("flatten", shape), [first])
        if name in ("add", "add_any") and len(dependent) == 2:
            if self.nodes[dependent[0]].step.shape != self.nodes[dependent[1]].step.shape:
                raise Unknown("of two shapes")
            return self._add("add", "", Step("add", shape), dependent)
        number = _scalar(equation, values)
        if name == "max" and number == 0:
            return self._add("relu", "", Step("relu", shape), [first])
        if name == "mul" and number is not None:
            return self._add("scale", "", Step("scale", shape, {"factor": number}), [first])
        raise Unknown("which is not among what it knows between layers")

    def _add(self, name: str, layer: str, step: Step, inputs: list[int], path: tuple[Any, ...] | None = None) -> int:
        if len(step.shape) not in (1, 3):
            raise UserError(f"look.html cannot show {name}: it gives {step.shape}; only images and vectors are known.")
        taken = sum(node.name == name or node.name.startswith(f"{name} #") for node in self.nodes)
        self.nodes.append(Node(f"{name} #{taken + 1}" if taken else name, layer, step, inputs, path))
        return len(self.nodes) - 1


def _scalar(equation: JaxprEqn, values: list[int | None]) -> float | None:
    """Returns the number among the operands of an equation; None where there is none."""
    for atom, value in zip(equation.invars, values, strict=True):
        if value is None and isinstance(atom, Literal) and np.ndim(atom.val) == 0:
            return float(atom.val)
    return None


def _join_scaled_tanh(nodes: list[Node]) -> list[Node]:
    """Joins A tanh(S x), three equations, to the one function that it is."""
    readers = [sum(node.inputs.count(number) for node in nodes) for number in range(len(nodes))]

    def ends(number: int) -> bool:
        """True for the last of three, each of which alone reads the one before."""
        kinds = [one.step.kind for one in nodes[max(number - 2, 0) : number + 1]]
        chained = all(nodes[one].inputs == [one - 1] and readers[one - 1] == 1 for one in (number - 1, number))
        return kinds == ["scale", "tanh", "scale"] and chained

    kept: list[Node] = []
    numbers: dict[int, int] = {}
    joined = {number for number in range(2, len(nodes)) if ends(number)}
    for number, node in enumerate(nodes):
        if number + 1 in joined or number + 2 in joined:
            continue
        if number in joined:
            slope, amplitude = nodes[number - 2].step.options["factor"], node.step.options["factor"]
            step = Step("scaled_tanh", node.step.shape, {"amplitude": amplitude, "slope": slope})
            count = sum(one.step.kind == "scaled_tanh" for one in kept)
            name = f"scaled_tanh #{count + 1}" if count else "scaled_tanh"
            node = Node(name, "", step, nodes[number - 2].inputs)
        numbers[number] = len(kept)
        kept.append(dataclasses.replace(node, inputs=[numbers[i] for i in node.inputs]))
    return kept
