"""Thousands of calls against PyTorch and ONNX: their own samples, and grids of torch.nn.functional.

Slow, and skipped where torch, its OpInfo module (which wants ``expecttest``) or onnx is absent.  ``pytest -n 0 -s``
prints how many comparisons there were and the largest error, by op and dtype.
"""

import functools
import math
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")]

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


# ---- the comparison ----


@pytest.fixture(scope="session")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def op_db(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "torch.testing._internal.common_methods_invocations", reason="OpInfo", exc_type=ImportError
        )
    return module.op_db


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print(f"\n{sum(CASES.values())} cases, {sum(COMPARED.values())} arrays compared")
    for op, dtype in sorted(COMPARED):
        print(f"{op:34} {dtype:9} {CASES[op, dtype]:5} {COMPARED[op, dtype]:6} {LARGEST[op, dtype]:.1e}")
    for (op, words), count in sorted(REFUSED.items()):
        print(f"refused: {op}: {words} ({EXCLUDED.get(words, 'an error there too')}): {count}")


class Comparison:
    """One op against another; the failures are gathered, so that a run shows them all."""

    def __init__(self, name):
        self.name, self.failures, self.count = name, [], 0
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
        what = f"{_shapes(args)} {_shapes(kwargs)}"
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
            if self.name in ACTIVATIONS:
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


