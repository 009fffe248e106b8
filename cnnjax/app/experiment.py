"""An experiment on images, from flags to pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from flax import nnx

from cnnjax import data, describe, layers, models, train
from cnnjax.app import augmentation, examples, pictures, seeds, settings
from cnnjax.app.console import Console
from cnnjax.app.examples import Prepared
from cnnjax.app.start import start_from
from cnnjax.app.summary import print_files, print_header, print_scores
from cnnjax.errors import UserError
from cnnjax.train import checkpoint, devices, run_dir

FLAGS = flags.FLAGS

RESIZE_RATIO = 256 / 224
"""Resize-to-crop ratio of AlexNet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Describes an experiment on images: net, recipe, input.

    Attributes:
      name: of the experiment, for the default workdir.
      model: name and keywords for `models.build`; the number of classes and channels come from the data set.
      recipe: values of the flags that are not given, and of options that have no flag.
      size: side of the square images that the model takes; smaller ones are padded, see `data.pad_to_square`. None
        takes images as they are stored.
      resize: whether images of other sizes are resized to `size`, see `data.resize`.
      crops: whether they are resized to 8/7 of `size` where `--augment` is on: the model sees random crops, mirrored
        and with jittered colours.
      random_resized: for photographs: with `--augment` the model sees random crops of random shape, resized and
        mirrored, see `data.random_resized_crops`; it is evaluated on the centre of images resized to 8/7 of `size`.
      ten_crop: with `crops`, evaluate by the mean over ten crops, see `data.ten_crops`, not by the centre crop alone;
        by default with `--augment`.
      channels: that the model takes, 1 or 3; by default those of the data set.
      pixels: what 0 and 255 become, see `data.InputSpec.with_pixels`.
      standard: in place of `pixels`: mean and deviation of each channel, of pixels in 0..1.
      warmup_epochs: epochs in which the learning rate rises where `--warmup` is not given; at most half of the run.
      first_layer: layer whose kernels are drawn: its path in the parameters, such as `"blocks/0/conv"`; None finds it.
      crop: `pad` and `mode` of `data.crop_flip`, by which `--augment` crops colour images of the net's own size.
      whole_cutout: as for `augmentation.augmentation`.
      distort: as `own` for `augmentation.augmentation`.
      start: sets what a new run starts from beside what is drawn, from the net and the training images as it sees them.
      loss: as for `train.fit`; None means the cross-entropy.
      before_epoch: makes `train.fit`'s argument from the model.
      settings: what else decides the numbers, for the config.
    """

    name: str
    model: Mapping[str, Any]
    recipe: Mapping[str, Any]
    size: int | None
    resize: bool = False
    crops: bool = False
    random_resized: bool = False
    ten_crop: bool | None = None
    channels: int | None = None
    pixels: tuple[float, float] | str | None = None
    standard: examples.Standard | None = None
    warmup_epochs: int = 0
    first_layer: str | None = "conv1"
    crop: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    whole_cutout: bool = False
    distort: train.Augment | None = None
    start: Callable[[nnx.Module, Prepared], nnx.Module] | None = None
    loss: train.Loss | None = None
    before_epoch: Callable[[nnx.Module], train.BeforeEpoch] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def resize_to(self) -> int | None:
        """Returns the side to resize to; None where images are padded, or taken as they are."""
        if self.size is None or not (self.crops or self.resize or self.random_resized):
            return None
        larger = self.random_resized or (self.crops and FLAGS.augment)
        return round(self.size * RESIZE_RATIO) if larger else self.size

    def input(self) -> examples.Input:
        """Returns how the net takes its images, as the flags have it."""
        return examples.Input(
            size=self.size,
            resize_to=self.resize_to(),
            channels=self.channels,
            pixels=self.pixels,
            standard=self.standard,
            views=self.views(),
            random_resized=self.random_resized and bool(FLAGS.augment),
        )

    def views(self) -> str | None:
        """Returns the views by which the net is evaluated, see `data.InputSpec`; None for its default."""
        if FLAGS.tta != "none":
            if self.ten_crop:
                raise UserError(f"--tta={FLAGS.tta} and --ten_crop are two ways to evaluate: give one of them.")
            return FLAGS.tta
        ten_crop = self.crops and (FLAGS.augment if self.ten_crop is None else self.ten_crop)
        return "ten_crop" if ten_crop else None


def run(experiment: Experiment) -> None:
    """Trains the experiment's net on `--dataset`, or resumes its run, and reports; once, or for each of `--seeds`."""
    options = settings.options(experiment.recipe)
    if options.optimizer == "sdlm" and experiment.before_epoch is None:
        raise UserError("--optimizer=sdlm needs the curvature that lenet5.py --variant=1998 computes: choose another.")
    if FLAGS.at_once and FLAGS.local_batch_norm:
        raise UserError("--local_batch_norm shares a batch out over devices, of which --at_once gives a net one.")
    augmentation.loss(experiment.loss), augmentation.metrics()  # refuse contradictions before the data are loaded
    prepared = examples.prepare(experiment.input())
    options = warmed_up(experiment, prepared, options)
    seeds.run_each(experiment.name, options, lambda runs: run_some(experiment, prepared, runs))


