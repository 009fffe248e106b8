"""The pages of the other nets, with drawn weights: every unit can be asked, every view opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, models
from cnnjax.app import look
from cnnjax.app.restored import TrainedNet

NETS: dict[str, tuple[dict[str, Any], int, int]] = {
    "LeNet-5 of 1998": ({"name": "lenet5-1998"}, 32, 1),
    "CIFAR net": ({"name": "cifar_cnn", "batch_norm": True, "widths": (40, 8)}, 32, 3),
    "AlexNet": ({"name": "alexnet", "size": 63, "width": 6, "dense": 16}, 63, 3),
    "ResNet-18": ({"name": "resnet18", "width": 3}, 32, 3),
}


#: Long to compile.
SLOW = ("ResNet-18",)
#: What JavaScript makes of a value that is not there.
BAD = ("[object", "undefined", "NaN")
#: Asks the first and the last unit of each layer: its number, place, shown and computed value, and what is said of it.
ASK = """
const found = [], words = (id) => document.getElementById(id).textContent;
look.state.nodes.forEach(({shape}, node) => {
  const [H, W, C] = shape.length === 3 ? shape : [1, 1, shape[0]];
  for (const one of [{node, y: 0, x: 0, c: 0}, {node, y: H - 1, x: W - 1, c: node ? C - 1 : 0}]) {
    look.choose(one, "keyboard");
    const value = look.state.values[node][(one.y * W + one.x) * C + one.c];
    found.push([node, words("unit-where"), words("unit-value"), value, words("unit")]);
  }
});
return found;
"""
#: Opens the six views of the first unit of each convolution.
OPEN = """
const found = [];
for (const {value} of document.querySelectorAll("#view-layer option")) {
  look.five.choose({node: +value, y: 0, x: 0, c: 0});
  for (let view = 0; view < 6; view++) {
    look.five.open(view);
    found.push([+value, view, document.getElementById("view-panel").textContent]);
  }
}
return found;
"""


def write(folder: Path, config: dict[str, Any], size: int, channels: int) -> Path:
    """Writes the page of a net that nobody trained, with forty images of stripes."""
    model = models.build({"model": config})
    model.eval()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    stripes = [np.sin(7 * (a * rows + b * columns) + c) for a, b, c in rng.uniform(0, 2, (40 * channels, 3))]
    images = (127 + 120 * np.stack(stripes).reshape(40, channels, size, size).transpose(0, 2, 3, 1)).astype(np.uint8)
    spec = data.InputSpec(size=size, channels=channels, mean=(0.5,) * channels, std=(0.3,) * channels)
    described = {"model": config, "dataset": "stripes", "class_names": [f"kind {i}" for i in range(10)]}
    net = TrainedNet(model, spec, 7, described)
    outputs = np.asarray(jax.jit(lambda x: model(spec.prepare(x)))(jnp.asarray(images, jnp.float32)))
    tested = look.Tested(images, np.arange(40) % 10, outputs, np.arange(40), 40)
    look.write_page(folder / "look.html", net, tested, [])
    return folder / "look.html"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETS])
def test_every_unit_and_view(browser, tmp_path: Path, name: str) -> None:
    browser.get_log("browser")
    browser.get(write(tmp_path, *NETS[name]).as_uri())
    assert browser.execute_script("return look.worst") < 1e-5
    asked = browser.execute_script(ASK)
    assert {number for number, *_ in asked} == set(range(asked[-1][0] + 1))
    for number, where, shown, computed, words in asked:
        assert where and words and not any(bad in words for bad in BAD), (number, words)
        if number:
            assert float(shown.replace("−", "-")) == pytest.approx(computed, rel=1e-3, abs=1e-9)
    opened = browser.execute_script(OPEN)
    assert len(opened) % 6 == 0 and opened
    for number, view, words in opened:
        assert len(words) > 100 and not any(bad in words for bad in BAD), (number, view, words)
    assert browser.get_log("browser") == []


def test_the_distances_of_lenet5_of_1998(browser, tmp_path: Path) -> None:
    """Beside each probability a bitmap and the distance to it; the nearest is the answer."""
    browser.get(write(tmp_path, *NETS["LeNet-5 of 1998"]).as_uri())
    found = browser.execute_script("return [...document.querySelectorAll('.distance')].map((one) => +one.textContent)")
    logits = browser.execute_script("return [...look.state.values.at(-1)]")
    np.testing.assert_allclose(found, np.negative(logits), rtol=0.006)
    assert browser.execute_script("return document.querySelectorAll('.probabilities .bitmap').length") == 10
    answer = browser.execute_script("return document.querySelector('.answer b').textContent")
    assert answer == f"kind {int(np.argmin(found))}"
