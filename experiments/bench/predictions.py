"""Predictions: our `make_predict` beside PyTorch's inference mode."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from absl import flags
from single_ops import normal, to_torch
from steps import STEPS, Step
from timing import Arrays, Contenders, Result, Run, compare

from cnnjax import models, train
from cnnjax.train import devices, optimizers, state

FLAGS = flags.FLAGS
BATCHES = (1, 32, 256)
#: Calls of 10 s and more, and activations of gigabytes: seven rounds of all contenders would take an hour.
TOO_LONG = (("VGG-11", 256),)


def time_predictions(peers: list[str]) -> Iterator[Result]:
    """Times the outputs of a batch that is on the host: ours, and PyTorch's in both layouts, eager and compiled.

    Batch norm has drawn statistics, so that none of it is the identity.
    """
    for case, batch in itertools.product(STEPS, BATCHES):
        name = f"{case.name}, predict {batch}"
        if FLAGS.only not in name or (case.name, batch) in TOO_LONG:
            continue
        x = case.deviation * normal((batch, case.size, case.size, case.channels))[0]
        arrays, own = own_prediction(case, x)
        contenders: Contenders = {"own": own, "own again": own}
        if "torch" in peers:
            for compiled, layout in itertools.product((False, True), ("contiguous_format", "channels_last")):
                contender = f"torch {layout}{' compiled' if compiled else ''}"
                contenders[contender] = torch_prediction(case, arrays, x, layout, compiled)
        yield compare(name, "prediction", contenders, tolerance=1e-4)


def own_prediction(case: Step, x: np.ndarray) -> tuple[dict[str, np.ndarray], Run]:
    """Returns the net's arrays by path, and our prediction."""
    net, first = state.initial(models.build({"model": case.model}), optimizers.optimizer("momentum", case.rate))
    rng = np.random.default_rng(2)
    arrays = {name: drawn(name, array, rng) for name, array in state.to_arrays(first).items()}
    mesh = devices.data_mesh()
    current = devices.replicate(mesh, state.from_arrays(arrays, like=first))
    predict = train.make_predict(net, mesh, None)
    by_path = {name.partition("/")[2]: one for name, one in arrays.items() if name.startswith(("params/", "rest/"))}
    return by_path, lambda: predict(current, x)


def drawn(name: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an array of a state, that of a batch norm drawn around what it is at first."""
    if "norm" not in name or not name.startswith(("params/", "rest/")):
        return array
    return array + rng.uniform(-0.5, 0.5, array.shape).astype(array.dtype)


def torch_prediction(case: Step, arrays: dict[str, np.ndarray], x: np.ndarray, layout: str, compiled: bool) -> Run:
    """Returns the prediction of PyTorch's net, with these weights and statistics."""
    import torch
    import torch_nets

    net = torch_nets.make_net(case.model["name"], arrays, case.maps, layout, **case.options).eval()
    batch = to_torch(x, kernel=False, layout=layout)
    called = torch.compile(net) if compiled else net

    def run() -> Arrays:
        with torch.inference_mode():
            return called(batch).numpy()

    return run
