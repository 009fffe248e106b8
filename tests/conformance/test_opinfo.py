"""PyTorch's own samples, thousands of calls, and its samples of errors.

Slow, and skipped where torch or its OpInfo module (which wants `expecttest`) is absent.  `pytest -n 0 -s -m slow`
prints how many comparisons there were and the largest error, by op and dtype.
"""

import functools
import warnings

import jax.numpy as jnp
import pytest

from tests.conformance.comparison import CASES, COMPARED, Comparison, shapes
from tests.conformance.functional import ACTIVATIONS, FUNCTIONAL, pad

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")]

#: Those of FUNCTIONAL that OpInfo does not know.
WITHOUT_SAMPLES = {"fold", "fractional_max_pool1d", "lp_pool1d", "lp_pool2d", "lp_pool3d"}

#: torch's errors about what cnnjax allows, by design: crops, wide padding that leaves no window empty, SAME strided.
LEGAL = ("pad must be non-negative", "negative padding", "at most half", "padding='same' is not supported")


@pytest.fixture(scope="module")
def op_db(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "torch.testing._internal.common_methods_invocations", reason="OpInfo", exc_type=ImportError
        )
    return module.op_db


def infos(op_db, name):
    # Tensor.unfold is another thing than nn.functional.unfold
    names = [f"nn.functional.{name}", *([] if name == "unfold" else [name])]
    found = [info for info in op_db if info.name in names]
    assert found, name
    return found


@pytest.mark.parametrize("name", sorted({*FUNCTIONAL, "constant_pad_nd"} - WITHOUT_SAMPLES))
def test_opinfo(torch, op_db, name):
    comparison = Comparison(name.replace("constant_pad_nd", "pad"), name in ACTIVATIONS)
    ours = FUNCTIONAL[comparison.name]
    if name == "constant_pad_nd":
        ours = functools.partial(lambda input, pads, value=0: pad(input, pads, value=value))
    for info in infos(op_db, name):
        torch.manual_seed(0)
        # the reference inputs hold the samples, and for activations many more, NaN and infinities among them
        samples = info.reference_inputs if info.reference_inputs_func else info.sample_inputs
        for sample in samples("cpu", torch.float64, requires_grad=True):
            args, kwargs = [sample.input, *sample.args], dict(sample.kwargs)
            if kwargs.get("training"):
                continue  # rrelu's draws are its own
            if name.startswith("max_pool") and not kwargs["return_indices"]:
                continue  # they stand there a second time, with the indices
            if name.startswith("fractional") and kwargs.get("_random_samples") is None:
                n = sample.input.shape[0] if sample.input.ndim == int(name[-2]) + 2 else 1
                kwargs["_random_samples"] = torch.rand(
                    n, sample.input.shape[-1 - int(name[-2])], int(name[-2])
                ).double()
            comparison.against_torch(torch, ours, info.op, args, kwargs)
    comparison.assert_none_failed()


@pytest.mark.parametrize("name", sorted({*FUNCTIONAL} - WITHOUT_SAMPLES))
def test_opinfo_errors(torch, op_db, name):
    passed = []
    for info in infos(op_db, name):
        for wrong in info.error_inputs("cpu") if info.error_inputs_func else ():
            sample = wrong.sample_input
            as_ours = [jnp.asarray(a.detach().numpy()) if isinstance(a, torch.Tensor) else a
                       for a in (sample.input, *sample.args)]  # fmt: skip
            CASES[f"{name} errors", "float64"] += 1
            COMPARED[f"{name} errors", "float64"] += 1
            try:
                y = FUNCTIONAL[name](*as_ours, **sample.kwargs)
            except (TypeError, ValueError):
                continue
            if not any(words in wrong.error_regex for words in LEGAL):
                passed.append(f"{wrong.error_regex}: {shapes(as_ours)} {sample.kwargs} gave {shapes(y)}")
    assert not passed, "\n".join(passed)
