"""Convolution and its two gradients as one primitive of JAX, lowered for each platform in its own way.

The form T(x, w, y) = <conv(x, w), y> is linear in x, in w and in y. Its derivative in one of the three is a function of
the other two, and the three derivatives are each other's transposes:

    forward       d T / d y  (x, w)   =  conv(x, w)               (N, *S', F)
    input_grad    d T / d x  (w, dy)  =  conv_input_grad          (N, *S, C)
    kernel_grad   d T / d w  (x, dy)  =  conv_kernel_grad         (*K, C // groups, F)

so that derivatives of all orders, forward and reverse, come back to these three; and so do those of many problems at
once: see `cnnjax.ops.conv.mapped`. Which form computes one of them is chosen when the program is lowered, as only then
the platform is known: see `cnnjax.ops.conv.choose`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.checks import Precision, is_local
from cnnjax.ops.conv import choose, input_grad, onednn
from cnnjax.ops.conv.choose import FORWARD, INPUT_GRAD, KERNEL_GRAD
from cnnjax.ops.conv.chunks import map_over_images, sum_over_images
from cnnjax.ops.conv.forward import lax_conv
from cnnjax.ops.conv.kernel_grad import patches_of_each
from cnnjax.ops.conv.mapped import as_one, one_by_one
from cnnjax.ops.conv.problem import small_patches
from cnnjax.ops.geometry import Windows
from cnnjax.ops.patches import pad_spatial
from cnnjax.ops.primitives import aval_like, define_eager_call, define_nan_check, define_taylor_rule
from cnnjax.ops.promotion import accumulator_dtype

# What each derivative is computed from, and what it is the derivative in.
OPERANDS = {FORWARD: ("x", "w"), INPUT_GRAD: ("w", "y"), KERNEL_GRAD: ("x", "y")}
RESULTS = {FORWARD: "y", INPUT_GRAD: "x", KERNEL_GRAD: "w"}
DERIVATIVE_IN = {name: derivative for derivative, name in RESULTS.items()}
STATIC = ("derivative", "windows", "groups", "precision", "dtype", "narrow", "plain", "mapped")


def conv(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    *,
    dtype: Any,
    narrow: bool = False,
    plain: bool = False,
) -> jax.Array:
    """Computes the convolution of x (N, *S, C) with w (*K, C // groups, F), whose padding is not negative.

    Args:
      x: of the dtype of w.
      w: the kernel.
      windows: of w over x.
      groups: divides C and F.
      precision: as for `jax.lax.conv_general_dilated`.
      dtype: of the result. Sums are of float32 or better.
      narrow: accelerators, which sum halves in float32 by themselves, may round to the dtype of x before.
      plain: take XLA's own convolution on every platform.
    """
    parameters = _parameters(FORWARD, windows, groups, precision, dtype, narrow, plain)
    return _bind(x, w, **parameters)


def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    *,
    dtype: Any,
    narrow: bool = False,
) -> jax.Array:
    """Computes the adjoint of `conv` in x, (N, *S, C), of dy (N, *S', F) and w; its parameters are those of `conv`."""
    # A convolution of these sizes may have more outputs than dy. Without the pixels that no window of dy reads it has
    # not.
    unread = tuple((0, max(-high, 0)) for _, high in windows.exact_padding)
    if any(more >= size for size, (_, more) in zip(windows.sizes, unread, strict=True)):  # the windows read no pixel
        return jnp.zeros((dy.shape[0], *windows.sizes, groups * w.shape[-2]), dtype)
    read = windows._replace(
        sizes=tuple(size - more for size, (_, more) in zip(windows.sizes, unread, strict=True)),
        padding=tuple((low, max(high, 0)) for low, high in windows.exact_padding),
    )
    parameters = _parameters(INPUT_GRAD, read, groups, precision, dtype, narrow, False)
    return pad_spatial(_bind(w, dy, **parameters), unread)


def _parameters(
    derivative: str, windows: Windows, groups: int, precision: Precision, dtype: Any, narrow: bool, plain: bool
) -> dict[str, Any]:
    dtype = jnp.dtype(dtype)
    return dict(zip(STATIC, (derivative, windows, groups, precision, dtype, narrow, plain, ""), strict=True))


def _bind(a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    return conv_p.bind(a, b, **parameters) if is_local(a, b) else _inside_shard_map(a, b, **parameters)


def _inside_shard_map(
    a: jax.Array,
    b: jax.Array,
    *,
    derivative: str,
    windows: Windows,
    groups: int,
    precision: Precision,
    dtype: Any,
    **_: Any,
) -> jax.Array:
    """Computes a convolution or an input gradient by lax's own operations.

    Inside shard_map types say over which axes values vary. lax's operations carry that, a primitive of ours does not.
    """

    def run(a: jax.Array, b: jax.Array, wide: Any) -> jax.Array:
        a, b = a.astype(wide), b.astype(wide)
        if derivative == FORWARD:
            return lax_conv(a, b, windows, groups, precision).astype(dtype)
        strided = max(windows.stride) > 1 and max(windows.dilation) == 1
        form = input_grad.phases_as_channels if strided else input_grad.full_correlation
        return form(a, b, windows, groups, precision, lax_conv).astype(dtype)

    wide = accumulator_dtype(a.dtype, b.dtype, dtype)
    if a.dtype == wide:
        return run(a, b, wide)
    # Accelerators sum halves in float32 by themselves, the CPU does not.
    return lax.platform_dependent(a, b, cpu=partial(run, wide=wide), default=partial(run, wide=a.dtype))


conv_p = Primitive("cnnjax_conv")


# ---- shapes, derivatives, batching ----


@conv_p.def_abstract_eval
def _abstract_result(
    a: Any, b: Any, *, derivative: str, windows: Windows, groups: int, dtype: Any, mapped: str, **_: Any
) -> Any:
    named = dict(zip(OPERANDS[derivative], (a.shape, b.shape), strict=True))
    arrays = {name: shape[1:] if name in mapped else shape for name, shape in named.items()}
    if derivative == FORWARD:
        shape = (arrays["x"][0], *windows.output, arrays["w"][-1])
    elif derivative == INPUT_GRAD:
        shape = (arrays["y"][0], *windows.sizes, arrays["w"][-2] * groups)
    else:
        shape = (*windows.window, arrays["x"][-1] // groups, arrays["y"][-1])
    count = {shape[0] for name, shape in named.items() if name in mapped and RESULTS[derivative] in mapped}
    return aval_like(a, (*count, *shape), dtype)


def _transpose_rule(position: int) -> Callable[..., jax.Array]:
    """Returns the rule for the cotangent of one operand: the derivative in it, of that and the other operand."""

    def rule(cotangent: jax.Array, a: Any, b: Any, *, derivative: str, dtype: Any, **common: Any) -> jax.Array:
        operands = OPERANDS[derivative]
        wanted, given = operands[position], operands[1 - position]
        result = DERIVATIVE_IN[wanted]
        of = RESULTS[derivative]
        arrays = {of: cotangent, given: (a, b)[1 - position]}
        linear = (a, b)[position]  # known by its type alone
        wanted_dtype = linear.aval.dtype
        return conv_p.bind(
            *(arrays[name] for name in OPERANDS[result]), derivative=result, dtype=wanted_dtype, **common
        )

    return rule


ad.defbilinear(conv_p, _transpose_rule(0), _transpose_rule(1))


def _batching_rule(
    arguments: Any, axes: Any, *, derivative: str, mapped: str, dtype: Any, **common: Any
) -> tuple[jax.Array, int]:
    result = RESULTS[derivative]
    arrays = dict(zip(OPERANDS[derivative], arguments, strict=True))
    new = {name: axis for name, axis in zip(arrays, axes, strict=True) if axis is not None}
    size = next(arrays[name].shape[axis] for name, axis in new.items())

    def bind(mapped: str, dtype: Any) -> jax.Array:
        return conv_p.bind(*arrays.values(), derivative=derivative, mapped=mapped, dtype=dtype, **common)

    if "w" not in new and derivative != KERNEL_GRAD:  # one kernel for all: the axis joins the batch
        ((name, axis),) = new.items()
        batch = int(name in mapped)
        many = jnp.moveaxis(arrays[name], axis, batch)
        images = many.shape[batch + 1]
        arrays[name] = many.reshape(*many.shape[:batch], size * images, *many.shape[batch + 2 :])
        y, batch = bind(mapped, dtype), int(result in mapped)
        return y.reshape(*y.shape[:batch], size, images, *y.shape[batch + 1 :]), batch

    for name, axis in new.items():
        arrays[name] = jnp.moveaxis(arrays[name], axis, 0)
    both = "".join(name for name in "xwy" if name in (*new, *mapped, result))
    if not mapped:
        return bind(both, dtype), 0
    # The axis joins the index that is there. Where that is summed over, the sum has to wait.
    count = next(array.shape[int(name in new)] for name, array in arrays.items() if name in mapped)
    for name, array in arrays.items():
        if name in both:
            own = array.shape[(name in new) + (name in mapped) :]
            array = array.reshape(size if name in new else 1, count if name in mapped else 1, *own)
            arrays[name] = jnp.broadcast_to(array, (size, count, *own)).reshape(size * count, *own)
    if result in mapped:
        y = bind(both, dtype)
        return y.reshape(size, count, *y.shape[1:]), 0
    y = bind(both, accumulator_dtype(dtype))
    return y.reshape(size, count, *y.shape[1:]).sum(1).astype(dtype), 0


batching.primitive_batchers[conv_p] = _batching_rule
define_eager_call(conv_p, STATIC)
define_nan_check(conv_p)
define_taylor_rule(conv_p, linear_in=(0, 1))


# ---- lowering ----


def _lowering(platform: str) -> Callable[..., Any]:
    """Returns the rule that lowers the primitive for a platform."""

    def rule(ctx: Any, a: Any, b: Any, **parameters: Any) -> Any:
        module = ctx.module_context
        one_device = getattr(module.axis_context, "num_devices", None) == 1
        if platform == "cpu" and not (one_device and not module.lowering_parameters.for_export):
            # XLA can neither share out a loop over the batch or a custom call, nor serialise the latter; and the forms
            # of one device work with sizes that are numbers, where an exported program may have symbols.
            parameters["plain"] = True
        run = partial(_compute_mapped, platform=platform, one_device=one_device, **parameters)
        return mlir.lower_fun(run, multiple_results=False)(ctx, a, b)

    return rule


mlir.register_lowering(conv_p, _lowering("gpu"))
for _platform in ("cpu", "tpu"):
    mlir.register_lowering(conv_p, _lowering(_platform), platform=_platform)


def _compute_mapped(
    a: jax.Array, b: jax.Array, *, derivative: str, groups: int, dtype: Any, mapped: str, **common: Any
) -> jax.Array:
    """Computes one derivative of one problem, or of many: see `cnnjax.ops.conv.mapped`."""
    result = RESULTS[derivative]
    wide = accumulator_dtype(dtype) if mapped and result not in mapped else dtype

    def compute(a: jax.Array, b: jax.Array, groups: int) -> jax.Array:
        return _compute(a, b, derivative=derivative, groups=groups, dtype=wide, **common)

    if not mapped:
        return compute(a, b, groups)
    arrays = dict(zip(OPERANDS[derivative], (a, b), strict=True))
    # oneDNN and the products are slow with many narrow groups, and as fast in a loop as outside.
    if common["platform"] != "cpu" or common["plain"]:
        return as_one(compute, arrays, result, mapped, groups).astype(dtype)
    if derivative == KERNEL_GRAD and mapped == "xwy" and groups == 1 and small_patches(a, common["windows"]):
        a, b = (array.astype(accumulator_dtype(a.dtype, b.dtype, dtype)) for array in (a, b))
        return patches_of_each(a, b, common["windows"]).astype(dtype)
    return one_by_one(compute, arrays, result, mapped, groups).astype(dtype)


def _compute(
    a: jax.Array,
    b: jax.Array,
    *,
    platform: str,
    derivative: str,
    windows: Windows,
    groups: int,
    precision: Precision,
    dtype: Any,
    narrow: bool,
    plain: bool,
    one_device: bool,
) -> jax.Array:
    """Computes one derivative on one platform: in which dtype, and by the form that is chosen for it."""
    one_dtype = narrow or a.dtype == b.dtype  # a is x or w: only a cotangent may be wider
    wide = a.dtype if one_dtype else accumulator_dtype(a.dtype, b.dtype)
    if platform == "cpu" and (plain or not _is_half_on_onednn(wide, dtype)):  # XLA's halves are sums of halves
        wide = accumulator_dtype(a.dtype, b.dtype, dtype)
    a, b = a.astype(wide), b.astype(wide)
    if platform == "cpu" and not plain:
        return _on_cpu(derivative, a, b, windows, groups, precision, dtype)
    p = _problem(derivative, a, b, windows, groups, precision)._replace(onednn=False)
    rule = choose.rule_for(derivative, platform, p, plain=plain, one_device=one_device)
    form = partial(rule.form, conv=lax_conv) if rule.correlates else rule.form
    if derivative == FORWARD and not narrow and dtype.itemsize > wide.itemsize:
        return form(a, b, windows, groups, precision, preferred_element_type=dtype)
    return form(a, b, windows, groups, precision).astype(dtype)


def _is_half_on_onednn(wide: Any, dtype: Any) -> bool:
    """True where oneDNN multiplies halves and sums in float32."""
    return wide == "bfloat16" and dtype.itemsize <= 4 and onednn.takes([wide])


def _on_cpu(
    derivative: str, a: jax.Array, b: jax.Array, windows: Windows, groups: int, precision: Precision, dtype: Any
) -> jax.Array:
    if a.ndim == 3:  # sequences are images of one row
        a, b = (
            jnp.expand_dims(array, _row_axis(name)) for name, array in zip(OPERANDS[derivative], (a, b), strict=True)
        )
        result = RESULTS[derivative]
        return _on_cpu(derivative, a, b, _as_images(windows), groups, precision, dtype).squeeze(_row_axis(result))

    p = _problem(derivative, a, b, windows, groups, precision)
    rule = choose.rule_for(derivative, "cpu", p, plain=False, one_device=True)
    if a.dtype == "bfloat16" and not (rule.halves and p.onednn):
        a, b = a.astype("float32"), b.astype("float32")
        return _on_cpu(derivative, a, b, windows, groups, precision, dtype)
    parameters: dict[str, Any] = {"block": rule.block(p)} if rule.block else {}
    if rule.correlates:
        parameters["conv"] = partial(_on_cpu, FORWARD, dtype=a.dtype)
    if rule.rounds:
        parameters["preferred_element_type"] = a.dtype if dtype == a.dtype else "float32"

    def run(a: jax.Array, b: jax.Array) -> jax.Array:
        return rule.form(a, b, windows, groups, precision, **parameters)

    if not rule.copies:
        return run(a, b).astype(dtype)
    images = choose.COPIED_BYTES // p.image_bytes
    if derivative == KERNEL_GRAD:
        return sum_over_images(run, a, b, images).astype(dtype)
    if derivative == FORWARD:
        return map_over_images(lambda x: run(x, b), a, images).astype(dtype)
    return map_over_images(lambda dy: run(a, dy), b, images).astype(dtype)


def _row_axis(name: str) -> int:
    return 0 if name == "w" else 1


def _as_images(windows: Windows) -> Windows:
    """Returns windows over images of one row, in place of those over sequences."""
    return Windows((1, *windows.sizes), (1, *windows.window), (1, *windows.stride), (1, *windows.dilation),
                   ((0, 0), *windows.padding), (1, *windows.output))  # fmt: skip


def _problem(
    derivative: str, a: jax.Array, b: jax.Array, windows: Windows, groups: int, precision: Precision
) -> choose.Problem:
    arrays = dict(zip(OPERANDS[derivative], (a, b), strict=True))
    images = arrays["y" if derivative == INPUT_GRAD else "x"]
    if derivative == KERNEL_GRAD:
        channels, features = arrays["x"].shape[-1] // groups, arrays["y"].shape[-1] // groups
    else:
        channels, features = arrays["w"].shape[-2], arrays["w"].shape[-1] // groups
    return choose.Problem(
        images.shape[0], windows, channels, features, groups, a.dtype.itemsize, precision, onednn.supports(a, b)
    )
