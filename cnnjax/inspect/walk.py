"""Walks through a traced model, into the programs within its program, and notes each call of a layer on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from cnnjax.inspect.receptive import Constant, Spans, Value, carry, each, joined, shape_of, slide, unknown
from cnnjax.inspect.spans import Shape, Span, Term
from cnnjax.inspect.trace import Call, Traced, tag_p

#: How many steps of a loop are followed, for fields that grow with each; beyond, what it carries is unknown.
MOST_STEPS = 1000


class Visit(NamedTuple):
    """One call of a layer in the program.

    Attributes:
      call: the call.
      spans: what an element of its output sees, per spatial dimension of the image; None where unknown.
      mapped: the sizes of the axes of vmap, which come first in its output.
      times: how often loops around it run it.
      began: a number that is smaller for calls that began before.
    """

    call: Call
    spans: Spans
    mapped: Shape
    times: int
    began: int


def walk(traced: Traced) -> list[Visit]:
    """Returns the calls of layers in a traced model, in the order in which they began.

    In a loop of a known number of steps (`scan`, `fori_loop`, `map`) a call is visited once, with the field of the last
    step. In a `while_loop` one step counts. All branches of a `cond` count.
    """
    (x,) = traced.jaxpr.jaxpr.invars
    shape = x.aval.shape
    words = len(shape) == 2 and jnp.issubdtype(x.aval.dtype, jnp.integer)  # ids (N, L), without channels
    image = shape[1:] if words else shape[1:-1]
    walker = _Walker(traced.calls, image)
    start = tuple(Span(0, 1, (Term(axis + 1, 1, size, 1),)) for axis, size in enumerate(image))
    walker.run(traced.jaxpr, [start], 1)
    return sorted(walker.visits, key=lambda visit: visit.began)


class _Begun(NamedTuple):
    """A call on the way: its input, and how many visits there were when it began."""

    value: Value
    shape: Shape
    mapped: Shape
    began: int
    visits: int


class _Walker:
    def __init__(self, calls: Sequence[Call | None], image: Shape):
        self.calls, self.image = calls, image
        self.visits: list[Visit] = []
        self.begun: dict[int, _Begun] = {}
        self.clock = 0

    def run(self, program: ClosedJaxpr | Jaxpr, values: Sequence[Value], times: int) -> list[Value]:
        """Returns the results of a program, given its arguments."""
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        known: dict[Any, Value] = dict.fromkeys(jaxpr.constvars, Constant(True))
        known.update(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            return Constant(True) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars], times)
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: JaxprEqn, values: list[Value], times: int) -> Sequence[Value]:
        name = equation.primitive.name
        if equation.primitive is tag_p:
            return [self._tag(equation, values[0], times)]
        if name == "scan":
            return self._scan(equation, values, times)
        if name == "while":
            return self._while(equation, values, times)
        if name == "cond":
            return self._cond(equation, values, times)
        if name in ("reduce", "reduce_window"):
            return carry(equation, values, self.image)
        inner = list(_programs(equation))
        if not inner:
            return carry(equation, values, self.image)
        if len(inner) == 1 and _fits(inner[0], equation):
            return self.run(inner[0], values, times)
        for program in inner:  # of an unknown kind: its layers count, its results are unknown
            self.run(program, [(None,) * len(self.image)] * len(_open(program).invars), times)
        return unknown(equation, self.image)

    # ---- layers ----

    def _tag(self, equation: JaxprEqn, value: Value, times: int) -> Value:
        number, mapped = equation.params["number"], equation.params["mapped"]
        shape = shape_of(equation.outvars[0])
        self.clock += 1
        if equation.params["end"] == "input":
            self.begun[number] = _Begun(value, shape, mapped, self.clock, len(self.visits))
            return value
        begun, call = self.begun[number], self.calls[number]
        assert call is not None
        if call.geometry is not None and len(self.visits) == begun.visits:  # no layer within says it more exactly
            value = self._through(call, begun, value, shape, mapped)
        channels = [len(shape) - 1]
        seen = each(value, lambda span: span.widened(channels))  # of all channels at a pixel
        spans = (Span(0, 0),) * len(self.image) if isinstance(seen, Constant) else seen
        self.visits.append(Visit(call, spans, mapped, times, begun.began))
        return value

    def _through(self, call: Call, begun: _Begun, carried: Value, shape: Shape, mapped: Shape) -> Value:
        """Returns what the windows of a layer see; for a dimension that they do not slide over, what was carried."""
        if isinstance(begun.value, Constant) or call.geometry is None:
            return carried
        firsts = len(begun.mapped) + call.batch, len(mapped) + call.batch
        slid = slide(begun.value, call.geometry, (begun.shape, shape), firsts)
        over = range(firsts[0], firsts[0] + len(call.geometry.window))
        assert not isinstance(slid, Constant)
        fallback = (None,) * len(self.image) if isinstance(carried, Constant) else carried
        return tuple(
            after if before is None or all(term.axis in over for term in before.terms) else otherwise
            for before, after, otherwise in zip(begun.value, slid, fallback, strict=True)
        )

    # ---- programs within the program ----

    def _scan(self, equation: JaxprEqn, values: list[Value], times: int) -> Sequence[Value]:
        body, length = equation.params["jaxpr"], equation.params["length"]
        # Constants, what is carried, what is sliced: the last has an axis less in the body. Likewise among the results.
        carried = sum(map(_same_rank, equation.outvars, _open(body).outvars))
        carries = sum(map(_same_rank, equation.invars, _open(body).invars))
        consts = carries - carried
        sliced = [each(value, _without_first_axis) for value in values[carries:]]
        state, stacked = list(values[consts:carries]), None
        visits = len(self.visits)
        for step in range(min(length, MOST_STEPS + 1)):
            if step == MOST_STEPS:
                state = [self._unlike(value) for value in state]
            before, self.visits = state, self.visits[:visits]
            results = self.run(body, [*values[:consts], *before, *sliced], times * length)
            state, gave = results[:carried], results[carried:]
            same = stacked is None or stacked == gave
            stacked = [value if same else self._unlike(value) for value in gave]
            if state == before:
                break
        with_axis = [each(value, lambda span: span.moved(lambda axis: axis + 1)) for value in stacked or ()]
        empty = [Constant(True)] * (len(equation.outvars) - len(state))
        return [*state, *(with_axis if stacked is not None else empty)]

    def _while(self, equation: JaxprEqn, values: list[Value], times: int) -> Sequence[Value]:
        params = equation.params
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        fixed, state = values[tests : tests + consts], values[tests + consts :]
        visits = len(self.visits)
        after = self.run(params["body_jaxpr"], [*fixed, *state], times)
        if after != state:  # it may grow with each step, and nobody knows how many there are
            self.visits = self.visits[:visits]
            state = [old if old == new else self._unlike(new) for old, new in zip(state, after, strict=True)]
            after = self.run(params["body_jaxpr"], [*fixed, *state], times)
            state = [old if old == new else self._unlike(new) for old, new in zip(state, after, strict=True)]
        return state

    def _cond(self, equation: JaxprEqn, values: list[Value], times: int) -> Sequence[Value]:
        index, *operands = values
        results = [self.run(branch, operands, times) for branch in equation.params["branches"]]
        also = [] if isinstance(index, Constant) else [index]
        return [joined([*column, *also], self.image) for column in zip(*results, strict=True)]

    def _unlike(self, value: Value) -> Value:
        """Returns a value that is another at each step: unknown where it depends on the image."""
        return value if isinstance(value, Constant) else (None,) * len(self.image)


def _same_rank(first: Any, second: Any) -> bool:
    return len(shape_of(first)) == len(shape_of(second))


def _without_first_axis(span: Span) -> Span | None:
    return span.moved(lambda axis: axis - 1 if axis else None)


def _programs(equation: JaxprEqn) -> Iterator[ClosedJaxpr | Jaxpr]:
    """Yields the programs among an equation's parameters."""
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
    yield from filter(_is_program, leaves)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _open(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _fits(program: ClosedJaxpr | Jaxpr, equation: JaxprEqn) -> bool:
    """True where a program takes and gives what the equation does, in shapes too, as those of jit and checkpoint do."""
    jaxpr = _open(program)
    takes, wants = (list(map(shape_of, variables)) for variables in (equation.invars, jaxpr.invars))
    gives, results = (list(map(shape_of, variables)) for variables in (jaxpr.outvars, equation.outvars))
    return takes == wants and gives == results
