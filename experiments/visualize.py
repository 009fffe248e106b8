"""Draw the inside of a trained net: kernels, feature maps, receptive fields, errors.

  python experiments/visualize.py --workdir=runs/...
  python experiments/visualize.py --workdir=runs/... --index=17
  python experiments/visualize.py --workdir=runs/... digit.png
  python experiments/visualize.py --workdir=runs/... --learning_rates=1,0.1,0.01
  python experiments/visualize.py --workdir=runs/... --html

It leaves PNG files in the workdir, and the same pictures among its TensorBoard events: kernels, kernels_of_all_layers,
feature_maps, receptive_fields, confusion and mistakes. With --learning_rates also learning_rates: the run's net from
weights drawn from its seed on, on its batches (without cutout and mixing), with plain SGD on the cross-entropy under
each of these rates. Too large a rate makes the loss oscillate, or ends it in NaN.

With --html it writes one file instead, look.html, which holds the net and runs it in any browser, from disk, without a
network: draw a digit and watch every layer, ask any unit what makes it, see a convolution in five ways.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from cnnjax import data, layers, models, report, train
from cnnjax.app import look, process
from cnnjax.app.augmentation import distortion
from cnnjax.app.console import progress
from cnnjax.app.restored import TrainedNet, dataset_of, in_memory, predict, restore, test_example
from cnnjax.errors import UserError
from cnnjax.inspect import Activation, activations, receptive_regions
from cnnjax.train.calls import updates_in_call
from cnnjax.train.devices import data_mesh, replicate
from cnnjax.train.metrics import softmax
from cnnjax.train.state import initial

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
flags.DEFINE_integer("step", None, "which checkpoint; by default the best by validation, else the newest")
flags.DEFINE_string("index", "0", "the number of the test example to look at, where no image file is given")
flags.DEFINE_list("learning_rates", [], "train afresh under each of these for a while, and draw the losses")
flags.DEFINE_integer(
    "updates",
    None,
    "how many updates under each learning rate; by default 200, more for batches below 64",
    lower_bound=1,
)
flags.DEFINE_integer("batch_size", None, "for --learning_rates; by default the run's", lower_bound=1)
flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets; by default as in training")
flags.DEFINE_boolean("html", False, "write look.html, a page that holds the net, in place of the pictures")
flags.DEFINE_string("output", None, "the folder for the pictures and their TensorBoard events; by default the workdir")

UPDATES_PER_CALL = 10


def main(arguments: list[str]) -> None:
    """Restores the net and draws the pictures."""
    rates = learning_rates(FLAGS.learning_rates)
    if len(arguments) > 1:
        raise UserError(f"give one image file, not {len(arguments)}: {' '.join(arguments)}.")
    if FLAGS.html and (arguments or rates):
        raise UserError("--html takes no image file and no --learning_rates: drop an image onto the page instead.")
    if FLAGS.html and FLAGS["index"].present:
        raise UserError("--html shows all test examples: leave --index out.")
    for name in ("updates", "batch_size"):
        if FLAGS[name].present and not rates:
            raise UserError(f"--{name} is for --learning_rates: give those, or leave it out.")
    net = restore(FLAGS.workdir, FLAGS.step)
    if FLAGS.html:
        return write_page(net)
    image = data.read_image(arguments[0], net.spec) if arguments else None  # before the data set, which takes long
    dataset, true = dataset_of(net.config, FLAGS.data_dir), None
    if image is None:
        title, image, true = test_example(dataset, net.spec, FLAGS.index)
    else:
        title = Path(arguments[0]).name
    folder = Path(FLAGS.output or FLAGS.workdir)
    folder.mkdir(parents=True, exist_ok=True)

    drawn = draw_inside(folder, net, image, title, true)
    if dataset.fits_in_memory(net.spec.resize_to) and not net.config.get("skip_corrupt"):
        loaded = in_memory(net.config, FLAGS.data_dir)
        drawn += draw_errors(folder, net, loaded)
        drawn += draw_learning_rates(folder, net, loaded, rates) if rates else []
    else:
        print(
            f"{dataset.name} does not fit in memory, or not all of it can be read: "
            "confusion.png and mistakes.png are those of the end of the run"
            f"{', and --learning_rates has no picture' if rates else ''}."
        )
    train.add_pictures(folder, net.step, drawn)
    print(
        f"checkpoint {net.step} of {FLAGS.workdir}, {title}; in {folder}: {', '.join(f'{name}.png' for name in drawn)}"
    )


def write_page(net: TrainedNet) -> None:
    """Writes look.html into the folder of the pictures."""
    tested = look.test_set(net, dataset_of(net.config, FLAGS.data_dir), FLAGS.data_dir)
    folder = Path(FLAGS.output or FLAGS.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    size = look.write_page(folder / "look.html", net, tested, look.records(FLAGS.workdir))
    print(
        f"checkpoint {net.step} of {FLAGS.workdir}; {folder / 'look.html'}: {size / 1e6:.2f} MB, open it in a browser"
    )


def learning_rates(words: list[str]) -> list[float]:
    """Returns the numbers of `--learning_rates`, each once."""
    rates: dict[float, None] = {}
    for word in words:
        try:
            rate = float(word)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise UserError(f"--learning_rates: {word!r} must be a finite number above 0, as in 0.5,0.05,0.005.")
        rates[rate] = None
    return list(rates)


def draw_inside(
    folder: Path,
    net: TrainedNet,
    image: np.ndarray,
    title: str,
    true: int | None = None,
) -> list[str]:
    """Draws the kernels, and the feature maps and receptive fields of one image.

    Returns the pictures' names.
    """
    model, config = net.model, net.config
    canvas = net.spec.as_input(image[None])
    x = net.spec.prepare(jnp.asarray(canvas, jnp.float32))
    logits = np.asarray(model(x), np.float32)
    try:
        seen = activations(model, x)
    except ValueError as error:  # a layer within a transformation of the net's own
        raise UserError(f"the layers of this net cannot be looked at: {error}.") from error
    kernels = kernels_of(seen)
    drawn: list[Path] = []
    if kernels:
        first = next(iter(kernels))
        drawn += report.kernels(kernels[first], folder / "kernels.png", f"kernels of {first}")
    if len(kernels) > 1:
        stacks = [(name, kernel.mean(2)) for name, kernel in kernels.items()]
        path = folder / "kernels_of_all_layers.png"
        drawn += report.maps(stacks, path, "kernels, each the mean over its inputs")

    guess, share = int(logits.argmax()), float(softmax(logits).max())
    stacks = [(name, squeezed(np.asarray(output[0], np.float32))) for name, _, output in seen]
    if not (stacks and np.array_equal(stacks[-1][1], logits[0])):
        stacks.append(("logits", logits[0]))
    drawn += report.maps(
        stacks,
        folder / "feature_maps.png",
        f"{title}: predicted {config['class_names'][guess]}, {100 * share:.0f} %\nthe layers' own outputs, without the "
        "activation functions that follow",
        image=canvas[0],
        names=config["class_names"],
        predicted=guess,
        true=true,
    )
    fields = [(region.name, region.pixels) for region in receptive_regions(model, x.shape[1:])]
    if fields:
        what = f"{title}: the pixels that the centre unit of each layer sees"
        drawn += report.receptive_fields(canvas[0], fields, folder / "receptive_fields.png", what)
    return [path.stem for path in drawn]


def kernels_of(seen: list[Activation]) -> dict[str, np.ndarray]:
    """Returns the kernels (H, W, C, F) of the 2-D convolutions but 1x1, by name.

    They are in the order of the layers.
    """
    convolutions = (layers.Conv, layers.ConnectedConv, nnx.Conv)
    found = {one.name: np.asarray(one.layer.kernel[...]) for one in seen if isinstance(one.layer, convolutions)}
    return {name: kernel for name, kernel in found.items() if kernel.ndim == 4 and kernel.shape[:2] != (1, 1)}


def squeezed(output: np.ndarray) -> np.ndarray:
    """Flattens maps of a single pixel, (1, 1, C) -> (C,); leaves others unchanged."""
    return output.reshape(-1) if output.size == output.shape[-1] else output


def draw_errors(folder: Path, net: TrainedNet, dataset: data.Dataset) -> list[str]:
    """Draws the confusion matrix and the surest mistakes on the test set.

    Returns the pictures' names.
    """
    images = net.spec.on_host(dataset.test_images)
    logits = predict(net, images)
    names, labels = net.config["class_names"], dataset.test_labels
    report.confusion(labels, logits.argmax(-1), names, folder / "confusion.png")
    report.mistakes(images, labels, softmax(logits), names, folder / "mistakes.png")
    return ["confusion", "mistakes"]


def draw_learning_rates(folder: Path, net: TrainedNet, dataset: data.Dataset, rates: list[float]) -> list[str]:
    """Draws the loss of the first updates under each learning rate.

    Returns the picture's name.
    """
    config = net.config
    names = [field.name for field in dataclasses.fields(train.Options)]
    options = train.Options(**{name: config[name] for name in names if name in config})
    size = FLAGS.batch_size or options.batch_size
    images, labels, *_ = data.hold_out(dataset, options.validation, options.seed)
    training = train.Examples(net.spec.on_host(images), labels)
    updates = FLAGS.updates or max(200, 200 * 64 // size)  # of small batches it takes more of them to see anything
    curves = losses(net, training, options, rates, updates, size)
    title = f"{config['model']['name']} on {config['dataset']}: SGD, batches of {size}"
    report.learning_rates(curves, folder / "learning_rates.png", title, classes=len(config["class_names"]))
    return ["learning_rates"]


def losses(
    restored: TrainedNet,
    training: train.Examples,
    options: train.Options,
    rates: list[float],
    updates: int,
    batch_size: int,
) -> dict[float, np.ndarray]:
    """Returns the loss before each of the first updates of SGD, by learning rate.

    A curve ends with its first loss that is not finite.
    """
    mesh = data_mesh()
    if batch_size % mesh.size:
        raise UserError(f"--batch_size={batch_size} cannot be shared out over {mesh.size} devices: give a multiple.")
    # with the rate in the state, all rates share one compilation
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1.0)
    net, start = initial(models.build(restored.config), optimizer)
    config = restored.config
    crops = config["augment"] and not config.get("random_resized_crops")  # those are made as photographs are read
    augment = distortion(restored.spec, lambda: training.x, augment=crops)
    step = train.make_train_step(train.make_update(net, optimizer, seed=options.seed))
    make = train.make_batches(mesh, options.seed, restored.spec.prepare, augment)
    images, labels = replicate(mesh, training)

    def batches() -> Iterator[tuple[jax.Array, jax.Array]]:
        done = 0
        while done < updates:
            count = updates_in_call(done, max(options.updates_per_call or 1, UPDATES_PER_CALL), updates)
            chosen = data.indices(options.seed, done, count, len(training), batch_size)
            yield make(images, labels, chosen, np.int32(done))
            done += count

    curves = {}
    for rate in rates:
        state = jax.tree.map(jnp.copy, start)  # the step takes the one it is given
        state.opt_state.hyperparams["learning_rate"] = jnp.float32(rate)
        state, curve = replicate(mesh, state), np.zeros(0)
        with progress(updates, 0) as bar:
            bar.set_description(f"learning rate {rate:g}")
            for x, y in batches():
                state, metrics = step(state, x, y)
                curve = np.append(curve, np.asarray(metrics["loss"]))
                bar.update(len(x))
                if not np.isfinite(curve).all():
                    break
        curves[rate] = curve[: report.finite_length(curve) + 1]
    return curves


if __name__ == "__main__":
    process.run(main)
