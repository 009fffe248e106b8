"""Data as arrays, batches as functions of (seed, step), and augmentation.

The data sets are the digits, those of TFDS, and sentences with their word vectors.

Importing this imports neither tfds, nor PIL, nor matplotlib.
"""

from cnnjax.data import augment, rng
from cnnjax.data.augment import affine, augment_for, colour_axes, crop_flip, pca_jitter
from cnnjax.data.batches import indices, permutation, steps_per_epoch
from cnnjax.data.dataset import Dataset, hold_out
from cnnjax.data.mixing import cutmix, cutout, mixup
from cnnjax.data.preprocess import centre_crop, channel_stats, pad_to_square, resize, standardize, ten_crops
from cnnjax.data.sentences import Corpus, fold, movie_reviews
from cnnjax.data.sources import digits, load_dataset
from cnnjax.data.views import mirror_views, shift_views
from cnnjax.data.word_vectors import word_vectors

load = load_dataset

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
    "cutmix",
    "cutout",
    "digits",
    "fold",
    "hold_out",
    "indices",
    "load",
    "load_dataset",
    "mirror_views",
    "mixup",
    "movie_reviews",
    "pad_to_square",
    "pca_jitter",
    "permutation",
    "resize",
    "rng",
    "shift_views",
    "standardize",
    "steps_per_epoch",
    "ten_crops",
    "word_vectors",
]
