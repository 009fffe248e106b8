"""Arguments for grids of calls."""

import numpy as np


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
