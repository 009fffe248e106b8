"""The definitions, as nested loops in NumPy, float64: slow, and meant to be checked by eye.

Arrays are channels-last.  Windows are given in full: one int per spatial dimension, padding in (low, high)
pairs.  Gradients are written down beside the values: whatever y reads from x with a weight, dx gets back from
dy with the same weight.
"""

import itertools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def source(position, size, low, high, mode="zeros", hole=1):
    """The index of x that stands at a position of the padded x, along one dimension; None for a zero."""
    p = position - low
    if mode == "zeros":
        return p // hole if 0 <= p <= (size - 1) * hole + min(high, 0) and p % hole == 0 else None
    if mode == "replicate":
        return min(max(p, 0), size - 1)
    if mode == "reflect":
        return -p if p < 0 else p if p < size else 2 * (size - 1) - p
    if mode == "circular":  # over what a crop leaves
        first, count = max(-low, 0), size - max(-low, 0) - max(-high, 0)
        return first + (p - first) % count
    raise ValueError(mode)


def outputs(size, k, stride, pads, dilation, ceil_mode=False):
    """How many windows fit along one dimension."""
    low, high = pads
    extent = dilation * (k - 1) + 1
    count = 0
    while count * stride + extent <= size + low + high:
        count += 1
    if ceil_mode:
        if (count - 1) * stride + extent < size + low + high:
            count += 1
        if (count - 1) * stride >= size + low:
            count -= 1
    return count


def positions(window, o, stride, dilation):
    """Per tap of window o: its index, and where it stands in the padded input."""
    for t in itertools.product(*map(range, window)):
        yield t, [oi * s + ti * d for oi, s, ti, d in zip(o, stride, t, dilation, strict=True)]


def conv(x, w, b, dy, *, stride, padding, mode, dilation, holes, groups):
    """Cross-correlation y, and dx, dw, db for a cotangent dy (None: of zeros)."""
    *window, per_group, features = w.shape
    sizes = x.shape[1:-1]
    dilated = [(size - 1) * hole + 1 for size, hole in zip(sizes, holes, strict=True)]
    out = [outputs(*a) for a in zip(dilated, window, stride, padding, dilation, strict=True)]
    y = np.zeros((x.shape[0], *out, features))
    dy = np.zeros(y.shape) if dy is None else dy
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(features)
    for n, *o, f in np.ndindex(*y.shape):
        g = f // (features // groups)
        y[(n, *o, f)] = 0 if b is None else b[f]
        db[f] += dy[(n, *o, f)]
        for t, where in positions(window, o, stride, dilation):
            at = [
                source(p, size, low, high, mode, hole)
                for p, size, (low, high), hole in zip(where, sizes, padding, holes, strict=True)
            ]
            if None in at:
                continue
            for c in range(per_group):
                i, j = (n, *at, g * per_group + c), (*t, c, f)
                y[(n, *o, f)] += x[i] * w[j]
                dx[i] += dy[(n, *o, f)] * w[j]
                dw[j] += dy[(n, *o, f)] * x[i]
    return y, dx, dw, db


def windows(x, *window):
    """(N, *S', C, *K): what each window sees."""
    return sliding_window_view(x, window, tuple(range(1, 1 + len(window))))


def correlate(x, w):
    """`conv` without options, of arrays of any size and dtype: NumPy's longest floats for what half precision loses."""
    seen = windows(x, *w.shape[:-2])
    rank = w.ndim - 2
    return np.tensordot(seen, w, ((rank + 1, *range(rank + 2, 2 * rank + 2)), (rank, *range(rank))))


def linear_sample(plane, position):
    """A plane (*S) between its elements: each element counts by its nearness along each axis; zero outside."""
    value = 0.0
    for at in np.ndindex(*plane.shape):
        value += plane[at] * np.prod([max(0, 1 - abs(p - i)) for p, i in zip(position, at, strict=True)])
    return value


