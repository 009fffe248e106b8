"""Training state, and the one place where nnx modules become functions of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnnjax.data import rng
from cnnjax.errors import UserError
from cnnjax.train.examples import canonical

Tree = Any  # nested dicts of arrays


class TrainState(NamedTuple):
    """Holds what an update reads and writes, and what a checkpoint holds.

    Attributes:
      params: nested dict of the `nnx.Param` values.
      rest: nested dict of the module's other state (batch statistics), without the keys of random layers, which each
        update makes anew.
      opt_state: the optimiser's state.
      step: int32 scalar, the number of updates done.
      extra: extra arguments of the optimiser's update by name, computed before each epoch; mostly empty.
      average: moving average of the parameters, a tree like `params`; empty without `ema`.
      slow: `(params, rest)`, the slow ones of `lookahead`; empty without.
    """

    params: Tree
    rest: Tree
    opt_state: optax.OptState
    step: jax.Array
    extra: dict[str, Tree] = {}  # noqa: RUF012
    average: Tree = {}  # noqa: RUF012
    slow: Tree = ()

    def evaluated(self) -> Tree:
        """Returns the parameters to evaluate: the moving average where there is one."""
        return self.average or self.params


class GraphDefs(NamedTuple):
    """Holds the static half of a split module, in training and in evaluation mode.

    Attributes:
      training: the graph definition after `model.train()`.
      inference: the graph definition after `model.eval()`.
      streams: nested dict of the shapes of the `nnx.RngState` of random layers (dropout, ...); empty without any.
    """

    training: nnx.GraphDef
    inference: nnx.GraphDef
    streams: Tree


def split(model: nnx.Module) -> tuple[GraphDefs, Tree, Tree]:
    """Splits a module into static structure, parameters, and other state as plain dicts.

    The state of its random layers is left out. The module is read, not changed; its arrays are the module's own, so
    where a training step overwrites them start from `initial`, which copies.
    """
    model = nnx.clone(model)
    nnx.pop(model, nnx.Intermediate)  # what an earlier call has left
    model.train()
    training, params, rest, streams = _split(model)
    params, rest = jax.tree.map(_as_array, (params, rest))
    model.eval()
    return GraphDefs(training, nnx.graphdef(model), jax.eval_shape(lambda: streams)), params, rest


def apply_training(
    net: GraphDefs, params: Tree, rest: Tree, x: Tree, key: jax.Array | None = None
) -> tuple[Tree, Tree]:
    """Applies the module to a batch in training mode.

    Args:
      net: as `split` returns it.
      params: the parameters.
      rest: the other state.
      x: a batch.
      key: decides what the random layers draw: the i-th stream of the module starts from `fold_in(key, i)`.

    Returns:
      `(outputs, rest)`.

    Raises:
      ValueError: there are random layers and no key.
    """
    if net.streams and key is None:
        raise ValueError("key must be a random key, was None: the net has random layers")
    model = nnx.merge(net.training, params, rest, _streams(net, key))
    outputs = model(x)
    nnx.pop(model, nnx.Intermediate)  # what was sown to be looked at is no state
    return outputs, _split(model)[2]


def apply_inference(net: GraphDefs, params: Tree, rest: Tree, x: Tree) -> Tree:
    """Applies the module to a batch in evaluation mode; returns its outputs.

    A layer that is random in this mode too (`layers.FractionalMaxPool`) draws the same at each call.
    """
    return _inference(net, params, rest)(x)


def initial(
    model: nnx.Module, optimizer: optax.GradientTransformation, *, average: bool = False, lookahead: bool = False
) -> tuple[GraphDefs, TrainState]:
    """Returns the graph definitions and the state before the first update.

    The state is a copy: a training step may overwrite it, and the model stays as it is.

    Args:
      model: the net.
      optimizer: any transformation of optax.
      average: whether to keep a moving average of the parameters.
      lookahead: whether to keep slow parameters and other state.
    """
    net, own_params, own_rest = split(model)
    params, rest, averaged = copy(own_params), copy(own_rest), copy(own_params) if average else {}
    slow = copy((own_params, own_rest)) if lookahead else ()
    opt_state = jax.jit(optimizer.init)(params)  # one program; called as it is, JAX compiles one for every shape
    own = {id(leaf) for leaf in jax.tree.leaves(params)}  # jit hands on arguments that it returns as they are
    opt_state = jax.tree.map(lambda leaf: copy(leaf) if id(leaf) in own else leaf, opt_state)
    return net, TrainState(params, rest, opt_state, jax.device_put(np.int32(0)), average=averaged, slow=slow)


def to_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """Copies a state to the host as `{"params/conv1/kernel": array, ...}`.

    It is always a copy: on the CPU `np.asarray` would be a view of memory that the next, donating update overwrites
    while an asynchronous save still reads it.
    """
    return {name: np.array(leaf) for name, leaf in by_name(state).items()}


def by_name(state: TrainState) -> dict[str, Any]:
    """Returns the leaves of a state as `{"params/conv1/kernel": leaf, ...}`; of random keys their numbers."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {_name(path): jax.random.key_data(leaf) if is_key(leaf) else leaf for path, leaf in leaves}


