"""An op by JAX and by PyTorch, forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from timing import Result, Run, compare

FLAGS = flags.FLAGS
Tensor = Any  # of PyTorch, which need not be installed
TorchOp = Callable[..., Tensor]
Op = Callable[..., jax.Array]


def both_measures(
    name: str,
    arrays: tuple[np.ndarray, ...],
    own: Op,
    plain: Op | None,
    torch_op: TorchOp,
    peers: list[str],
    wanted: tuple[int, ...],
) -> Iterator[Result]:
    """Compares an op's output, and its output with gradients.

    Args:
      name: of the case.
      arrays: arguments of the op.
      own: our op.
      plain: lax's; `None` where there is none.
      torch_op: PyTorch's.
      peers: whom to compare with.
      wanted: indices of the arguments whose gradients are computed.
    """
    (dy,) = normal(jax.eval_shape(own, *arrays).shape)
    for backward in (False, True):
        contenders = {"own": by_jax(own, arrays, dy, wanted, backward)}
        contenders["own again"] = contenders["own"]
        if "lax" in peers and plain is not None:
            contenders["lax"] = by_jax(plain, arrays, dy, wanted, backward)
        if "torch" in peers:
            for layout in ("contiguous_format", "channels_last"):
                contenders[f"torch {layout}"] = by_torch(torch_op, arrays, dy, wanted, backward, layout)
        # lax sums its kernel gradients over many pixels less exactly than we do
        yield compare(name, "forward+backward" if backward else "forward", contenders, tolerance=5e-5)


def by_jax(op: Op, arrays: tuple[np.ndarray, ...], dy: np.ndarray, wanted: tuple[int, ...], backward: bool) -> Run:
    """Returns a call of the jitted op, or of it and its gradients."""
    from cnnjax.train.step import compiler_options

    def with_gradients(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, dy = arguments

        def of_wanted(*some: jax.Array) -> jax.Array:
            given = dict(zip(wanted, some, strict=True))
            return op(*(given.get(index, array) for index, array in enumerate(inputs)))

        y, vjp = jax.vjp(of_wanted, *(inputs[index] for index in wanted))
        return y, *vjp(dy)

    jitted = jax.jit(with_gradients if backward else op, compiler_options=compiler_options() if FLAGS.options else None)
    inputs = [jnp.asarray(array) for array in (*arrays, *((dy,) if backward else ()))]
    return lambda: jax.block_until_ready(jitted(*inputs))


def by_torch(
    op: TorchOp,
    arrays: tuple[np.ndarray, ...],
    dy: np.ndarray,
    wanted: tuple[int, ...],
    backward: bool,
    layout: str,
) -> Run:
    """Returns the same by PyTorch in one memory layout.

    The results are views in our order of axes.
    """
    import torch

    inputs = [to_torch(array, kernel=index == 1, layout=layout) for index, array in enumerate(arrays)]
    dy_tensor = to_torch(dy, kernel=False, layout=layout)
    for index in wanted:
        inputs[index].requires_grad_(backward)

    def run() -> np.ndarray | tuple[np.ndarray, ...]:
        with torch.set_grad_enabled(backward):
            y = op(*inputs)
            if not backward:
                return from_torch(y, kernel=False)
            gradients = torch.autograd.grad(y, [inputs[index] for index in wanted], dy_tensor)
        return from_torch(y, kernel=False), *(
            from_torch(g, kernel=index == 1) for index, g in zip(wanted, gradients, strict=True)
        )

    return run


def to_torch(array: np.ndarray, *, kernel: bool, layout: str) -> Tensor:
    """Copies an array of ours to a tensor, in PyTorch's order of axes."""
    import torch

    if array.ndim != 4:
        return torch.tensor(array)
    tensor = torch.tensor(array.transpose((3, 2, 0, 1) if kernel else (0, 3, 1, 2)).copy())
    return tensor.contiguous(memory_format=getattr(torch, layout))


def from_torch(tensor: Tensor, *, kernel: bool) -> np.ndarray:
    """Returns a tensor as an array in our order of axes, without a copy."""
    array = tensor.detach().numpy()
    return array if array.ndim != 4 else array.transpose((2, 3, 1, 0) if kernel else (0, 2, 3, 1))


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Returns arrays of normal numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]
