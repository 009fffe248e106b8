"""The edge detector of the tutorials: K = (1, -1) finds vertical edges.

From its output the kernel is learned back.

  python experiments/edge_detection.py
  python experiments/edge_detection.py --kernel=laplace --image=photo.jpg --seeds=1

The first takes 10 to 20 s on two CPU cores. What to expect, jax 0.10.2:

The 6x8 image, summed squared error, 20 steps of gradient descent, learning rate 0.01: from kernels drawn from N(0, 1)
and bias 0, over 200 seeds, k1 = 0.917 ± 0.053, k2 = -0.917 ± 0.052, bias = 0.000 ± 0.006. The tutorial's 1.0110,
-1.0125, 0.0008 is one such end: it comes from a start, not published, with k1 - k2 = 2.30. From every start the
antisymmetric error (k1 - k2) / 2 - 1 shrinks to 0.0776 of what it was. Why: each step takes 2 learning_rate A e from
the error e of (k1, k2, bias); A = ((18, 12, 18), (12, 18, 18), (18, 18, 42)) sums the products of left pixel, right
pixel and 1 over the 42 output pixels. A (1, -1, 0) = 6 (1, -1, 0), so its share shrinks to
(1 - 2 * 0.01 * 6)^20 = 0.0776.

A photograph is brought to mean 0, variance 1 and at most 256 pixels a side, and the error is the mean over the pixels:
the sum over 54,864 of them would need a rate of 1e-6. Neighbours have nearly the same gray, so the eigenvalues of A
lie far apart (0.0066 to 8.2), and plain gradient descent (--momentum=0) still has errors of 0.03 to 0.23 after 1,000
steps. With momentum 0.9 each of the five 3x3 kernels comes back to within 0.01 in 150 to 383 steps, and to within 4e-6
in 1,000 (5 seeds).
The sample is grace_hopper.jpg, which comes with matplotlib: nothing is downloaded.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from cnnjax import layers, ops, report, train
from cnnjax.app import flags as shared
from cnnjax.app import process, settings
from cnnjax.errors import UserError
from cnnjax.train.state import initial

KERNELS = {
    "sobel_x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel_y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "prewitt_x": [[-1, 0, 1]] * 3,
    "prewitt_y": [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
    "laplace": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}
TUTORIAL = (1.0110, -1.0125, 0.0008)  # k1, k2 and bias after 20 steps from a start that was not published
LONGEST_SIDE = 256  # of the photograph, in pixels

FLAGS = flags.FLAGS
flags.DEFINE_integer("seeds", 5, "how many first kernels to start from", lower_bound=1)
flags.DEFINE_integer("steps", 20, "of gradient descent on the 6x8 image", lower_bound=1)
shared.define_float("learning_rate", "on the 6x8 image, for the summed squared error", 0.01, above=0)
flags.DEFINE_string("image", None, "a photograph of your own; by default grace_hopper.jpg of matplotlib")
flags.DEFINE_enum("kernel", "sobel_x", list(KERNELS), "the kernel to learn back on the photograph")
flags.DEFINE_integer("photo_steps", 1000, "of gradient descent on the photograph", lower_bound=1)
shared.define_float("photo_learning_rate", "on the photograph, for the mean squared error", 0.1, above=0)
shared.define_float("momentum", "of the gradient descent on the photograph; 0 for none", 0.9, least=0)
flags.DEFINE_string("output", "runs/edge_detection", "the folder of the figures")


def main(arguments: list[str]) -> None:
    """Detects edges, learns the kernels back, prints and draws."""
    settings.no_arguments(arguments)
    photograph, name = read_photograph(FLAGS.image)
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    columns(folder / "edges.png")
    filtered(photograph, name, folder / f"{FLAGS.kernel}.png")
    print(f"figures: {folder}")


def columns(path: Path) -> None:
    """Detects the edges of the 6x8 image, and learns the kernel back.

    (k1, k2, bias) are learned by the summed squared error.
    """
    x = jnp.ones((1, 6, 8, 1)).at[:, :, 2:6].set(0)
    y = ops.conv(x, jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1))
    print("K = (1, -1) on the 6x8 image; the output column by column:")
    for number, column in enumerate(np.asarray(y[0, :, :, 0]).T, start=1):
        print(f"  {number}  " + " ".join(f"{value:2.0f}" for value in column))

    steps, rate = FLAGS.steps, FLAGS.learning_rate
    kernels, biases, _ = learn(x, y, (1, 2), squared_error, optax.sgd(rate), steps, "--learning_rate")
    entries = {"k1": kernels[:, :, 0, 0], "k2": kernels[:, :, 0, 1], "bias": biases}
    errors = (entries["k1"] - entries["k2"]) / 2 - 1
    print(f"learned back, steps={steps}, learning_rate={rate:g}; the antisymmetric error is (k1 - k2) / 2 - 1:")
    print("                  k1       k2     bias    error: first     last    ratio")
    for seed, (error, *ends) in enumerate(zip(errors, *entries.values(), strict=True)):
        row = "".join(f"{end[-1]:9.4f}" for end in ends)
        print(f"  seed {seed:<4}{row}{error[0]:16.4f}{error[-1]:9.4f}{error[-1] / error[0]:9.4f}")
    tutorial = "".join(f"{value:9.4f}" for value in TUTORIAL)
    print(f"  tutorial {tutorial}{(TUTORIAL[0] - TUTORIAL[1]) / 2 - 1:25.4f}")
    print(f"  by the formula (1 - 12 learning_rate)^steps{(1 - 12 * rate) ** steps:28.4f}")
    report.learned_kernel(np.asarray(x[0, ..., 0]), np.asarray(y[0, ..., 0]), entries,
                          {"k1": 1.0, "k2": -1.0, "bias": 0.0}, path)  # fmt: skip


def filtered(photograph: np.ndarray, name: str, path: Path) -> None:
    """Filters the photograph, and learns the kernel back.

    It is learned by the mean squared error.
    """
    standard = (photograph - photograph.mean()) / photograph.std()
    x = jnp.asarray(standard, jnp.float32)[None, ..., None]
    kernel = np.array(KERNELS[FLAGS.kernel], np.float32)
    y = ops.conv(x, jnp.asarray(kernel)[..., None, None])
    optimizer = optax.sgd(FLAGS.photo_learning_rate, momentum=FLAGS.momentum or None)
    steps = FLAGS.photo_steps
    found, biases, losses = learn(
        x, y, kernel.shape, mean_squared_error, optimizer, steps, "--photo_learning_rate or --momentum"
    )
    errors = np.abs(found - kernel).max((2, 3))
    height, width = photograph.shape
    print(f"{FLAGS.kernel} on {name} ({height}x{width}), learned back, steps={steps}:")
    print("            error of the kernel     bias     loss   error below 0.01 from step")
    for seed, (error, bias, loss) in enumerate(zip(errors, biases, losses, strict=True)):
        first_below = np.flatnonzero(error >= 0.01).max(initial=-1) + 1 if error[-1] < 0.01 else "-"
        print(f"  seed {seed:<4}{error[-1]:20.1e}{abs(bias[-1]):9.0e}{loss[-1]:9.0e}{first_below:>29}")
    learned = ops.conv(x, jnp.asarray(found[0, -1])[..., None, None]) + biases[0, -1]
    images = {
        "photograph": photograph,
        FLAGS.kernel: np.asarray(y[0, ..., 0]),
        "by the kernel learned": np.asarray(learned[0, ..., 0]),
    }
    moments = sorted({0, min(10, steps), min(100, steps), steps})
    kernels = {FLAGS.kernel: kernel} | {f"step {moment}": found[0, moment] for moment in moments}
    report.learned_filter(images, kernels, errors, path)


def learn(
    x: jax.Array,
    y: jax.Array,
    window: Sequence[int],
    loss: train.Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    steps: int,
    too_large: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trains a one-channel `layers.Conv` to map x to y, once per seed.

    It is recorded before and after every step.

    Args:
      x: input image, `(1, H, W, 1)`.
      y: wanted output, `(1, H', W', 1)`.
      window: of the kernel.
      loss: `loss(output, wanted)`.
      optimizer: of optax.
      steps: number of updates.
      too_large: the flags to name in the error where gradient descent diverges.

    Returns:
      The kernels `(seeds, steps + 1, *window)`, the biases and the losses `(seeds, steps + 1)`.
    """
    normal = nnx.initializers.normal(1.0)
    nets, states = zip(
        *(
            initial(layers.Conv(1, 1, window, kernel_init=normal, rngs=nnx.Rngs(seed)), optimizer)
            for seed in range(FLAGS.seeds)
        ),
        strict=True,
    )
    update = train.make_update(nets[0], optimizer, loss)

    @jax.jit
    def run(states: train.TrainState, x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        def step(state: train.TrainState, _: None) -> tuple[train.TrainState, tuple[jax.Array, ...]]:
            after, metrics = update(state, x, y)
            return after, (state.params["kernel"][..., 0, 0], state.params["bias"][0], metrics["loss"])

        return jax.lax.map(lambda state: jax.lax.scan(step, state, length=steps + 1)[1], states)

    kernels, biases, losses = run(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), x, y)
    if not jnp.isfinite(losses).all():
        raise UserError(f"gradient descent runs away: give a smaller {too_large}.")
    return np.asarray(kernels), np.asarray(biases), np.asarray(losses)


def squared_error(output: jax.Array, wanted: jax.Array) -> jax.Array:
    """Returns the sum over all pixels."""
    return ((output - wanted) ** 2).sum()


def mean_squared_error(output: jax.Array, wanted: jax.Array) -> jax.Array:
    """Returns the mean over all pixels."""
    return ((output - wanted) ** 2).mean()


def read_photograph(path: str | None) -> tuple[np.ndarray, str]:
    """Reads an image file, or the sample, as gray values (H, W); returns its name too.

    The longer side has at most `LONGEST_SIDE` pixels.
    """
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    path = path or str(get_sample_data("grace_hopper.jpg", asfileobj=False))
    try:
        with Image.open(path) as file:
            gray = file.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--image={path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    gray.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    pixels = np.asarray(gray, np.float32)
    if min(pixels.shape) < 3 or pixels.std() == 0:
        raise UserError(f"--image={path} must have at least 3x3 pixels, not all of the same gray.")
    return pixels, Path(path).name


if __name__ == "__main__":
    process.run(main)
