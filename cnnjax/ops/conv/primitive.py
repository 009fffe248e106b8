"""Convolution and its two gradients as one primitive, so that each can be computed in the way that is fastest for it.

The form T(x, w, y) = <conv(x, w), y> is linear in x, in w and in y.  Its derivative in one of the three is a function
of the other two: in y the convolution itself, in x the gradient of the input, in w the gradient of the kernel.  They
are each other's transposes:

    d T / d y  (x, w)  =  conv(x, w)                        (N, *S', F)
    d T / d x  (w, y)  =  conv_transpose(y, w)              (N, *S, C)
    d T / d w  (x, y)  =  conv_kernel_grad(x, y)            (*K, C // groups, F)

so that derivatives of all orders, forward and reverse, come back to these three.  Off the CPU, and on several
devices, each is what XLA makes of ``lax.conv_general_dilated``.  On the CPU XLA takes 2 to 7 times longer than
oneDNN, and inside loops 4 to 12 times longer still; there each has a form of its own below.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.checks import is_local
from cnnjax.ops.conv import onednn
from cnnjax.ops.conv.forward import direct, im2col, lax_conv, transposed
from cnnjax.ops.conv.kernel_grad import kernel_gradient
from cnnjax.ops.conv.winograd import conv_of_places, places_of_kernel
from cnnjax.ops.geometry import Windows, largest_divisor, slide
from cnnjax.ops.patches import MANY_TAPS, pad_spatial, taps
from cnnjax.ops.primitives import aval_like

OPERANDS = {"y": "xw", "x": "wy", "w": "xy"}
FORWARD_BYTES = 40_000_000  # of x and y in Winograd's places at a time


def conv_by_platform(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The convolution; see :mod:`cnnjax.ops.conv.forward` for the arguments."""
    if not is_local(x, w):
        return lax_conv(x, w, windows, groups, precision)
    if x.ndim == 3:
        return conv_by_platform(x[:, None], w[None], _as_images(windows), groups, precision)[:, 0]
    if math.prod(windows.window) == 1 and max(windows.stride) > 1:  # what no window meets need not be multiplied
        ((_, x),) = taps(pad_spatial(x, windows.exact_padding), windows)
        windows = slide(windows.output, windows.window)
    return derivative_p.bind(x, w, of="y", windows=windows, groups=groups, precision=precision)


