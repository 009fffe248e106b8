"""Data: the embedded digits and the data sets of TFDS as arrays, batches by (seed, step), augmentation.

Importing this imports neither tfds, nor PIL, nor matplotlib.
"""

from cnnjax.data import augment, rng
from cnnjax.data.augment import (
    affine,
    augment_for,
    centre_crop,
    channel_stats,
    colour_axes,
    crop_flip,
    pca_jitter,
    standardize,
    ten_crops,
)
from cnnjax.data.batches import indices, permutation, steps_per_epoch
from cnnjax.data.sources import Dataset, digits, hold_out, load, resize, to_canvas

__all__ = [
    "Dataset",
    "affine",
    "augment",
    "augment_for",
    "centre_crop",
    "channel_stats",
    "colour_axes",
    "crop_flip",
    "digits",
    "hold_out",
    "indices",
    "load",
    "pca_jitter",
    "permutation",
    "resize",
    "rng",
    "standardize",
    "steps_per_epoch",
    "ten_crops",
    "to_canvas",
]
