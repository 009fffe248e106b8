"""Makes one HTML file of a net, its examples and its run."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import models, report, train
from cnnjax.app.look import contents
from cnnjax.app.look.contents import Tested
from cnnjax.app.look.graph import Node, read_graph
from cnnjax.app.restored import TrainedNet
from cnnjax.errors import UserError
from cnnjax.inspect import layer_table

#: In the order in which they need each other.
SCRIPTS = ("layers", "net", "paint", "picture", "maps", "numbers", "unit", "windows", "views", "run", "page")
#: Names for people.
TITLES = {
    "alexnet": "AlexNet",
    "cifar_cnn": "the CIFAR net",
    "lenet5": "LeNet-5",
    "lenet5-1998": "LeNet-5 of 1998",
    "mnist_cnn": "the MNIST net",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "vgg": "VGG",
}
DATASETS = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
#: Weights of a net that a page can hold.
MOST_BYTES = 10_000_000


def write_page(path: Path, net: TrainedNet, tested: Tested, records: Sequence[report.Record]) -> int:
    """Writes the page of a net.

    Args:
      path: the HTML file.
      net: of a run.
      tested: the test set, or some of it.
      records: of the run's `metrics.jsonl`.

    Returns:
      The file's size in bytes.

    Raises:
      UserError: the net has a layer that the page does not know, more weights than it can hold, or no test examples.
    """
    if not len(tested.labels):
        raise UserError("look.html needs test examples, and there are none.")
    if not np.isfinite(tested.outputs).all():
        raise UserError("look.html cannot show this net: it gives NaN or infinite outputs for test examples.")
    told = tell(net, tested, records)
    text = assemble(title_of(net.config), told)
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def tell(net: TrainedNet, tested: Tested, records: Sequence[report.Record]) -> dict[str, Any]:
    """Returns all that the page is told, as JSON has it."""
    config, spec = net.config, net.spec
    model = in_float32(net)
    nodes, weights = encode(read_graph(model, spec.shape))
    rows = contents.chosen(tested)
    where = {row: place for place, row in enumerate(rows)}
    images = np.ascontiguousarray(tested.images[rows])
    checked = images[: contents.IN_STRIP]
    outputs = np.asarray(jax.jit(lambda x: model(spec.prepare(x)))(jnp.asarray(checked, jnp.float32)), np.float32)
    mistakes = contents.surest_mistakes(tested)
    classes = len(config["class_names"])
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "dtype": config.get("dtype", "float32"),
        "step": net.step,
        "classes": list(config["class_names"]),
        "input": {"mean": list(spec.mean), "std": list(spec.std), "brightness": spec.brightness},
        "stored": list(spec.stored_shape[:2]) if spec.stored_shape and spec.resize_to is None else None,
        "drawing": contents.drawing(spec, tested.images),
        "nodes": nodes,
        "weights": weights,
        "examples": {
            "images": base64_of(images),
            "labels": tested.labels[rows].tolist(),
            "predicted": tested.predicted[rows].tolist(),
            "confidence": [float(f"{value:.6g}") for value in tested.confidence[rows]],
            "numbers": tested.numbers[rows].tolist(),
            "outputs": base64_of(outputs),  # JAX's, of the first: the page compares its own with them
        },
        "strip": [where[row] for row in contents.strip(tested)],
        "mistakes": [where[row] for row in mistakes],
        "wrong": int((tested.predicted != tested.labels).sum()),
        "tested": len(tested.labels),
        "total": tested.total,
        "confusion": report.confusion_matrix(tested.labels, tested.predicted, classes).tolist(),
        "curves": contents.curves(records),
        "table": [row._asdict() for row in layer_table(model, spec.shape)],
    }


def title_of(config: Mapping[str, Any]) -> str:
    """Returns the title of a run's page."""
    name = config["model"]["name"]
    return f"Inside {TITLES.get(name, name)}, trained on {DATASETS.get(config['dataset'], config['dataset'])}"


def in_float32(net: TrainedNet) -> Any:
    """Returns the net, computing in float32 as the page does, whatever it was trained in."""
    if net.config.get("dtype", "float32") == "float32":
        return net.model
    model = models.build({**net.config, "dtype": "float32"})
    _, params, rest = train.split(net.model)
    return train.load(model, params, rest)


def encode(nodes: Sequence[Node]) -> tuple[list[dict[str, Any]], str]:
    """Returns the nodes as JSON has them, and their arrays as one: float32, little-endian, base64.

    Raises:
      UserError: there are too many.
    """
    told, arrays, at = [], [], 0
    for node in nodes:
        places = {}
        for name, array in node.step.arrays.items():
            places[name] = {"at": at, "shape": list(array.shape)}
            arrays.append(np.asarray(array, "<f4").ravel())
            at += array.size
        told.append(
            {
                "name": node.name,
                "layer": node.layer,
                "kind": node.step.kind,
                "inputs": node.inputs,
                "shape": list(node.step.shape),
                "options": dict(node.step.options),
                "arrays": places,
            }
        )
    if 4 * at > MOST_BYTES:
        raise UserError(
            f"look.html cannot hold this net: its weights take {4 * at / 1e6:.1f} MB, and a page has up to "
            f"{MOST_BYTES / 1e6:.0f} MB. Train a narrower one."
        )
    return told, base64_of(np.concatenate([np.zeros(0, "<f4"), *arrays]))


def base64_of(array: np.ndarray) -> str:
    """Returns the bytes of an array in base64."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def assemble(title: str, told: Mapping[str, Any]) -> str:
    """Returns the page: the template with its style, its scripts and its data."""
    scripts = "\n".join(read(f"{name}.js") for name in SCRIPTS)
    # a `<` within a string of JSON could end the element that holds it
    parts = {
        "title": html.escape(title),
        "style": read("style.css"),
        "data": json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "script": scripts,
    }
    return re.sub(r"\[\[(\w+)\]\]", lambda found: parts[found[1]], read("look.html"))


def read(name: str) -> str:
    """Returns one of the files beside this one."""
    return resources.files("cnnjax.app.look").joinpath(name).read_text(encoding="utf-8")