def transposed_by_platform(y: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The adjoint of the convolution in x."""
    if not is_local(y, w):
        return transposed(y, w, windows, groups, precision)
    if y.ndim == 3:
        return transposed_by_platform(y[:, None], w[None], _as_images(windows), groups, precision)[:, 0]
    # a convolution of these sizes may have more outputs than y; of x without what no window of y meets it has not
    beyond = tuple((0, max(-high, 0)) for _, high in windows.exact_padding)
    met = windows._replace(
        sizes=tuple(size - more for size, (_, more) in zip(windows.sizes, beyond, strict=True)),
        padding=tuple((low, max(high, 0)) for low, high in windows.exact_padding),
    )
    x = derivative_p.bind(w, y, of="x", windows=met, groups=groups, precision=precision)
    return pad_spatial(x, beyond)


def _as_images(windows: Windows) -> Windows:
    """Windows over sequences as those over images of one row."""
    return Windows((1, *windows.sizes), (1, *windows.window), (1, *windows.stride), (1, *windows.dilation),
                   ((0, 0), *windows.padding), (1, *windows.output))  # fmt: skip


# ---- the primitive: shapes, derivatives, batching ----

derivative_p = Primitive("cnnjax_conv_derivative")


def _bind(of: str, arrays: dict[str, jax.Array], **static: Any) -> jax.Array:
    return derivative_p.bind(*(arrays[name] for name in OPERANDS[of]), of=of, **static)


@derivative_p.def_abstract_eval
def _shape(a: Any, b: Any, *, of: str, windows: Windows, groups: int, precision: Any) -> Any:
    arrays = dict(zip(OPERANDS[of], (a.shape, b.shape), strict=True))
    if of == "y":
        shape = (arrays["x"][0], *windows.output, arrays["w"][-1])
    elif of == "x":
        shape = (arrays["y"][0], *windows.sizes, arrays["w"][-2] * groups)
    else:
        shape = (*windows.window, arrays["x"][-1] // groups, arrays["y"][-1])
    return aval_like(a if isinstance(a, jax.core.AbstractValue) else jax.typeof(a), shape)


def _transpose_rule(position: int) -> Any:
    """The cotangent of one operand: the derivative in that operand, of the cotangent and the other one."""

    def rule(cotangent: jax.Array, a: Any, b: Any, *, of: str, **static: Any) -> jax.Array:
        wanted, other = OPERANDS[of][position], OPERANDS[of][1 - position]
        return _bind(wanted, {of: cotangent, other: (a, b)[1 - position]}, **static)

    return rule


ad.defbilinear(derivative_p, _transpose_rule(0), _transpose_rule(1))


def _batch_rule(arguments: Any, axes: Any, *, of: str, **static: Any) -> tuple[jax.Array, int]:
    mapped = dict(zip(OPERANDS[of], axes, strict=True))
    if of != "w" and mapped["w"] is None:  # one kernel for all: the mapped axis joins the batch
        arrays = dict(zip(OPERANDS[of], arguments, strict=True))
        (name,) = set(OPERANDS[of]) - {"w"}
        many = jnp.moveaxis(arrays[name], mapped[name], 0)
        result = _bind(of, {"w": arrays["w"], name: many.reshape(-1, *many.shape[2:])}, **static)
        return result.reshape(*many.shape[:2], *result.shape[1:]), 0
    return jax.vmap(partial(_plain, of=of, **static), axes)(*arguments), 0


batching.primitive_batchers[derivative_p] = _batch_rule


derivative_p.def_impl(jax.jit(derivative_p.bind, static_argnames=("of", "windows", "groups", "precision")))


# ---- XLA's own ----


def _plain(a: jax.Array, b: jax.Array, *, of: str, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if of == "y":
        return lax_conv(a, b, windows, groups, precision)
    shape = _shape(a, b, of=of, windows=windows, groups=groups, precision=precision)
    like = jax.ShapeDtypeStruct(shape.shape, shape.dtype)
    if of == "x":
        (w, y), run = (a, b), lambda x: lax_conv(x, w, windows, groups, precision)
    else:
        (x, y), run = (a, b), lambda w: lax_conv(x, w, windows, groups, precision)
    return jax.linear_transpose(run, like)(y)[0]


mlir.register_lowering(derivative_p, mlir.lower_fun(_plain, multiple_results=False))


# ---- on one CPU ----


def _on_cpu(a: jax.Array, b: jax.Array, *, of: str, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if of == "y":
        return _forward(a, b, windows, groups, precision)
    if of == "x":
        return _input_gradient(a, b, windows, groups, precision)
    return kernel_gradient(a, b, windows, groups, precision)


def _lower_on_cpu(ctx: Any, a: Any, b: Any, **static: Any) -> Any:
    devices = getattr(ctx.module_context.axis_context, "num_devices", None)
    run = _on_cpu if devices == 1 else _plain  # XLA cannot share out a custom call or a loop over the batch
    return mlir.lower_fun(run, multiple_results=False)(ctx, a, b, **static)


mlir.register_lowering(derivative_p, _lower_on_cpu, platform="cpu")


def _forward(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if onednn.serves(x, w):
        images = _images_by_winograd(x, w, windows, groups)
        if not images:
            return onednn.conv(x, w, windows, groups)
        # one that is not finite would reach outputs that do not see it
        by_winograd = partial(_forward_by_winograd, windows=windows, images=images)
        plain = partial(onednn.conv, windows=windows, groups=1)
        return lax.cond(jnp.isfinite(x).all(), by_winograd, plain, x, w)
    if w.shape[-2] == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS:
        return direct(x, w, windows, groups, precision)
    return lax_conv(x, w, windows, groups, precision)


def _images_by_winograd(x: jax.Array, w: jax.Array, windows: Windows, groups: int) -> int:
    """How many images at a time F(2 x 2, 3 x 3) should take; 0 where oneDNN's own way is as fast.

    Measured over that: 512 channels 0.51 (64x4x4), 0.77 (32x14x14), 256 to 512 0.80 (64x8x8), 256 to 384 0.91
    (32x13x13), 256 0.87 to 1.17.  It is the more exact too: 8e-7 of the largest output with 512 channels, and 2.9e-6.
    """
    *window, channels, features = w.shape
    if window != [3, 3] or groups > 1 or not set(windows.stride) == set(windows.dilation) == {1}:
        return 0
    if channels * features < 150 * (channels + features):
        return 0
    image_bytes = 4 * 16 * math.prod(-(-count // 2) for count in windows.output) * (channels + features)
    return largest_divisor(len(x), FORWARD_BYTES // image_bytes) if image_bytes <= FORWARD_BYTES else 0


def _forward_by_winograd(x: jax.Array, w: jax.Array, windows: Windows, images: int) -> jax.Array:
    w = places_of_kernel(w, 2)
    product = partial(onednn.matmul, transpose_a=False)
    run = partial(conv_of_places, w=w, windows=windows, outputs=2, product=product)
    if images == len(x):
        return run(x)
    y = lax.map(run, x.reshape(-1, images, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def _input_gradient(w: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if _in_blocks(w, y, windows, groups):
        block = 4 if w.shape[-2] <= 2 else 2
        like = jax.ShapeDtypeStruct((y.shape[0], *windows.sizes, w.shape[-2]), y.dtype)
        return jax.linear_transpose(lambda x: im2col(x, w, windows, groups, precision, block), like)(y)[0]
    return transposed(y, w, windows, groups, precision, _forward)


def _in_blocks(w: jax.Array, y: jax.Array, windows: Windows, groups: int) -> bool:
    """Whether channels are too few for whole registers: blocks of neighbours then fill them."""
    *_, channels, features = w.shape
    few = channels <= (2 if onednn.serves(w, y) else 16) and features <= 16
    return few and groups == 1 and set(windows.stride) == set(windows.dilation) == {1}