def deform_conv(x, w, offset, mask, b, *, stride, padding, dilation, groups, offset_groups):
    """Cross-correlation whose taps are displaced: y."""
    *window, per_group, features = w.shape
    rank, taps, channels = len(window), int(np.prod(window)), x.shape[-1]
    out = [outputs(*a) for a in zip(x.shape[1:-1], window, stride, padding, dilation, strict=True)]
    y = np.zeros((x.shape[0], *out, features))
    for n, *o in np.ndindex(*y.shape[:-1]):
        y[(n, *o)] = 0 if b is None else b
        for t, (tap, where) in enumerate(positions(window, o, stride, dilation)):
            for c in range(channels):
                group, offset_group = c // per_group, c // (channels // offset_groups)
                first = (offset_group * taps + t) * rank
                displaced = offset[(n, *o)][first : first + rank]
                at = [p - low + d for p, (low, _), d in zip(where, padding, displaced, strict=True)]
                value = linear_sample(x[n, ..., c], at)
                if mask is not None:
                    value *= mask[(n, *o, offset_group * taps + t)]
                for f in range(group * (features // groups), (group + 1) * (features // groups)):
                    y[(n, *o, f)] += value * w[(*tap, c % per_group, f)]
    return y


def max_pool(x, dy, *, window, stride, padding, dilation, ceil_mode):
    """The first largest element of each window (the first NaN, if any): y, its flat index, and dx."""
    sizes = x.shape[1:-1]
    out = [outputs(*a, ceil_mode=ceil_mode) for a in zip(sizes, window, stride, padding, dilation, strict=True)]
    y = np.zeros((x.shape[0], *out, x.shape[-1]))
    index, dx = np.zeros(y.shape, int), np.zeros(x.shape)
    for n, *o, c in np.ndindex(*y.shape):
        best = None
        for _, where in positions(window, o, stride, dilation):
            at = [source(p, size, low, high) for p, size, (low, high) in zip(where, sizes, padding, strict=True)]
            if None in at:
                continue
            value = x[(n, *at, c)]
            if best is None or value > x[best] or (np.isnan(value) and not np.isnan(x[best])):
                best = (n, *at, c)
        y[(n, *o, c)] = x[best]
        index[(n, *o, c)] = np.ravel_multi_index(best[1:-1], sizes)
        dx[best] += 0 if dy is None else dy[(n, *o, c)]
    return y, index, dx


def avg_pool(x, dy, *, window, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override):
    """The mean of each window: y, and dx."""
    sizes = x.shape[1:-1]
    out = [outputs(*a, ceil_mode=ceil_mode) for a in zip(sizes, window, stride, padding, dilation, strict=True)]
    y, dx = np.zeros((x.shape[0], *out, x.shape[-1])), np.zeros(x.shape)
    for n, *o, c in np.ndindex(*y.shape):
        met, count = [], 0
        for _, where in positions(window, o, stride, dilation):
            at = [source(p, size, low, high) for p, size, (low, high) in zip(where, sizes, padding, strict=True)]
            in_padded = all(p < size + low + high for p, size, (low, high) in zip(where, sizes, padding, strict=True))
            if None not in at:
                met.append((n, *at, c))
            count += in_padded if count_include_pad else None not in at
        count = divisor_override or count
        y[(n, *o, c)] = sum(x[i] for i in met) / count
        for i in met:
            dx[i] += 0 if dy is None else dy[(n, *o, c)] / count
    return y, dx


# ---- patches ----


def pad(x, dy, *, padding, mode, value):
    """x padded: y, and dx."""
    y = np.full((x.shape[0], *(s + low + high for s, (low, high) in zip(x.shape[1:], padding, strict=False)),
                 x.shape[-1]), float(value))  # fmt: skip
    dx = np.zeros(x.shape)
    for n, *p, c in np.ndindex(*y.shape):
        at = [source(i, size, *pair, mode) for i, size, pair in zip(p, x.shape[1:-1], padding, strict=True)]
        if None not in at:
            y[(n, *p, c)] = x[(n, *at, c)]
            dx[(n, *at, c)] += dy[(n, *p, c)]
    return y, dx


def unfold(x, dcols, *, window, stride, padding, dilation):
    """The input under each window, tap by tap: cols, and dx."""
    sizes = x.shape[1:-1]
    out = [outputs(*a) for a in zip(sizes, window, stride, padding, dilation, strict=True)]
    cols, dx = np.zeros((x.shape[0], *out, np.prod(window) * x.shape[-1])), np.zeros(x.shape)
    for n, *o in np.ndindex(*cols.shape[:-1]):
        for t, (_, where) in enumerate(positions(window, o, stride, dilation)):
            at = [source(p, size, low, high) for p, size, (low, high) in zip(where, sizes, padding, strict=True)]
            for c in range(x.shape[-1]) if None not in at else ():
                i, j = (n, *at, c), (n, *o, t * x.shape[-1] + c)
                cols[j] = x[i]
                dx[i] += 0 if dcols is None else dcols[j]
    return cols, dx


def pixel_shuffle(x, r):
    """Input channel c * r^rank + offset goes to channel c, at that offset of a block of r a side."""
    rank = x.ndim - 2
    y = np.zeros((x.shape[0], *(s * r for s in x.shape[1:-1]), x.shape[-1] // r**rank))
    for n, *p, c in np.ndindex(*y.shape):
        offset = np.ravel_multi_index([i % r for i in p], [r] * rank)
        y[(n, *p, c)] = x[(n, *(i // r for i in p), c * r**rank + offset)]
    return y


def lp_pool(x, dy, *, p, window, stride, padding, dilation, ceil_mode):
    """The Lp norm of each window: y, and dx, which is 0 for all-zero windows."""
    sizes = x.shape[1:-1]
    out = [outputs(*a, ceil_mode=ceil_mode) for a in zip(sizes, window, stride, padding, dilation, strict=True)]
    y, dx = np.zeros((x.shape[0], *out, x.shape[-1])), np.zeros(x.shape)
    for n, *o, c in np.ndindex(*y.shape):
        met = []
        for _, where in positions(window, o, stride, dilation):
            at = [source(q, size, low, high) for q, size, (low, high) in zip(where, sizes, padding, strict=True)]
            if None not in at:
                met.append((n, *at, c))
        norm = y[(n, *o, c)] = sum(abs(x[i]) ** p for i in met) ** (1 / p)
        for i in met:
            if x[i] != 0:
                dx[i] += dy[(n, *o, c)] * np.sign(x[i]) * (abs(x[i]) / norm) ** (p - 1)
    return y, dx


def pool(x, reduce, *, pad_value, window, stride, padding, dilation, ceil_mode):
    """reduce of the list of each window's elements, pad_value among them: y."""
    sizes = x.shape[1:-1]
    out = [outputs(*a, ceil_mode=ceil_mode) for a in zip(sizes, window, stride, padding, dilation, strict=True)]
    y = np.zeros((x.shape[0], *out, x.shape[-1]))
    for n, *o, c in np.ndindex(*y.shape):
        met = []
        for _, where in positions(window, o, stride, dilation):
            at = [source(p, size, low, high) for p, size, (low, high) in zip(where, sizes, padding, strict=True)]
            met.append(pad_value if None in at else x[(n, *at, c)])
        y[(n, *o, c)] = reduce(met)
    return y


def adaptive_pool(x, dy, *, output_size, kind):
    """The mean, or the first largest element, of PyTorch's adaptive windows: y, flat indices (of "max"), dx."""
    sizes = x.shape[1:-1]
    y, dx = np.zeros((x.shape[0], *output_size, x.shape[-1])), np.zeros(x.shape)
    index = np.zeros(y.shape, int)
    for n, *o, c in np.ndindex(*y.shape):
        spans = [
            range(math.floor(i * size / count), math.ceil((i + 1) * size / count))
            for i, size, count in zip(o, sizes, output_size, strict=True)
        ]
        met = [(n, *at, c) for at in itertools.product(*spans)]
        if kind == "max":
            best = met[int(np.argmax([x[i] for i in met]))]
            y[(n, *o, c)], index[(n, *o, c)] = x[best], np.ravel_multi_index(best[1:-1], sizes)
            dx[best] += dy[(n, *o, c)]
        else:
            y[(n, *o, c)] = sum(x[i] for i in met) / len(met)
            for i in met:
                dx[i] += dy[(n, *o, c)] / len(met)
    return y, index, dx


def fractional_max_pool(x, dy, *, window, output_size, samples):
    """The first largest element of windows that start at random steps: y, flat indices, dx."""
    sizes = x.shape[1:-1]
    y, dx = np.zeros((x.shape[0], *output_size, x.shape[-1])), np.zeros(x.shape)
    index = np.zeros(y.shape, int)
    for n, *o, c in np.ndindex(*y.shape):
        spans = []
        for i, size, k, count, u in zip(o, sizes, window, output_size, samples[n, c], strict=True):
            alpha = (size - k) / (count - 1) if count > 1 else 0
            start = int((i + u) * alpha) - int(u * alpha) if i < count - 1 else size - k
            spans.append(range(start, start + k))
        met = [(n, *at, c) for at in itertools.product(*spans)]
        best = met[int(np.argmax([x[i] for i in met]))]
        y[(n, *o, c)], index[(n, *o, c)] = x[best], np.ravel_multi_index(best[1:-1], sizes)
        dx[best] += dy[(n, *o, c)]
    return y, index, dx


def max_unpool(y, indices, spatial_shape, dx):
    """The values set at their indices, one after the other: x; and dy, gathered from dx."""
    x, dy = np.zeros((y.shape[0], *spatial_shape, y.shape[-1])), np.zeros(y.shape)
    for n, *o, c in np.ndindex(*y.shape):
        at = (n, *np.unravel_index(indices[(n, *o, c)], spatial_shape), c)
        x[at] = y[(n, *o, c)]
        dy[(n, *o, c)] = dx[at]
    return x, dy


def local_response_norm(x, dy, *, size, alpha, beta, k):
    """AlexNet's formula, channel by channel: y, and dx."""
    y, dx = np.zeros(x.shape), np.zeros(x.shape)
    for *at, c in np.ndindex(*x.shape):
        i = (*at, c)
        near = [(*at, j) for j in range(max(c - size // 2, 0), min(c + (size - 1) // 2, x.shape[-1] - 1) + 1)]
        base = k + alpha * sum(x[j] ** 2 for j in near)
        y[i] = x[i] / base**beta
        dx[i] += dy[i] / base**beta
        for j in near:
            dx[j] -= dy[i] * x[i] * beta * base ** (-beta - 1) * alpha * 2 * x[j]
    return y, dx