def is_key(leaf: Any) -> bool:
    """True for arrays of random keys, which an optimiser may hold."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def from_arrays(arrays: Mapping[str, np.ndarray], like: TrainState) -> TrainState:
    """Inverts `to_arrays`, in the structure of `like`.

    Raises:
      UserError: an array is missing, left over, or of another shape or dtype: another net's checkpoint.
    """
    wanted = by_name(like)
    differing = [
        f"{name} is {_describe(arrays.get(name))} there and {_describe(wanted.get(name))} here"
        for name in [*wanted, *(name for name in arrays if name not in wanted)]
        if _describe(arrays.get(name)) != _describe(wanted.get(name))
    ]
    if differing:
        raise UserError(
            f"the checkpoint holds another net or optimiser: {differing[0]}"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
            + ". Build the model from the config.json beside it, or give another `workdir`."
        )

    def restored(array: np.ndarray, leaf: Any) -> Any:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)) if is_key(leaf) else array

    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, map(restored, (arrays[name] for name in wanted), leaves))


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turns `{"a/b": x}` into `{"a": {"b": x}}`; digits become int keys."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        node: dict[Any, Any] = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return tree


def load_state(model: nnx.Module, params: Tree, rest: Tree) -> nnx.Module:
    """Returns a copy of `model`, in evaluation mode, with the given parameters and state.

    Args:
      model: the net; it is not changed.
      params: nested dict of arrays, as `restore` returns it.
      rest: nested dict of arrays, likewise.

    Raises:
      UserError: they are those of another net.
    """
    net, own_params, own_rest = split(model)
    like = TrainState(own_params, own_rest, (), jnp.zeros((), jnp.int32))
    given = TrainState(params, rest, (), jnp.zeros((), jnp.int32))
    state = from_arrays(to_arrays(given), like)
    return _inference(net, *jax.tree.map(jnp.asarray, (state.params, state.rest)))


def copy(tree: Tree) -> Tree:
    """Copies arrays, without a program to compile; while one is traced, within it."""

    def copied(leaf: jax.Array) -> jax.Array:
        if isinstance(leaf, jax.core.Tracer):
            return jnp.copy(leaf)
        return jax.device_put(leaf, leaf.sharding, may_alias=False)

    return jax.tree.map(copied, tree)


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree, Tree]:
    graph, *states = nnx.split(model, nnx.Param, nnx.RngState, ...)
    params, streams, rest = map(nnx.to_pure_dict, states)
    return graph, params, rest, streams


def _as_array(leaf: Any) -> jax.Array:
    """Returns what a module holds as an array: NumPy's and Python's numbers too."""
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(canonical(np.asarray(leaf)))


def _inference(net: GraphDefs, params: Tree, rest: Tree) -> nnx.Module:
    return nnx.merge(net.inference, params, rest, _streams(net, rng.key(0, rng.DROPOUT) if net.streams else None))


def _streams(net: GraphDefs, key: jax.Array | None) -> Tree:
    """Returns fresh random streams for a net.

    The i-th, in the order of the tree, is `fold_in(key, i)`.
    """
    numbers = itertools.count()

    def fresh(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # the count of draws
            return jnp.zeros(leaf.shape, leaf.dtype)
        assert key is not None
        own = jax.random.fold_in(key, next(numbers))
        return jax.random.split(own, leaf.shape) if leaf.shape else own  # vmapped layers: an axis of keys

    return jax.tree.map(fresh, net.streams)


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _describe(array: np.ndarray | jax.Array | None) -> str:
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"
