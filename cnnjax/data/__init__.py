"""Data as arrays, batches as functions of (seed, step), and augmentation.

The data sets are the digits, those of TFDS, folders of images, npz files, and sentences with their word vectors.
`load_dataset` decodes one into memory; `open_dataset` reads its images when they are needed.

Importing this imports neither tfds, nor grain, nor PIL, nor matplotlib.
"""

from cnnjax.data import augment, rng
from cnnjax.data.augment import (
    BatchInfo,
    affine,
    alternating_flip,
    augment_for,
    colour_axes,
    crop_flip,
    pca_jitter,
    random_crops,
)
from cnnjax.data.batches import indices, permutation, steps_per_epoch
from cnnjax.data.damage import CorruptExample
from cnnjax.data.dataset import Dataset, held_out, hold_out, may_mirror
from cnnjax.data.expand import expand, squeeze_and_shear
from cnnjax.data.held import held_images, sample_images, spec_of_source
from cnnjax.data.images import looks_inverted, read_image
from cnnjax.data.input_spec import InputSpec
from cnnjax.data.jitter import colour_jitter
from cnnjax.data.mixing import cutmix, cutout, mixup
from cnnjax.data.photographs import random_resized_crops
from cnnjax.data.preprocess import (
    centre_crop,
    channel_stats,
    pad_to_square,
    resize,
    standardize,
    ten_crops,
    to_channels,
)
from cnnjax.data.reading import ImageSource, OpenDataset
from cnnjax.data.sentences import Corpus, fold, movie_reviews
from cnnjax.data.sources import digits, load_dataset, open_dataset
from cnnjax.data.views import WeightedViews, airbench_views, mirror_views, shift_views
from cnnjax.data.word_vectors import word_vectors

load = load_dataset

__all__ = [
    "BatchInfo",
    "Corpus",
    "CorruptExample",
    "Dataset",
    "ImageSource",
    "InputSpec",
    "OpenDataset",
    "WeightedViews",
    "affine",
    "airbench_views",
    "alternating_flip",
    "augment",
    "augment_for",
    "centre_crop",
    "channel_stats",
    "colour_axes",
    "colour_jitter",
    "crop_flip",
    "cutmix",
    "cutout",
    "digits",
    "expand",
    "fold",
    "held_images",
    "held_out",
    "hold_out",
    "indices",
    "load",
    "load_dataset",
    "looks_inverted",
    "may_mirror",
    "mirror_views",
    "mixup",
    "movie_reviews",
    "open_dataset",
    "pad_to_square",
    "pca_jitter",
    "permutation",
    "random_crops",
    "random_resized_crops",
    "read_image",
    "resize",
    "rng",
    "sample_images",
    "shift_views",
    "spec_of_source",
    "squeeze_and_shear",
    "standardize",
    "steps_per_epoch",
    "ten_crops",
    "to_channels",
    "word_vectors",
]
