"""Data: the digits, the data sets of TFDS, sentences and word vectors as arrays, batches by (seed, step), augmentation.

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
from cnnjax.data.sentences import Corpus, fold, movie_reviews
from cnnjax.data.sources import Dataset, digits, hold_out, load, resize, to_canvas
from cnnjax.data.word_vectors import word_vectors

__all__ = [
    "Corpus",
    "Dataset",
    "affine",
    "augment",
    "augment_for",
    "centre_crop",
    "channel_stats",
    "colour_axes",
    "crop_flip",
    "digits",
    "fold",
    "hold_out",
    "indices",
    "load",
    "movie_reviews",
    "pca_jitter",
    "permutation",
    "resize",
    "rng",
    "standardize",
    "steps_per_epoch",
    "ten_crops",
    "to_canvas",
    "word_vectors",
]