def warmed_up(experiment: Experiment, prepared: Prepared, options: train.Options) -> train.Options:
    """Returns the options with the warm-up of the recipe, in updates, where `--warmup` is not given."""
    if not experiment.warmup_epochs or FLAGS["warmup"].present:
        return options
    left = len(prepared.training) - options.validation
    if left <= 0:  # `fit` says what is wrong
        return options
    per_epoch = data.steps_per_epoch(left, options.batch_size)
    epochs = min(experiment.warmup_epochs, options.epochs / 2)
    return dataclasses.replace(options, warmup=round(epochs * per_epoch))


def run_some(experiment: Experiment, prepared: Prepared, runs: Mapping[Path, train.Options]) -> list[train.Result]:
    """Makes or goes on with a run in its folder, or with several at once, which differ in their seeds."""
    options, folder = next(iter(runs.values())), next(iter(runs))
    with contextlib.ExitStack() as stack:
        for own in runs:
            stack.enter_context(run_dir.claim(own))
        configs = [configuration(experiment, prepared, of_seed, own) for own, of_seed in runs.items()]
        augment = augmentation.augmentation(
            prepared, whole_cutout=experiment.whole_cutout, own=experiment.distort, **experiment.crop
        )
        nets = [make_net(experiment, prepared, config, own) for own, config in zip(runs, configs, strict=True)]
        counts = {"train": len(prepared.training), "test": len(prepared.test)}
        print_header(folder if len(runs) == 1 else folder.parent, configs[0], counts, options)
        if len(runs) > 1:
            print(f"{len(runs)} seeds at once, each in a folder of its own there")
        if (
            FLAGS.augment
            and prepared.spec.channels == 3
            and not prepared.spec.mirror
            and data.may_mirror(FLAGS.dataset)
        ):
            print("classes are named by numbers or single letters: images are taken for characters and not mirrored")
        if prepared.is_streamed:
            print("images are read and decoded when they are needed")
        show_layers(nets[0], prepared.spec)
        results = fit(experiment, prepared, runs, nets, configs[0], augment)
        for own, config, result in zip(runs, configs, results, strict=True):
            report_one(prepared, own, config, result, experiment.first_layer)
        return results


def make_net(experiment: Experiment, prepared: Prepared, config: Mapping[str, Any], folder: Path) -> nnx.Module:
    """Returns the net that a run starts from; one that goes on takes its parameters from its folder later."""
    net = models.build(config)
    if FLAGS.local_batch_norm:
        split_batch_norm(net, config["local_batch_norm"])
    if checkpoint.steps(folder):
        return net
    return start_from(experiment.start(net, prepared) if experiment.start else net, FLAGS.init_from)


