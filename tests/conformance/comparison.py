"""One op against another over thousands of calls, and the books that are kept of it."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

#: The largest difference allowed, over the largest number expected (or 1).
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
CASES: Counter = Counter()
COMPARED: Counter = Counter()
LARGEST: Counter = Counter()
REFUSED: Counter = Counter()

#: What torch or ONNX does and the contract excludes: the words of our error, and why.
EXCLUDED = {
    "channels and spatial sizes of at least 1": "an empty axis other than the batch",
    "no empty axis but": "the same, of a convolution",
    "must leave something of x": "a crop that leaves an empty axis",
    "axis must be one of x's 0": "a softmax of a scalar, which has no axis",
    "with one to three spatial dimensions": "more than three spatial dimensions, or none",
    "lies wholly in the padding": "a window of nothing but padding has no mean and no maximum",
}
#: torch's derivatives of these hold alpha and 1/6 in float32.
OF_FLOAT32_CONSTANTS = {"celu", "elu", "hardsigmoid", "hardswish"}


def print_table():
    """How many comparisons there were and the largest error, by op and dtype."""
    print(f"\n{sum(CASES.values())} cases, {sum(COMPARED.values())} arrays compared")
    for op, dtype in sorted(COMPARED):
        print(f"{op:34} {dtype:9} {CASES[op, dtype]:5} {COMPARED[op, dtype]:6} {LARGEST[op, dtype]:.1e}")
    for (op, words), count in sorted(REFUSED.items()):
        print(f"refused: {op}: {words} ({EXCLUDED.get(words, 'an error there too')}): {count}")


class Comparison:
    """One op against another; the failures are gathered, so that a run shows them all."""

    def __init__(self, name, activation=False):
        self.name, self.activation, self.failures, self.count = name, activation, [], 0
        self.rng = np.random.default_rng(0)

    def assert_none_failed(self):
        shown = "\n".join(self.failures[:40])
        assert not self.failures, f"{len(self.failures)} of {self.count} cases of {self.name}:\n{shown}"

    def equal(self, what, actual, expected, dtype="float64", tolerance=None):
        """Whether two arrays are the same but for rounding; exactly so where they are integers."""
        actual, expected = np.asarray(actual), np.asarray(expected)
        COMPARED[self.name, dtype] += 1
        if actual.shape != expected.shape:
            self.failures.append(f"{what}: shape {actual.shape}, expected {expected.shape}")
            return
        if not actual.size:
            return
        if actual.dtype.kind in "iub" and expected.dtype.kind in "iub":
            error = 0.0 if (actual == expected).all() else math.inf
        else:
            actual, expected = actual.astype(float), expected.astype(float)
            finite = np.isfinite(expected)
            same = np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
            scale = max(1.0, np.abs(expected[finite]).max(initial=0))
            error = np.abs(actual[finite] - expected[finite]).max(initial=0) / scale if same else math.inf
        if error <= (tolerance or TOLERANCE[dtype]):  # NaN is not
            LARGEST[self.name, dtype] = max(LARGEST[self.name, dtype], error)
        else:
            self.failures.append(f"{what}: {dtype} error {error:.2e}")

    def refused(self, error, what):
        """Keep the books of an error of ours where the other side has a result."""
        for words in EXCLUDED:
            if words in str(error):
                REFUSED[self.name, words] += 1
                return
        self.failures.append(f"{what}: refused: {error}")

    def against_torch(self, torch, ours, theirs, args, kwargs, *, halves=None):
        """The same call on both sides: the outputs, and the gradients in every float tensor."""
        self.count += 1
        what = f"{shapes(args)} {shapes(kwargs)}"
        arguments = {**dict(enumerate(args)), **kwargs}
        floats = [k for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        floats = [k for k in floats if k != "_random_samples"]  # no derivative in those
        others = {k: jnp.asarray(v.detach().numpy()) if isinstance(v, torch.Tensor) else v
                  for k, v in arguments.items() if k not in floats}  # fmt: skip

        def call(*values):
            filled = {**others, **dict(zip(floats, values, strict=True))}
            result = ours(*[filled[k] for k in range(len(args))], **{k: filled[k] for k in kwargs})
            return (result[0], result[1:]) if isinstance(result, tuple) else (result, ())

        leaves = [arguments[k].detach().clone().requires_grad_() for k in floats]
        refilled = {**arguments, **dict(zip(floats, leaves, strict=True))}
        result = theirs(*[refilled[k] for k in range(len(args))], **{k: refilled[k] for k in kwargs})
        expected, *rest = result if isinstance(result, tuple) else (result,)
        values = [jnp.asarray(leaf.detach().numpy()) for leaf in leaves]
        ct = self.rng.normal(size=expected.shape)

        @jax.jit  # one compilation for all of it, where eagerly each primitive has its own
        def with_gradients(values, ct):
            y, pull, aux = jax.vjp(call, *values, has_aux=True)
            return y, aux, pull(ct)

        try:
            actual, aux, gradients = with_gradients(values, jnp.asarray(ct))
        except (ValueError, TypeError) as error:
            self.refused(error, what)
            return
        CASES[self.name, "float64"] += 1
        self.equal(what, actual, expected.detach())
        for one, other in zip(aux, rest, strict=True):
            self.equal(f"{what} indices", one, other)
        wanted = torch.autograd.grad(expected, leaves, torch.tensor(ct), allow_unused=True)
        for k, dx, other in zip(floats, gradients, wanted, strict=True):
            dx, other = np.asarray(dx), np.zeros(dx.shape) if other is None else other.numpy()
            if self.activation:
                # where x is NaN or infinite, derivatives are what the branches happen to give, in torch too
                usual = np.isfinite(arguments[k].detach().numpy())
                dx, other = np.where(usual, dx, 0), np.where(usual, other, 0)
            tolerance = 1e-7 if self.name in OF_FLOAT32_CONSTANTS else None
            self.equal(f"{what} gradient in {k}", dx, other, tolerance=tolerance)
        # one in some also in the narrower types, forward, against the same numbers in float64
        if self.count % 12 == 1 if halves is None else halves:
            for dtype in ("float32", "float16", "bfloat16"):
                narrow = [value.astype(dtype) for value in values]
                wide = [torch.tensor(np.asarray(value.astype("float64"))) for value in narrow]
                refilled = {**arguments, **dict(zip(floats, wide, strict=True))}
                result = theirs(*[refilled[k] for k in range(len(args))], **{k: refilled[k] for k in kwargs})
                actual = jax.jit(call)(*narrow)[0]
                CASES[self.name, dtype] += 1
                if actual.dtype != dtype:
                    self.failures.append(f"{what}: {actual.dtype} for {dtype}")
                self.equal(what, actual, result[0] if isinstance(result, tuple) else result, dtype)


def shapes(arguments):
    if isinstance(arguments, dict):
        return {k: shapes(v) for k, v in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return [shapes(v) for v in arguments]
    return (
        f"<{tuple(arguments.shape)}>" if hasattr(arguments, "shape") and not isinstance(arguments, tuple) else arguments
    )
