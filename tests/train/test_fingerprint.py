"""What describes a function: equal for the same, another for another."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.train import fingerprint
from cnnjax.train.fingerprint import of_data, of_function


def closing_over(value: Any) -> Callable[..., Any]:
    def loss(outputs: Any, y: Any) -> Any:
        return outputs * value

    return loss


class Keeps:
    """Has what it was made with in a private attribute."""

    def __init__(self, value: Any):
        self._value = value


def nested(value: Any) -> Callable[..., Any]:
    inner = closing_over(value)

    def loss(outputs: Any, y: Any) -> Any:
        return inner(outputs, y) + 1

    return loss


def written(source: str, **names: Any) -> Callable[..., Any]:
    """The function `loss` of a script."""
    module: dict[str, Any] = {"__name__": "script", **names}
    exec(compile(source, "script.py", "exec"), module)
    return module["loss"]


PLAIN = "def loss(outputs, y):\n    return (outputs - y) ** 2\n"
OWNER = "class Owner:\n    sizes, names = (1, 2), {'a': 1}\n\ndef loss(outputs, y):\n    return Owner.sizes\n"


def test_a_name_and_a_digest() -> None:
    name, digest = of_function(closing_over(1)).split()
    assert name.endswith("closing_over.<locals>.loss") and len(digest) == 12
    assert of_function(written(PLAIN)).startswith("script.loss ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: closing_over(0.5),
        lambda: nested(0.5),
        lambda: closing_over(np.arange(3)),
        lambda: closing_over({"b": [1, 2], "a": {"x", "y", "z"}}),
        lambda: functools.partial(train.cross_entropy, label_smoothing=0.1),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.lion(optax.cosine_decay_schedule(0.1, 10))),
        lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
        lambda: jax.jit(closing_over(2)),
        lambda: written(PLAIN),
        lambda: train.top_k(5),
    ],
)
def test_made_twice_it_is_the_same(make: Callable[[], Any]) -> None:
    assert of_function(make()) == of_function(make())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closing_over(0.5), closing_over(0.25)),
        (closing_over(1), closing_over(True)),
        (closing_over(b"a"), closing_over(b"b")),
        (closing_over({1}), closing_over({2})),
        (closing_over(np.zeros(3)), closing_over(np.array([0, 0, 1e-9]))),
        (closing_over(np.zeros(3)), closing_over(np.zeros(3, np.float32))),
        (closing_over(jax.lax.Precision.HIGHEST), closing_over(jax.lax.Precision.DEFAULT)),
        (closing_over(jnp.float32), closing_over(jnp.bfloat16)),
        (closing_over(jnp.sin), closing_over(jnp.cos)),
        (closing_over(np.sin), closing_over(np.cos)),
        (closing_over(sum), closing_over(max)),
        (nested(0.5), nested(0.25)),
        (nested(np.zeros(3)), nested(np.ones(3))),
        (jax.jit(closing_over(1)), jax.jit(closing_over(2))),
        (functools.partial(closing_over(1), y=1), functools.partial(closing_over(1), y=2)),
        (functools.partial(train.cross_entropy, label_smoothing=0.1), train.cross_entropy),
        (written(PLAIN), written(PLAIN.replace("2", "4"))),
        (written(PLAIN), written(PLAIN.replace("-", "+"))),
        (written(PLAIN.replace("s, y)", "s, y, p=1)")), written(PLAIN.replace("s, y)", "s, y, p=2)"))),
        (written(PLAIN.replace("s, y)", "s, y, *, p=1)")), written(PLAIN.replace("s, y)", "s, y, *, p=2)"))),
        (written("f = lambda y: y\n" + PLAIN.replace("- y", "- f(y)")),
         written("f = lambda y: -y\n" + PLAIN.replace("- y", "- f(y)"))),
        (written("S = 2\n" + PLAIN.replace("- y", "- S * y")), written("S = 3\n" + PLAIN.replace("- y", "- S * y"))),
        (optax.adam(1e-3), optax.adam(1e-4)),
        (optax.adam(1e-3), optax.adam(1e-3, b1=0.8)),
        (optax.adam(1e-3), optax.adamax(1e-3)),
        (optax.sgd(optax.cosine_decay_schedule(0.1, 10)), optax.sgd(optax.cosine_decay_schedule(0.1, 11))),
        (nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(2, 4, rngs=nnx.Rngs(0))),
        (train.top_k(5), train.top_k(3)),
        (closing_over(Keeps(1.0)), closing_over(Keeps(5.0))),
        (written(OWNER), written(OWNER.replace("(1, 2)", "(3, 2)"))),
        (written(OWNER), written(OWNER.replace("'a': 1", "'a': 2"))),
    ],
)  # fmt: skip
def test_what_differs_is_another(one: Any, other: Any) -> None:
    assert of_function(one) != of_function(other)


def test_comments_and_lines_do_not_count() -> None:
    other = "# what is learned\n\n\n" + PLAIN.replace("    return", "    # squared\n\n    return")
    assert of_function(written(other)) == of_function(written(PLAIN))


def test_parameters_do_not_count() -> None:
    one, other = (nnx.Linear(2, 3, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    assert of_function(one, parameters=False) == of_function(other, parameters=False)
    assert of_function(closing_over(one)) != of_function(closing_over(other)), "of a net that a loss asks they do"


def test_what_has_no_description_counts_by_its_type() -> None:
    assert of_function(closing_over(np.random.default_rng(0))) == of_function(closing_over(np.random.default_rng(1)))
    assert of_function(closing_over(np.random.default_rng(0))) != of_function(closing_over(iter([])))


def test_recursion_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    owner = types.SimpleNamespace()
    owner.owner, owner.all = owner, loop
    assert of_function(closing_over(owner)) == of_function(closing_over(owner))
    many = "\n".join(f"def f{n}(x): return " + " + ".join(f"f{m}(x)" for m in range(20)) for n in range(20))
    looping = written(many + "\ndef loss(outputs, y): return f0(outputs)\n")
    assert of_function(looping).startswith("script.loss ")
    deep: Any = 0
    for _ in range(fingerprint.DEEPEST + 50):
        deep = [deep]
    assert of_function(closing_over(deep))


def test_data_by_shapes_and_bytes() -> None:
    x, y = np.arange(12, dtype=np.uint8).reshape(6, 2), np.arange(6, dtype=np.int32)
    found = of_data(train.Examples(x, y))
    assert found["examples"] == 6 and found["x"] == "uint8[2]" and found["y"] == "int32[]"
    changed = x.copy()
    changed[5, 1] += 1
    assert of_data(train.Examples(changed, y))["crc32"] != found["crc32"]
    assert of_data(train.Examples(x.copy(), y)) == found