def _shapes(arguments):
    if isinstance(arguments, dict):
        return {k: _shapes(v) for k, v in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return [_shapes(v) for v in arguments]
    return (
        f"<{tuple(arguments.shape)}>" if hasattr(arguments, "shape") and not isinstance(arguments, tuple) else arguments
    )


# ---- torch.nn.functional on top of cnnjax.ops: the same signatures, channels first ----


def last(x):
    return jnp.moveaxis(x, 1, -1)


def first(y):
    return jnp.moveaxis(y, -1, 1)


def turned(weight):
    """torch's (F, C // groups, *K) as (*K, C // groups, F); conv_transpose's (C_in, C_out // groups, *K) alike."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def spread(value, rank):
    """torch's int, or list of one or of rank, as rank entries; a name in capitals."""
    if isinstance(value, str):
        return value.upper()
    value = tuple(value) if hasattr(value, "__len__") else (value,)
    return value * rank if len(value) == 1 else value


def batched(rank, op, x, *args, **kwargs):
    """op on channels-last, with a batch axis where x has none."""
    alone = x.ndim == rank + 1
    y = op(last(x[None] if alone else x), *args, **kwargs)
    return jax.tree.map(lambda y: first(y)[0] if alone else first(y), y)


def conv(rank, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, **more):
    stride, padding, dilation = (spread(value, rank) for value in (stride, padding, dilation))
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return batched(rank, ops.conv, input, turned(weight), bias, **keywords, **more)


def conv_transpose(rank, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    stride, padding, dilation = (spread(value, rank) for value in (stride, padding, dilation))
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    output_padding = spread(output_padding, rank)
    return batched(rank, ops.conv_transpose, input, turned(weight), bias, output_padding=output_padding, **keywords)


def max_pool(rank, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    stride = None if stride in (None, (), []) else spread(stride, rank)
    keywords = {"padding": spread(padding, rank), "dilation": spread(dilation, rank), "ceil_mode": ceil_mode}
    keywords |= {"stride": stride, "return_indices": return_indices}
    return batched(rank, ops.max_pool, input, spread(kernel_size, rank), **keywords)


def avg_pool(
    rank, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    stride = None if stride in (None, (), []) else spread(stride, rank)
    keywords = {"padding": spread(padding, rank), "stride": stride, "ceil_mode": ceil_mode}
    keywords |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    return batched(rank, ops.avg_pool, input, spread(kernel_size, rank), **keywords)


def lp_pool(rank, input, norm_type, kernel_size, stride=None, ceil_mode=False):
    stride = None if stride is None else spread(stride, rank)
    keywords = {"p": norm_type, "stride": stride, "padding": 0, "ceil_mode": ceil_mode}
    return batched(rank, ops.lp_pool, input, spread(kernel_size, rank), **keywords)


def adaptive_avg_pool(rank, input, output_size):
    return batched(rank, ops.adaptive_avg_pool, input, spread(output_size, rank))


def adaptive_max_pool(rank, input, output_size, return_indices=False):
    return batched(rank, ops.adaptive_max_pool, input, spread(output_size, rank), return_indices=return_indices)


def fractional_max_pool(
    rank, input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    if output_size is None:
        ratio = spread(output_ratio, rank)
        output_size = [int(size * part) for size, part in zip(input.shape[-rank:], ratio, strict=True)]
    # ours are in axis order; torch's of two dimensions have the column before the row, of three the axis order
    samples = jax.lax.stop_gradient(_random_samples[..., ::-1] if rank == 2 else _random_samples)
    keywords = {"output_size": spread(output_size, rank), "samples": samples, "return_indices": return_indices}
    return batched(rank, ops.fractional_max_pool, input, spread(kernel_size, rank), **keywords)


def max_unpool(rank, input, indices, kernel_size, stride=None, padding=0, output_size=None):
    kernel_size = spread(kernel_size, rank)
    stride = kernel_size if stride is None else spread(stride, rank)
    if output_size is None:
        parts = zip(input.shape[-rank:], stride, spread(padding, rank), kernel_size, strict=True)
        output_size = [(size - 1) * s - 2 * p + k for size, s, p, k in parts]
    alone = input.ndim == rank + 1
    indices = last(indices[None] if alone else indices)
    return batched(rank, ops.max_unpool, input, indices, tuple(output_size)[-rank:])


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    x = input[None] if input.ndim == 3 else input
    window, keywords = spread(kernel_size, 2), {"stride": spread(stride, 2), "padding": spread(padding, 2)}
    cols = ops.unfold(last(x), window, dilation=spread(dilation, 2), **keywords)
    # ours are ordered tap, channel; torch's channel, tap, and the places last
    places, taps = math.prod(cols.shape[1:-1]), math.prod(window)
    cols = cols.reshape(x.shape[0], places, taps, x.shape[1]).transpose(0, 3, 2, 1)
    cols = cols.reshape(x.shape[0], x.shape[1] * taps, places)
    return cols[0] if input.ndim == 3 else cols


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    cols = input[None] if input.ndim == 2 else input
    rank = len(spread(output_size, 2))
    sizes, window = spread(output_size, rank), spread(kernel_size, rank)
    keywords = {"stride": spread(stride, rank), "padding": spread(padding, rank), "dilation": spread(dilation, rank)}
    taps = math.prod(window)
    n, _, places = cols.shape
    cols = cols.reshape(n, -1 if n else cols.shape[1] // taps, taps, places).transpose(0, 3, 2, 1)
    cols = cols.reshape(n, *ops.output_shape(sizes, window, **keywords), math.prod(cols.shape[2:]))
    x = first(ops.fold(cols, sizes, window, **keywords))
    return x[0] if input.ndim == 2 else x


def pad(input, pad, mode="constant", value=None):
    """The padded axes as the spatial ones of one channel; all before them as the batch."""
    pairs = tuple(zip(pad[::2], pad[1::2], strict=True))[::-1]
    rank = len(pairs)
    before, sizes = input.shape[: input.ndim - rank], input.shape[input.ndim - rank :]
    keywords = {"mode": "zeros", "value": value or 0.0} if mode == "constant" else {"mode": mode}
    y = ops.pad(input.reshape(math.prod(before), *sizes, 1), pairs, **keywords)
    return y.reshape(*before, *y.shape[1:-1])


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    # torch divides alpha by size, the paper and ours do not
    return first(ops.local_response_norm(last(input), size=size, alpha=alpha / size, beta=beta, k=k))


def shuffled(op, input, factor):
    """torch's pixel shuffles take any number of axes before (C, H, W)."""
    x = input.reshape(math.prod(input.shape[:-3]), *input.shape[-3:])
    y = first(op(last(x), factor))
    return y.reshape(*input.shape[:-3], *y.shape[1:])


FUNCTIONAL = {
    **{
        f"{op.__name__}{rank}d": functools.partial(op, rank)
        for op in (
            *(conv, conv_transpose, max_pool, avg_pool, lp_pool, adaptive_avg_pool),
            *(adaptive_max_pool, fractional_max_pool, max_unpool),
        )
        for rank in (1, 2, 3)
    },
    "unfold": unfold,
    "fold": fold,
    "pad": pad,
    "local_response_norm": local_response_norm,
    "pixel_shuffle": lambda input, upscale_factor: shuffled(ops.pixel_shuffle, input, upscale_factor),
    "pixel_unshuffle": lambda input, downscale_factor: shuffled(ops.pixel_unshuffle, input, downscale_factor),
    "channel_shuffle": lambda input, groups: first(ops.channel_shuffle(last(input), groups)),
}


def prelu(input, weight):
    x = input if input.ndim < 2 else last(input)  # torch's channels are axis 1
    y = ops.prelu(x, weight)
    return y if input.ndim < 2 else first(y)


OTHERS = set(FUNCTIONAL)
FUNCTIONAL |= {
    name: functools.partial(lambda op, input, **keywords: op(input, **keywords), getattr(ops, name))
    for name in (
        *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid"),
        *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "softshrink", "softsign", "tanh", "tanhshrink"),
    )
}
FUNCTIONAL |= {
    "exp": ops.exponential,
    "glu": lambda input, dim=-1: ops.glu(input, axis=dim),
    "log_softmax": lambda input, dim, dtype=None: ops.log_softmax(input, axis=dim),
    "prelu": prelu,
    "rrelu": lambda input, lower=1 / 8, upper=1 / 3, training=False: ops.rrelu(input, lower, upper),
    "softmax": lambda input, dim, dtype=None: ops.softmax(input, axis=dim),
    "softmin": lambda input, dim, dtype=None: ops.softmin(input, axis=dim),
    "softplus": lambda input, beta=1, threshold=20: ops.softplus(input, beta, threshold),
    "threshold": lambda input, threshold, value: ops.threshold(input, threshold, value),
}

ACTIVATIONS = set(FUNCTIONAL) - OTHERS
#: torch's derivatives of these hold alpha and 1/6 in float32.
OF_FLOAT32_CONSTANTS = {"celu", "elu", "hardsigmoid", "hardswish"}


# ---- PyTorch's samples ----

#: Those of FUNCTIONAL that OpInfo does not know.
WITHOUT_SAMPLES = {"fold", "fractional_max_pool1d", "lp_pool1d", "lp_pool2d", "lp_pool3d"}

#: torch's errors about what cnnjax allows, by design: crops, wide padding that leaves no window empty, SAME strided.
LEGAL = ("pad must be non-negative", "negative padding", "at most half", "padding='same' is not supported")


def infos(op_db, name):
    # Tensor.unfold is another thing than nn.functional.unfold
    names = [f"nn.functional.{name}", *([] if name == "unfold" else [name])]
    found = [info for info in op_db if info.name in names]
    assert found, name
    return found


@pytest.mark.parametrize("name", sorted({*FUNCTIONAL, "constant_pad_nd"} - WITHOUT_SAMPLES))
def test_opinfo(torch, op_db, name):
    comparison = Comparison(name.replace("constant_pad_nd", "pad"))
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
                passed.append(f"{wrong.error_regex}: {_shapes(as_ours)} {sample.kwargs} gave {_shapes(y)}")
    assert not passed, "\n".join(passed)


# ---- grids of torch.nn.functional ----


class Draw:
    """Arguments drawn with a fixed seed."""

    def __init__(self, torch, seed):
        self.torch, self.rng = torch, np.random.default_rng(seed)

    def int(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def ints(self, rank, low, high):
        return tuple(self.int(low, high) for _ in range(rank))

    def one(self, *choices):
        return choices[self.int(0, len(choices) - 1)]

    def array(self, *shape, kind="normal"):
        x = self.rng.normal(size=shape)
        if kind == "ties":
            x = np.round(x)
        elif kind != "normal" and x.size:
            odd = {"nan": [], "inf": [np.inf], "-inf": [-np.inf], "odd": [np.inf, -np.inf]}[kind]
            # few enough that no window of an average holds both infinities by intent, many enough to matter
            places = self.rng.integers(0, x.size, max(1, x.size // (3 if kind == "-inf" else 25)))
            if odd:
                x.flat[places] = self.rng.choice(odd, len(places))
            if kind in ("nan", "odd"):  # one to a plane: of several PyTorch's maximum is the last, ours the first
                planes = x.reshape(-1, np.prod(shape[2:], dtype=int))
                planes[np.arange(len(planes)), self.rng.integers(0, planes.shape[1], len(planes))] = np.nan
        return self.torch.tensor(x)


def flat(pairs):
    """Our pairs as F.pad's list, the last axis first."""
    return [side for pair in pairs[::-1] for side in pair]


def sizes_for(draw, window, dilation, pads, extra):
    """Spatial sizes that the dilated window fits, between nothing and extra larger than need be."""
    need = [(k - 1) * d + 1 - low - high for k, d, (low, high) in zip(window, dilation, pads, strict=True)]
    return [
        max(n, 1 + max(-low, 0) + max(-high, 0)) + draw.int(0, extra) for n, (low, high) in zip(need, pads, strict=True)
    ]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_conv(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, rank), Comparison(f"conv{rank}d grid")
    theirs = getattr(F, f"conv{rank}d")
    for count in range((110, 80, 40)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 1, 4 - (rank == 3)), draw.ints(rank, 1, 3), draw.ints(rank, 1, 3)
        groups, mode = draw.one(1, 1, 2, 3), draw.one("zeros", "zeros", "reflect", "replicate", "circular")
        pads = [(draw.int(-1, 3), draw.int(-1, 3)) for _ in range(rank)]
        sizes = [max(s, 5) for s in sizes_for(draw, window, dilation, pads, 3)]
        n, per_group = (0, 1)[count % 20 > 0] * draw.int(1, 2), draw.int(1, 3)
        features = groups * draw.int(1, 2)
        kind = "normal" if count % 8 or mode != "zeros" else "odd"
        args = [draw.array(n, groups * per_group, *sizes, kind=kind), draw.array(features, per_group, *window)]
        args += [draw.array(features)] if draw.int(0, 1) else []

        def ours(x, w, b=None, *, stride=stride, dilation=dilation, pads=pads, mode=mode, groups=groups, kind=kind):
            keywords = {"stride": stride, "dilation": dilation, "padding": pads, "padding_mode": mode, "groups": groups}
            # the door says by which ways NaN and infinities keep to the outputs that see them
            return first(ops.conv(last(x), turned(w), b, algorithm="auto" if kind == "normal" else "lax", **keywords))

        def padded(x, w, b=None, *, stride=stride, dilation=dilation, pads=pads, mode=mode, groups=groups):
            x = F.pad(x, flat(pads), mode="constant" if mode == "zeros" else mode)
            return theirs(x, w, b, stride=stride, dilation=dilation, groups=groups)

        comparison.against_torch(torch, ours, padded, args, {}, halves=None if kind == "normal" else False)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_conv_transpose(torch, rank):
    draw, comparison = Draw(torch, 10 + rank), Comparison(f"conv_transpose{rank}d grid")
    theirs = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    for count in range((90, 60, 30)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 1, 4 - (rank == 3)), draw.ints(rank, 1, 3), draw.ints(rank, 1, 3)
        groups, per_group, features = draw.one(1, 1, 2, 3), draw.int(1, 2), draw.int(1, 2)
        sizes = draw.ints(rank, 2, 4)
        reach = [(s - 1) * t + (k - 1) * d + 1
                 for s, t, k, d in zip(sizes, stride, window, dilation, strict=True)]  # fmt: skip
        padding = tuple(draw.int(0, min(3, (r - 1) // 2)) for r in reach)
        more = tuple(draw.int(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        n = 0 if count % 20 == 9 else draw.int(1, 2)
        args = [draw.array(n, groups * features, *sizes), draw.array(groups * features, per_group, *window)]
        args += [draw.array(groups * per_group)] if draw.int(0, 1) else []
        keywords = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
        ours = FUNCTIONAL[f"conv_transpose{rank}d"]
        comparison.against_torch(torch, ours, theirs, args, keywords | {"groups": groups})
    comparison.assert_none_failed()


@pytest.mark.parametrize("kind", ["normal", "ties", "nan", "inf", "-inf", "odd"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_max_pool(torch, rank, kind):
    F, draw, comparison = torch.nn.functional, Draw(torch, 20 + rank), Comparison(f"max_pool{rank}d grid")
    for count in range((20, 16, 10)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 2, 3), draw.ints(rank, 1, 3), draw.ints(rank, 1, 2)
        padding = tuple(draw.int(0, k // 2) for k in window)
        sizes = sizes_for(draw, window, dilation, [(0, 0)] * rank, 4)
        x = draw.array(0 if count == 5 else draw.int(1, 2), 2, *sizes, kind=kind)
        keywords = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": bool(draw.int(0, 1))}
        name = f"max_pool{rank}d"
        keywords |= {"kernel_size": window, "return_indices": True}
        halves = None if kind == "normal" else False
        comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), [x], keywords, halves=halves)
        if kind in ("-inf", "odd"):
            continue  # torch's own padding of -inf may win there
        pads = [(draw.int(0, k - 1), draw.int(0, k - 1)) for k in window]

        def padded(x, window=window, stride=stride, pads=pads, name=name):
            return getattr(F, name)(F.pad(x, flat(pads), value=-math.inf), window, stride)

        def ours(x, window=window, stride=stride, pads=pads):
            return first(ops.max_pool(last(x), window, stride=stride, padding=pads))

        comparison.against_torch(torch, ours, padded, [x], {}, halves=halves)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_avg_and_lp_pool(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, 30 + rank), Comparison(f"avg and lp pool{rank}d grid")
    mean = getattr(F, f"avg_pool{rank}d")
    for count in range((50, 40, 25)[rank - 1]):
        window, stride = draw.ints(rank, 1, 4), draw.ints(rank, 1, 3)
        sizes = sizes_for(draw, window, (1,) * rank, [(0, 0)] * rank, 5)
        x = draw.array(draw.int(0, 2) if count % 9 == 0 else 2, 2, *sizes, kind="nan" if count % 10 == 5 else "normal")
        keywords = {"padding": tuple(draw.int(0, k // 2) for k in window), "ceil_mode": bool(draw.int(0, 1))}
        keywords |= {"kernel_size": window, "stride": stride, "count_include_pad": bool(draw.int(0, 1))}
        if rank > 1 and draw.int(0, 3) == 0:
            keywords["divisor_override"] = draw.one(-2, 3, 7)
        halves = None if count % 10 != 5 else False
        comparison.against_torch(torch, FUNCTIONAL[f"avg_pool{rank}d"], mean, [x], keywords, halves=halves)
        pads = [(draw.int(0, k - 1), draw.int(0, k - 1)) for k in window]

        def ours(x, window=window, stride=stride, pads=pads):
            return first(ops.avg_pool(last(x), window, stride=stride, padding=pads))

        def padded(x, window=window, stride=stride, pads=pads):
            ones = F.pad(torch.ones_like(x), flat(pads))
            return mean(F.pad(x, flat(pads)), window, stride) / mean(ones, window, stride)

        comparison.against_torch(torch, ours, padded, [x], {}, halves=halves)

        # torch's lp_pool has no absolute value, ours has; torch scales the windows that ceil_mode cuts short
        def of_magnitudes(x, p, *args):
            args = [a[0] for a in args] if rank == 1 else args
            return getattr(F, f"lp_pool{rank}d")(x.abs(), p, *args)

        if count % 10 == 5:
            continue  # at NaN the derivative of a magnitude is NaN here, and 0 in torch

        p = draw.one(1.0, 2.0, 2.0, 3.0, 2.5, 4.0)
        comparison.against_torch(
            torch, FUNCTIONAL[f"lp_pool{rank}d"], of_magnitudes, [x, p, window, stride], {}, halves=halves
        )
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_pools_by_index(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, 40 + rank), Comparison(f"pools by index {rank}d grid")
    for count in range((30, 25, 15)[rank - 1]):
        kind = draw.one("normal", "ties", "nan", "inf")
        x = draw.array(0 if count == 5 else 2, 2, *draw.ints(rank, 4, 8), kind=kind)
        output = tuple(draw.one(None, draw.int(1, 9)) if rank > 1 else draw.int(1, 9) for _ in range(rank))
        halves = None if kind == "normal" else False
        for name, keywords in (("adaptive_avg_pool", {}), ("adaptive_max_pool", {"return_indices": True})):
            name = f"{name}{rank}d"
            if kind == "inf" and "avg" in name:
                continue
            ours, theirs = FUNCTIONAL[name], getattr(F, name)
            comparison.against_torch(torch, ours, theirs, [x, output], keywords, halves=halves)
        if rank > 1 and len(x):
            window = draw.ints(rank, 1, 3)
            most = 1 if rank == 2 else 0  # of three dimensions PyTorch refuses the largest
            output = tuple(draw.int(1, size - k + most) for size, k in zip(x.shape[2:], window, strict=True))
            samples = torch.tensor(draw.rng.uniform(size=(2, 2, rank)))
            keywords = {"output_size": output, "return_indices": True, "_random_samples": samples}
            name = f"fractional_max_pool{rank}d"
            args = [x, window]
            comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), args, keywords, halves=halves)
        if len(x):
            sizes = draw.ints(rank, 2, 5)
            plane = math.prod(sizes) * 2**rank
            indices = np.stack([draw.rng.permutation(plane)[: math.prod(sizes)] for _ in range(4)])
            indices = torch.tensor(indices.reshape(2, 2, *sizes))
            name = f"max_unpool{rank}d"
            args = [draw.array(2, 2, *sizes), indices, 2]
            comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), args, {})
    comparison.assert_none_failed()


def test_grid_fold(torch):
    F, draw, comparison = torch.nn.functional, Draw(torch, 50), Comparison("unfold and fold grid")
    for count in range(60):
        window, keywords = draw.ints(2, 1, 3), {name: draw.ints(2, 1, 3) for name in ("stride", "dilation")}
        keywords["padding"] = draw.ints(2, 0, 2)
        sizes = sizes_for(draw, window, keywords["dilation"], [(0, 0)] * 2, 4)
        x = draw.array(0 if count == 7 else draw.int(1, 2), 3, *sizes)
        comparison.against_torch(torch, unfold, F.unfold, [x[0] if count == 8 else x, window], keywords)
        if not len(x):
            continue
        cols = draw.array(*F.unfold(x, window, **keywords).shape)
        comparison.against_torch(torch, fold, F.fold, [cols[0] if count == 9 else cols, sizes, window], keywords)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_grid_pad(torch, rank, mode):
    F, draw, comparison = torch.nn.functional, Draw(torch, 60 + rank), Comparison("pad grid")
    for count in range(40):
        sizes = draw.ints(rank, 3, 6)
        most = {"reflect": 2, "circular": 2}.get(mode, 5)
        pads = [(draw.int(-1, most), draw.int(-1, most)) for _ in range(rank)]
        if mode == "circular":  # the circle closes over what the crop leaves
            pads = [(min(a, 1 + min(b, 0) + 1), min(b, 1 + min(a, 0) + 1)) for a, b in pads]
        elif mode in ("constant", "replicate") and count % 4 == 0:  # also past the other end
            further = int(mode == "replicate")  # torch's constant mode stops at the end
            pads[0] = draw.one((-sizes[0] - further, 3), (3, -sizes[0] - further))
        x = draw.array(0 if count == 5 else 2, 2, *sizes)
        keywords = {"mode": mode} | ({"value": draw.one(None, 0.5, -math.inf)} if mode == "constant" else {})
        comparison.against_torch(torch, pad, F.pad, [x, flat(pads)], keywords)
    comparison.assert_none_failed()


def test_grid_normalize_and_shuffle(torch):
    F, draw, comparison = torch.nn.functional, Draw(torch, 70), Comparison("normalise and shuffle grid")
    for count in range(60):
        rank, groups, r = draw.int(1, 3), draw.int(1, 3), draw.int(1, 3)
        n = 0 if count == 5 else 2
        x = draw.array(n, draw.int(1, 7), *draw.ints(rank, 1, 4))
        args = [x, draw.int(1, 9), draw.one(1e-4, 0.5, 2.0), draw.one(0.5, 0.75, 1.0, 2.0), draw.one(1.0, 2.0)]
        theirs = F.local_response_norm
        comparison.against_torch(torch, local_response_norm, theirs, args, {}, halves=None if n else False)
        x = draw.array(2, groups * draw.int(1, 3), *draw.ints(rank, 1, 4))
        comparison.against_torch(torch, FUNCTIONAL["channel_shuffle"], F.channel_shuffle, [x, groups], {})
        x = draw.array(2, groups * r * r, *draw.ints(2, 1, 3))
        comparison.against_torch(torch, FUNCTIONAL["pixel_shuffle"], F.pixel_shuffle, [x, r], {})
        x = draw.array(2, groups, *(r * size for size in draw.ints(2, 1, 3)))
        comparison.against_torch(torch, FUNCTIONAL["pixel_unshuffle"], F.pixel_unshuffle, [x, r], {})
    comparison.assert_none_failed()


# ---- ONNX's conformance data ----


def onnx_window(a, rank):
    """The keywords that ONNX's convolutions and pools share; its pads are all lows, then all highs."""
    pads = a.get("pads", [0] * 2 * rank)
    auto = a.get("auto_pad", "NOTSET")
    padding = [*zip(pads[:rank], pads[rank:], strict=True)]
    padding = {"NOTSET": padding, "SAME_UPPER": "SAME"}.get(auto, auto)
    ones = [1] * rank
    return {"stride": a.get("strides", ones), "dilation": a.get("dilations", ones), "padding": padding}


def onnx_pool(op, **more):
    def call(a, x):
        rank = x.ndim - 2
        keywords = {name: a[name] for name in more if name in a}
        keywords = {name: more[name](value) for name, value in keywords.items()}
        y = op(last(x), a["kernel_shape"], **onnx_window(a, rank), **keywords)
        return jax.tree.map(first, y)

    return call


def onnx_max_pool(a, x):
    rank = x.ndim - 2
    ceil_mode = bool(a.get("ceil_mode", 0))
    y, index = ops.max_pool(
        last(x), a["kernel_shape"], **onnx_window(a, rank), ceil_mode=ceil_mode, return_indices=True
    )
    n, channels, *sizes = x.shape
    if a.get("storage_order"):  # column-major within the plane
        index = jnp.ravel_multi_index(jnp.unravel_index(index, sizes)[::-1], sizes[::-1], mode="clip")
    # ONNX's indices are flat in the whole tensor
    image = np.arange(n * channels).reshape(n, channels, *(1,) * rank)
    return first(y), first(index) + image * math.prod(sizes)


def onnx_conv_transpose(a, y, w, b=None):
    rank = y.ndim - 2
    keywords = onnx_window(a, rank)
    if "output_shape" in a:
        # the pads follow from the shape, what does not divide evenly at the start; output_padding is at the end
        padding = []
        for axis, size in enumerate(a["output_shape"]):
            more = a["output_padding"][axis] if "output_padding" in a else 0
            reach = (w.shape[2 + axis] - 1) * keywords["dilation"][axis] + 1
            total = (y.shape[2 + axis] - 1) * keywords["stride"][axis] + reach + more - size
            padding.append((total - total // 2, total // 2 - more))
        keywords["padding"] = padding
    else:
        keywords["output_padding"] = a.get("output_padding", 0)
    return first(ops.conv_transpose(last(y), turned(w), b, groups=a.get("group", 1), **keywords))


def onnx_max_unpool(a, x, indices, output_shape=None):
    rank, n, channels = x.ndim - 2, *x.shape[:2]
    sizes = onnx_window(a, rank)
    plain = [(size - 1) * s + k - low - high for size, s, k, (low, high) in zip(
        x.shape[2:], sizes["stride"], a["kernel_shape"], sizes["padding"], strict=True)]  # fmt: skip
    plane = math.prod(plain)
    image = np.arange(n * channels).reshape(n, channels, *(1,) * rank) * plane
    # the indices speak of the shape without output_shape, whatever that is
    place = np.unravel_index(np.asarray(indices) - image, plain)
    sizes = plain if output_shape is None else [int(size) for size in output_shape[2:]]
    index = jnp.asarray(np.ravel_multi_index(place, sizes))
    return first(ops.max_unpool(last(x), last(index), sizes))


def onnx_pad(a, x, pads, value=None, axes=None):
    pads, axes = np.asarray(pads), range(x.ndim) if axes is None else np.asarray(axes) % x.ndim
    pairs = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        pairs[axis] = int(low), int(high)
    assert pairs[:2] == [(0, 0)] * 2, "batch and channels are not padded"
    mode = {"constant": "zeros", "edge": "replicate", "wrap": "circular"}.get(a.get("mode", "constant"), "reflect")
    return first(ops.pad(last(x), pairs[2:], mode=mode, value=0.0 if value is None else float(value)))


def onnx_col2im(a, cols, image, block):
    rank = len(image)
    keywords = onnx_window(a, rank)
    sizes, window = [int(i) for i in image], [int(i) for i in block]
    n, _, places = cols.shape
    cols = cols.reshape(n, -1, math.prod(window), places).transpose(0, 3, 2, 1)
    cols = cols.reshape(n, *ops.output_shape(sizes, window, **keywords), math.prod(cols.shape[2:]))
    return first(ops.fold(cols, sizes, window, **keywords))


def dealt(x, piles):
    """ONNX's mode DCR has the place in the block before the channel, ours (CRD) after: one deal apart."""
    return first(ops.channel_shuffle(last(x), piles))


def onnx_depth_to_space(a, x):
    r = a["blocksize"]
    x = x if a.get("mode", "DCR") == "CRD" else dealt(x, r * r)
    return first(ops.pixel_shuffle(last(x), r))


def onnx_space_to_depth(a, x):
    y = first(ops.pixel_unshuffle(last(x), a["blocksize"]))
    return y if a.get("mode", "DCR") == "CRD" else dealt(y, x.shape[1])


def of_one(op, **names):
    """An activation; names turn ONNX's attributes into ours."""
    return lambda a, x: op(x, **{ours: a[theirs] for theirs, ours in names.items() if theirs in a})


#: Per operator its attributes and inputs as a call of ours.
ONNX = {
    "AveragePool": onnx_pool(ops.avg_pool, ceil_mode=bool, count_include_pad=bool),
    "Celu": of_one(ops.celu, alpha="alpha"),
    "Col2Im": onnx_col2im,
    "Conv": lambda a, x, w, b=None: first(
        ops.conv(last(x), turned(w), b, groups=a.get("group", 1), **onnx_window(a, x.ndim - 2))
    ),
    "ConvTranspose": onnx_conv_transpose,
    "DepthToSpace": onnx_depth_to_space,
    "Elu": of_one(ops.elu, alpha="alpha"),
    "Gelu": of_one(ops.gelu, approximate="approximate"),
    "GlobalAveragePool": lambda a, x: jnp.expand_dims(ops.global_avg_pool(last(x)), tuple(range(2, x.ndim))),
    "GlobalMaxPool": lambda a, x: jnp.expand_dims(ops.global_max_pool(last(x)), tuple(range(2, x.ndim))),
    # its default slope is 0.2, Keras's of old; ours is PyTorch's and jax.nn's 1/6
    "HardSigmoid": lambda a, x: ops.hard_tanh(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": of_one(ops.hard_swish),
    "LRN": lambda a, x: local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1)),
    "LeakyRelu": lambda a, x: ops.leaky_relu(x, a.get("alpha", 0.01)),
    "LogSoftmax": of_one(ops.log_softmax, axis="axis"),
    "LpPool": onnx_pool(ops.lp_pool, p=float, ceil_mode=bool),
    "MaxPool": onnx_max_pool,
    "MaxUnpool": onnx_max_unpool,
    "Mish": of_one(ops.mish),
    "PRelu": lambda a, x, slope: ops.prelu(x, slope),
    "Pad": onnx_pad,
    "Relu": of_one(ops.relu),
    # any alpha and gamma there; selu has the paper's
    "Selu": lambda a, x: a.get("gamma", 1.0507009873554805) * ops.elu(x, a.get("alpha", 1.6732632423543772)),
    # lambd and a bias apart
    "Shrink": lambda a, x: (
        ops.hardshrink(x, a.get("lambd", 0.5)) - a.get("bias", 0.0) * jnp.sign(ops.hardshrink(x, a.get("lambd", 0.5)))
    ),
    "Sigmoid": of_one(ops.sigmoid),
    "Softmax": of_one(ops.softmax, axis="axis"),
    "Softplus": of_one(ops.softplus),
    "Softsign": of_one(ops.softsign),
    "SpaceToDepth": onnx_space_to_depth,
    "Swish": lambda a, x: ops.silu(a.get("alpha", 1.0) * x) / a.get("alpha", 1.0),
    "Tanh": of_one(ops.tanh),
    "ThresholdedRelu": lambda a, x: ops.threshold(x, a.get("alpha", 1.0)),
}


def test_onnx():
    helper = pytest.importorskip("onnx").helper
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    failures, seen = [], set()
    for case in cases:
        if len(case.model.graph.node) != 1 or case.model.graph.node[0].op_type not in ONNX:
            continue
        node = case.model.graph.node[0]
        seen.add(node.op_type)
        comparison = Comparison(f"onnx {node.op_type}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        for inputs, outputs in case.data_sets:
            CASES[comparison.name, "float32"] += 1
            given = iter(inputs)
            arrays = [jnp.asarray(next(given)) if name else None for name in node.input]
            try:
                result = ONNX[node.op_type](attributes, *arrays)
            except (ValueError, TypeError) as error:
                comparison.refused(error, case.name)
                result = ()
            results = result if isinstance(result, tuple) else (result,)
            for ours, theirs in zip(results, outputs, strict=False):
                # this one's data are printed with four digits
                tolerance = 1e-4 if case.name == "test_averagepool_2d_ceil_last_window_starts_on_pad" else None
                comparison.equal(case.name, ours, theirs, "float32", tolerance)
        failures += comparison.failures
    assert not failures, "\n".join(failures)
    assert seen == set(ONNX), set(ONNX) - seen