def fit(
    experiment: Experiment,
    prepared: Prepared,
    runs: Mapping[Path, train.Options],
    nets: Sequence[nnx.Module],
    config: Mapping[str, Any],
    augment: train.Augment | None,
) -> list[train.Result]:
    """Trains the nets: a single one by itself, several at once."""
    spec, options = prepared.spec, next(iter(runs.values()))
    data = [prepared.splits(own.seed, own.validation) for own in runs.values()]
    arguments: dict[str, Any] = {
        "loss": augmentation.loss(experiment.loss),
        "metrics": augmentation.metrics(),
        "prepare": spec.prepare,
        "augment": augment,
        "views": spec.evaluation_views(),
        "before_epoch": experiment.before_epoch(nets[0]) if experiment.before_epoch else None,
        "config": {name: value for name, value in config.items() if name != "seed"},  # `fit` writes that
        "watch": Console(),
        **dataclasses.asdict(options),
        **({"validation": 0} if held_out_here(prepared, options) else {}),
    }
    seeds = [own.seed for own in runs.values()]
    del arguments["seed"]
    if len(runs) == 1:
        return [train.fit(nets[0], data[0], next(iter(runs)), seed=seeds[0], **arguments)]
    return train.fit_at_once(nets, data, list(runs), seeds, **arguments)


def report_one(
    prepared: Prepared, folder: Path, config: Mapping[str, Any], result: train.Result, first_layer: str | None
) -> None:
    """Draws the pictures of a run at its end and prints its scores; else says how to go on with it."""
    if not result.finished:
        command = settings.command_to_go_on(folder.parent if FLAGS.seeds else folder)
        print(f"stopped after update {int(result.state.step)}, saved. Go on with: {command}")
        return
    drawn = pictures.draw(folder, result, prepared, config, first_layer) if devices.is_main() else []
    print_scores(result, len(prepared.test))
    print_files(folder, drawn)


def held_out_here(prepared: Prepared, options: train.Options) -> bool:
    """True where validation examples are held out before `train.fit`: those of training are cropped at random there."""
    return prepared.random_resized and options.validation > 0


def split_batch_norm(net: nnx.Module, parts: int) -> None:
    """Lets each batch norm of a net normalise so many parts of a batch by themselves; raises UserError without any."""
    try:
        found = layers.split_batch_norm(net, parts)
    except ValueError as error:
        raise UserError(f"--local_batch_norm: {error}.") from error
    if not found:
        raise UserError("--local_batch_norm: this net has no batch norm; leave it out.")


def show_layers(net: nnx.Module, spec: data.InputSpec) -> None:
    """Prints the layer table; raises UserError where the net does not take such images."""
    try:
        describe(net, spec.shape)
    except ValueError as error:
        advice = "give another `image_size`" if "image_size" in FLAGS else "choose another data set"
        raise UserError(
            f"the net does not take images of {' x '.join(map(str, spec.shape))}: {error.__cause__ or error}; {advice}."
        ) from error


def configuration(experiment: Experiment, prepared: Prepared, options: train.Options, folder: Path) -> dict[str, Any]:
    """Returns what users of the net need, and what decides the numbers beside `train.fit`'s own arguments."""
    names, size = prepared.class_names, prepared.spec.size
    side = size[0] if size[0] == size[1] else list(size)
    return {
        "experiment": experiment.name,
        "dataset": FLAGS.dataset,
        "data_dir": data_dir(),
        "test_share": FLAGS.test_share,
        "class_names": list(names),
        "model": {"size": side, **experiment.model, "num_classes": len(names), "channels": prepared.spec.channels},
        "input": prepared.spec.to_json(),
        "init_from": FLAGS.init_from,
        "deterministic": FLAGS.deterministic,
        "seed": options.seed,
        **({"local_batch_norm": batch_norm_parts(folder)} if FLAGS.local_batch_norm else {}),
        **({"random_resized_crops": True} if prepared.random_resized else {}),
        **({"held_out": options.validation} if held_out_here(prepared, options) else {}),
        **augmentation.settings(),
        **experiment.settings,
    }


def batch_norm_parts(folder: Path) -> int:
    """Returns the parts of a batch with statistics of their own: the devices, or those that the run here began on."""
    return (run_dir.begun(folder) or {}).get("local_batch_norm") or jax.device_count()


def data_dir() -> str | None:
    """Returns where TFDS's data sets are looked for, absolute, so that predict.py finds them; None for its default."""
    given = FLAGS.data_dir or os.environ.get("TFDS_DATA_DIR")
    return None if given is None else os.path.abspath(given)
