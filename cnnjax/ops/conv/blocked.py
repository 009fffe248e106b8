"""Few channels: neighbours of the last spatial dimension seen as channels of one wider pixel ("width-blocked").

A product with few channels leaves most of a vector register empty. With blocks of B neighbours, x (..., W, C) is
viewed as (..., W / B, B C), and a banded kernel computes B neighbouring outputs at a time.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.geometry import Windows, slide
from cnnjax.ops.patches import pad_spatial


def width_blocked(x: jax.Array, windows: Windows, block: int) -> tuple[jax.Array, Windows]:
    """Pads x (..., W, C) and views it as (..., W / B, B C), with the windows over it that give (..., W' / B, B F).

    Needs stride and dilation 1 in the last dimension. `banded_kernel` is the kernel of these windows.
    """
    x = pad_spatial(x, windows.exact_padding)
    *sizes, width, channels = x.shape
    block_taps = _block_taps(windows, block)
    count = -(-windows.output[-1] // block) + block_taps - 1
    blank = [(0, 0, 0)] * len(sizes)
    x = lax.pad(x, jnp.zeros((), x.dtype), [*blank, (0, count * block - width, 0), (0, 0, 0)])
    # The barrier keeps XLA from computing the padding again for each of the slices.
    x = lax.optimization_barrier(x.reshape(*sizes, count, block * channels))
    window = (*windows.window[:-1], block_taps)
    return x, slide(x.shape[1:-1], window, stride=windows.stride, dilation=windows.dilation)


def banded_kernel(w: jax.Array, windows: Windows, block: int) -> jax.Array:
    """Spreads w (..., k, C, F) to (..., taps, B C, B F): output o of a block sees w shifted by o."""
    *outer, k, channels, features = w.shape
    taps, blank, zero = _block_taps(windows, block), [(0, 0, 0)] * len(outer), jnp.zeros((), w.dtype)
    shifted = [lax.pad(w, zero, [*blank, (o, taps * block - k - o, 0), (0, 0, 0), (0, 0, 0)]) for o in range(block)]
    return jnp.stack(shifted, axis=-2).reshape(*outer, taps, block * channels, block * features)


def _block_taps(windows: Windows, block: int) -> int:
    return -(-(block + windows.window[-1] - 1) // block)
