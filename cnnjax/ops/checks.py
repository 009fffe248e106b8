"""Checks of the arrays and keywords that every op is given, with errors that say what to write instead.

Sizes and windows are checked in `cnnjax.ops.geometry`.
"""

from collections.abc import Iterable
from typing import SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.geometry import Ints, as_int

# None, a name as "highest", a `jax.lax.Precision`, a `jax.lax.DotAlgorithmPreset`, or a pair of names or `Precision`s.
Precision: TypeAlias = jax.lax.PrecisionLike
DType: TypeAlias = jax.typing.DTypeLike
Shaped = jax.Array | jax.ShapeDtypeStruct

# Names of `jax.lax.Precision` that `jax.default_matmul_precision` may hold.
PRECISIONS = ("default", "high", "highest", "bfloat16", "bfloat16_3x", "float32", "tensorfloat32", "fastest")
FLOAT_DTYPES = ("float32", "float64", "bfloat16", "float16")

# What users of PyTorch, Keras, lax, flax and ONNX type by habit, to cnnjax's spelling.
FOREIGN_KEYWORDS = {
    "strides": "stride",
    "window_strides": "stride",
    "window_stride": "stride",
    "kernel_size": "window",
    "kernel_shape": "window",
    "pool_size": "window",
    "window_shape": "window",
    "window_dimensions": "window",
    "ksize": "window",
    "pads": "padding",
    "auto_pad": "padding",
    "dilations": "dilation",
    "dilation_rate": "dilation",
    "kernel_dilation": "dilation",
    "rhs_dilation": "dilation",
    "window_dilation": "dilation",
    "lhs_dilation": "input_dilation",
    "base_dilation": "input_dilation",
    "feature_group_count": "groups",
    "num_groups": "groups",
    "group": "groups",
    "bias": "b",
    "weight": "w",
    "kernel": "w",
    "filters": "w",
    "rhs": "w",
    "transpose_kernel": "w as of the conv whose adjoint this is, (*K, C // groups, F)",
    "lhs": "x",
    "input": "x",
    "inputs": "x",
    "dim": "axis",
    "data_format": "channels-last arrays, (N, *S, C), always",
    "dimension_numbers": "channels-last arrays, (N, *S, C), always",
}


def check_keywords(op: str, given: Iterable[str], known: list[str]) -> None:
    """Refuses keywords that are not among the known, with cnnjax's spelling of what was meant."""
    for name in given:
        if name not in known:
            raise TypeError(_unknown_keyword(op, name, known))


def _unknown_keyword(op: str, name: str, known: list[str]) -> str:
    meant = FOREIGN_KEYWORDS.get(name)
    if name == "bias" and "use_bias" in known:  # of a layer
        meant = "use_bias"
    if meant in known:
        return f"{op} takes {meant}=, not {name}="
    if meant == "window" and "w" in known:
        return f"{op} takes no {name}=: the window is the shape of w, (*K, C // groups, F)"
    if meant is not None and " " in meant:
        return f"{op} takes no {name}=: it wants {meant}"
    return f"{op} takes no {name}=; its arguments are {', '.join(known)}"


def as_array(name: str, value: object) -> jax.Array:
    """Returns an array of JAX or NumPy, or a module's variable, as an array of JAX."""
    if not (isinstance(value, jax.Array) or hasattr(value, "__array__") or hasattr(value, "__jax_array__")):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSUmM":
        raise TypeError(f"{name} must be an array of numbers, got one of dtype {value.dtype}")
    return jnp.asarray(value)


def as_float_array(name: str, value: object) -> jax.Array:
    """Returns an array of one of the four float dtypes."""
    array = as_array(name, value)
    if array.dtype in FLOAT_DTYPES:
        return array
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        hint = f"complex is not supported; take {name}.real and {name}.imag, or jnp.abs({name})"
    else:
        hint = f"convert it first, as by {name}.astype(jnp.float32)" + (" / 255" if array.dtype == "uint8" else "")
    raise TypeError(f"{name} must be {', '.join(FLOAT_DTYPES[:-1])} or {FLOAT_DTYPES[-1]}, got {array.dtype}: {hint}")


def as_number_array(name: str, value: object) -> jax.Array:
    """Returns an array of one of the four float dtypes or of integers."""
    array = as_array(name, value)
    return array if jnp.issubdtype(array.dtype, jnp.integer) else as_float_array(name, array)


def as_flag(name: str, value: object) -> bool:
    """Returns True or False; refuses what merely counts as such."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_key(key: object) -> None:
    """Refuses all but one random key of JAX, typed or of uint32."""
    is_typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    if not is_typed and not (isinstance(key, jax.Array) and key.dtype == "uint32" and key.ndim == 1):
        raise TypeError(f"key must be one random key, as jax.random.key(0) gives, got {key!r}")


def as_number(name: str, value: object) -> float:
    """Returns a number that is known before compiling as Python's float."""
    number = value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(number)


def same_dtype(**arrays: jax.Array | None) -> None:
    """Refuses arrays that differ in dtype: JAX would promote them without a word."""
    dtypes = {name: str(array.dtype) for name, array in arrays.items() if array is not None}
    if len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{' and '.join(dtypes)} must share a dtype, got {listed}")


def spatial_rank(name: str, x: jax.Array) -> int:
    """Returns the number of spatial dimensions of an array `(N, *S, C)`."""
    rank = x.ndim - 2
    if not 1 <= rank <= 3:
        raise ValueError(
            f"{name} must be (N, *S, C) with one to three spatial dimensions, got shape {x.shape}; "
            f"one example alone needs a batch axis: {name}[None]"
        )
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have channels and spatial sizes of at least 1, got shape {x.shape}")
    return rank


def pooled_rank(x: jax.Array, window: Ints, name: str = "window") -> int:
    """Returns the number of spatial dimensions of a pool's x, `(N, *S, C)`.

    Where there is one, the window must be a sequence: an int would take one image, `(H, W, C)`, for a batch.
    """
    rank = spatial_rank("x", x)
    if rank == 1 and not hasattr(window, "__len__"):
        raise ValueError(
            f"{name} must be ({window!r},) where x has one spatial dimension, got {window!r} for x {x.shape}"
            "; if x is one image (H, W, C), give it a batch axis: x[None]"
        )
    return rank


def as_groups(groups: SupportsIndex) -> int:
    """Returns groups as Python's int."""
    if isinstance(groups, bool | np.bool_) or not hasattr(groups, "__index__"):
        raise TypeError(f"groups must be an int, got {groups!r}")
    groups = as_int("groups", groups)
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    return groups


def check_conv_arrays(x: Shaped, w: Shaped, b: jax.Array | None, groups: SupportsIndex) -> int:
    """Checks ranks and channels of a convolution's arrays, and recognises the layouts of other frameworks.

    Args:
      x: `(N, *S, C)`.
      w: `(*K, C // groups, F)`.
      b: `(F,)`, or None.
      groups: an int of any kind.

    Returns:
      The groups as Python's int.

    Raises:
      TypeError: groups is not an int.
      ValueError: shapes disagree.
    """
    groups = as_groups(groups)
    shapes = f"got x {x.shape}, w {w.shape}" + (f", groups {groups}" if groups > 1 else "")
    if w.ndim not in (3, 4, 5):
        raise ValueError(f"w must be (*K, C // groups, F) with one to three spatial dimensions, {shapes}")
    if x.ndim == w.ndim - 1:
        raise ValueError(f"x must be (N, *S, C) with exactly one batch axis, as x[None] has, {shapes}")
    if x.ndim != w.ndim:
        raise ValueError(f"x (N, *S, C) and w (*K, C // groups, F) must have the same number of axes, {shapes}")
    if 0 in x.shape[1:] or 0 in w.shape:
        raise ValueError(f"x and w must have no empty axis but x's batch, {shapes}")
    channels, features = x.shape[-1], w.shape[-1]
    if channels != w.shape[-2] * groups:
        raise ValueError(f"x's channels must be w's input channels times groups, {shapes}" + _layout_hint(x, w, groups))
    if features % groups:
        raise ValueError(f"groups must divide w's output channels, {shapes}")
    if b is not None and b.shape != (features,):
        hint = f"; {_turn_w(w)}" if b.shape == w.shape[:1] else ""
        raise ValueError(f"b must have shape ({features},), one per output channel of w, got {b.shape}{hint}")
    return groups


def check_transposed_arrays(y: jax.Array, w: jax.Array, b: jax.Array | None, groups: SupportsIndex) -> int:
    """Checks ranks and channels of a transposed convolution's arrays, and recognises other layouts.

    Args:
      y: `(N, *S', F)`.
      w: `(*K, C // groups, F)`.
      b: `(C,)`, or None.
      groups: an int of any kind.

    Returns:
      The groups as Python's int.

    Raises:
      TypeError: groups is not an int.
      ValueError: shapes disagree.
    """
    groups = as_groups(groups)
    shapes = f"got y {y.shape}, w {w.shape}" + (f", groups {groups}" if groups > 1 else "")
    if w.ndim not in (3, 4, 5):
        raise ValueError(f"w must be (*K, C // groups, F) with one to three spatial dimensions, {shapes}")
    if y.ndim == w.ndim - 1:
        raise ValueError(f"y must be (N, *S, F) with exactly one batch axis, as y[None] has, {shapes}")
    if y.ndim != w.ndim:
        raise ValueError(f"y (N, *S, F) and w (*K, C // groups, F) must have the same number of axes, {shapes}")
    if 0 in y.shape[1:] or 0 in w.shape:
        raise ValueError(f"y and w must have no empty axis but y's batch, {shapes}")
    if y.shape[-1] != w.shape[-1]:
        hint = ""
        if y.shape[1] == w.shape[-1]:
            hint = "; y looks channels-first: cnnjax wants (N, *S, F), jnp.moveaxis(y, 1, -1)"
        elif y.shape[-1] == w.shape[-2]:
            hint = "; w must be the kernel of the conv whose adjoint this is, as w.swapaxes(-1, -2) may be"
        elif y.shape[-1] == w.shape[0]:
            hint = f"; {_turn_w(w)}"
        raise ValueError(f"y's channels must be w's last axis, F, {shapes}{hint}")
    if y.shape[-1] % groups:
        raise ValueError(f"groups must divide y's channels, {shapes}")
    channels = w.shape[-2] * groups
    if b is not None and b.shape != (channels,):
        raise ValueError(f"b must have shape ({channels},), one per channel of the result, got {b.shape}")
    return groups


def _layout_hint(x: Shaped, w: Shaped, groups: int) -> str:
    """Says what to do where channels that disagree would agree in another framework's layout."""
    turn_x = "x looks channels-first: cnnjax wants (N, *S, C), jnp.moveaxis(x, 1, -1)"
    if x.shape[1] == w.shape[-2] * groups:
        return f"; {turn_x}"
    if x.shape[-1] == w.shape[1] * groups:
        return f"; {_turn_w(w)}"
    if x.shape[1] == w.shape[1] * groups:
        return f"; {turn_x}; {_turn_w(w)}"
    return ""


def _turn_w(w: Shaped) -> str:
    axes = ", ".join(map(str, (*range(2, w.ndim), 1, 0)))
    return f"w looks like PyTorch's (F, C // groups, *K): cnnjax wants (*K, C // groups, F), w.transpose({axes})"


def as_precision(precision: Precision) -> Precision:
    """Returns the precision of products, hashable; for None that of `jax.default_matmul_precision`, if there is one."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        if precision not in PRECISIONS:  # None, or the name of an algorithm for products of matrices
            return None
    for part in precision if isinstance(precision, tuple | list) else (precision,):
        if part is None or isinstance(part, jax.lax.DotAlgorithmPreset):
            continue
        try:
            jax.lax.Precision(part)
        except ValueError:
            raise ValueError(
                f"precision must be None, a jax.lax.Precision or its name, or two of them, got {precision!r}"
            ) from None
    return tuple(precision) if isinstance(precision, list) else precision


def check_output_dtype(preferred_element_type: DType | None) -> None:
    """Refuses a preferred_element_type that is neither None nor a float dtype that is switched on."""
    if preferred_element_type is None:
        return
    try:
        dtype = jnp.dtype(preferred_element_type)
    except TypeError:
        dtype = None
    if dtype is None or dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"preferred_element_type must be None or one of {', '.join(FLOAT_DTYPES)}, got {preferred_element_type!r}"
        )
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("preferred_element_type=float64 needs jax_enable_x64, which is off")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is none of the names allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def is_local(*arrays: jax.Array) -> bool:
    """True outside shard_map: every mesh axis is Auto. Inside, lax's own primitives know what to do."""
    meshes = (jax.typeof(a).sharding.mesh for a in arrays)
    return all(kind == jax.sharding.AxisType.Auto for mesh in meshes for kind in mesh.axis_types)
