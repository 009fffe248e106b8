"""Image-classification data sets of TFDS as arrays, read without TensorFlow.

Some limits of TFDS (4.9.10) are checked before it is called: its `data_source` reads array_record files only;
preparing mnist, cifar10 and others needs TensorFlow; and without a network it tries for minutes before it fails.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import importlib.util
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.data import cache, memory
from cnnjax.data.preprocess import Size, height_and_width, resize_image
from cnnjax.data.reading import OpenDataset
from cnnjax.data.tfds_records import RESTORE, Split, TfdsSource, first_line
from cnnjax.errors import UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_CACHE_FORMAT = 2  # raise it when the arrays in the cache change their meaning
_PREPARING_NEEDS = ("tensorflow", "importlib_resources")
_INSTALL = "pip install -e '.[prepare]' in the folder of cnnjax"
_PROBE_URL = "https://storage.googleapis.com"  # TFDS fetches mnist and much else from there
_PROBE_SECONDS = 3.0


def load_tfds(
    name: str, data_dir: str | os.PathLike | None = None, size: Size | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Loads the arrays of a TFDS data set.

    Returns `(train_images, train_labels, test_images, test_labels, class_names)`.

    See `cnnjax.data.load_dataset` for the arguments and errors, `cnnjax.data.Dataset` for the arrays. Images that are
    larger than `size`, or differ in size, are resized; the others are returned as stored.
    """
    with _quiet_absl():
        builder, keys = _prepared(name, data_dir, size, check_memory=True)
        splits = {"train": "train", "test": _test_split(builder, keys[1])}
        _check_memory(name, builder, tuple(splits.values()), keys[0], size)
        stored = builder.info.features[keys[0]].shape
        if size is not None and None not in stored:
            height, width = height_and_width(size)
            if stored[0] <= height and stored[1] <= width:  # enlarged after, so that the cache stays small
                size = None
        path = _cache_path(builder, tuple(splits.values()), size)
        arrays = cache.read(path)
        if arrays is None:
            arrays = {}
            for part, split in splits.items():
                images, labels = _decode(name, builder, split, *keys, size)
                arrays |= {f"{part}_images": images, f"{part}_labels": labels}
            cache.write(path, arrays)
    class_names = tuple(builder.info.features[keys[1]].names)
    return (
        arrays["train_images"],
        arrays["train_labels"],
        arrays["test_images"],
        arrays["test_labels"],
        class_names,
    )


def open_tfds(name: str, data_dir: str | os.PathLike | None = None) -> OpenDataset:
    """Opens a TFDS data set, whose images are read when they are needed.

    See `cnnjax.data.open_dataset` for the arguments and errors. Every record file is opened once, to count its records.
    """
    with _quiet_absl():
        builder, keys = _prepared(name, data_dir)
        train, test = (_source(name, builder, split, *keys) for split in ("train", _test_split(builder, keys[1])))
    return OpenDataset(name, train, test, tuple(builder.info.features[keys[1]].names))


def _prepared(
    name: str, data_dir: str | os.PathLike | None, size: Size | None = None, *, check_memory: bool = False
) -> tuple[tfds.core.DatasetBuilder, tuple[str, str]]:
    """Returns the builder of a data set that is prepared, if need be now, and the keys of image and label.

    With `check_memory` the images must fit into memory, and have one size unless there is a `size`.
    """
    builder = _open(name, data_dir)
    keys = _supervised_keys(name, builder, size, may_differ=not check_memory)
    if not builder.is_prepared():
        if check_memory:  # if TFDS knows the counts already
            _check_memory(name, builder, ("train", "test"), keys[0], size)
        _prepare(name, builder)
        builder = _open(name, data_dir)
    _check_prepared(name, builder)
    return builder, keys


def _source(name: str, builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str) -> TfdsSource:
    """Returns the examples of a split, their images not decoded."""
    info, features = builder.info.splits[split], builder.info.features
    shape, classes = features[image_key].shape, features[label_key].num_classes
    files, lengths = tuple(map(os.fspath, info.filepaths)), tuple(info.shard_lengths)
    return TfdsSource(Split(split, name, image_key, label_key, shape, classes, files, lengths, _features))


def _features(record: bytes) -> Mapping[str, Any]:
    """Parses a record; a function, as the class of protocol buffers cannot be sent to another process."""
    from tensorflow_datasets.core import example_parser

    return example_parser.tf_example_pb2.Example.FromString(record).features.feature


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Silences TFDS's warnings that do not matter here: no OpenCV, no dataset_info.json yet."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _open(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set. Does not touch the network."""
    import tensorflow_datasets as tfds

    where = {}
    if data_dir is not None:
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"The data directory {folder} is not an existing folder; give the folder that holds the data "
                f"sets TFDS prepared ({name} would be {folder / name}), or create it to prepare them there."
            )
        where["data_dir"] = str(folder)
    try:
        if re.match(r"\w+:[A-Za-z]", name):  # community data sets: TFDS would go and ask the network
            raise tfds.core.registered.DatasetNotFoundError
        return tfds.builder(name, **where)
    except tfds.core.registered.DatasetNotFoundError:
        problem = f"There is no data set {name!r}."
    except ValueError as error:
        if "builder name string" not in str(error):  # the name is well-formed: a version or a config is wrong
            raise UserError(f"The data set {name!r} cannot be opened: {first_line(error)}") from error
        problem = f"{name!r} is not a well-formed data set name."
    except Exception as error:
        raise UserError(f"The data set {name!r} cannot be opened: {first_line(error)}") from error
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(name.lower(), known, n=3)
    advice = f"Did you mean {' or '.join(close)}?" if close else "For example: digits, mnist, cifar10."
    raise UserError(
        f"{problem} {advice} It must be digits, folder:DIR, npz:FILE, "
        "or the TFDS name of an image-classification data set."
    )


def _supervised_keys(
    name: str, builder: tfds.core.DatasetBuilder, size: Size | None, *, may_differ: bool = False
) -> tuple[str, str]:
    """Returns the keys of image and label, before anything is downloaded."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    keys = builder.info.supervised_keys or ("image", "label")  # its entries may be nested
    image, label = (features.get(key) if isinstance(key, str) else None for key in keys[:2])
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(
            f"The data set {name} has no image with a class label; it has the features "
            f"{', '.join(features)}. Choose an image-classification data set."
        )
    if size is None and None in image.shape and not may_differ:
        raise UserError(
            f"The images of {name} have shape {image.shape}: they differ in size. Give an image size, to which they "
            "are resized, or choose another data set."
        )
    if image.shape[-1] not in (1, 3) or np.dtype(image.np_dtype) != np.uint8:
        raise UserError(
            f"The images of {name} have shape {image.shape} and type {np.dtype(image.np_dtype)}; they must "
            "have 1 or 3 channels and type uint8. Choose another data set."
        )
    return keys[0], keys[1]


def _prepare(name: str, builder: tfds.core.DatasetBuilder) -> None:
    """Downloads a data set and writes it as array_record files.

    Raises UserError at once where that is not possible.
    """
    import tensorflow_datasets as tfds

    missing = f"The data set {name} was looked for in {builder.data_path} and is not there"
    elsewhere = "or point `data_dir` or TFDS_DATA_DIR to a folder with array_record files that TFDS prepared"
    absent = [module for module in _PREPARING_NEEDS if importlib.util.find_spec(module) is None]
    if absent:
        raise UserError(
            f"{missing}; to download and prepare it TFDS needs TensorFlow, once, and there is no "
            f"{' and no '.join(absent)} here. Where there is a network: "
            f"{_INSTALL}, then load it again; {elsewhere}."
        )
    if not _network_answers():
        raise UserError(
            f"{missing}, and it cannot be downloaded: {_PROBE_URL} does not answer within "
            f"{_PROBE_SECONDS:.0f} seconds. Load it where there is a network, {elsewhere}."
        )
    try:
        builder.download_and_prepare(
            file_format="array_record",
            # What lies ready on Google's storage is TFRecord, which cannot be read here.
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except Exception as error:
        raise UserError(f"{missing}; preparing it failed: {first_line(error)}") from error


def _network_answers() -> bool:
    """Returns True if an HTTPS request is answered within seconds.

    It goes through the proxy if one is set.
    """
    answers = []

    def ask():
        request = urllib.request.Request(_PROBE_URL, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError as error:  # a server that says no is a server
            error.close()
            answers.append(True)
        except (OSError, ValueError, http.client.HTTPException):  # ValueError: a proxy that is no URL
            pass

    # The timeout of urlopen does not cover the look-up of the host's name, so the thread may outlive this call.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return bool(answers)


def _check_prepared(name: str, builder: tfds.core.DatasetBuilder) -> None:
    info, folder = builder.info, builder.data_path
    if info.file_format.value != "array_record":
        raise UserError(
            f"The data set {name} in {folder} was prepared as {info.file_format.value}; it must be "
            "array_record. Move that folder away or choose another data_dir, and load it "
            f"again with TensorFlow installed ({_INSTALL}): then array_record files are prepared."
        )
    if "train" not in info.splits or not {"test", "validation"} & set(info.splits):
        raise UserError(
            f"The data set {name} in {folder} has the splits {', '.join(info.splits) or 'none'}; it must "
            "have train, and test or validation. Choose another data set."
        )


def _test_split(builder: tfds.core.DatasetBuilder, label_key: str) -> str:
    """Returns `test`, or `validation` where no test labels are given.

    That is so without a test split, and where its labels are withheld (-1), as ImageNet's are.
    """
    splits = builder.info.splits
    if "test" not in splits:
        return "validation"
    if "validation" not in splits or not splits["test"].num_examples:
        return "test"
    try:
        first = builder.as_data_source(split="test")[0]
    except Exception:  # damaged: decoding it will say so
        return "test"
    return "validation" if int(first[label_key]) < 0 else "test"


def _check_memory(
    name: str, builder: tfds.core.DatasetBuilder, splits: tuple[str, ...], image_key: str, size: Size | None
) -> None:
    """Refuses a data set that needs more memory than is free."""
    shape = builder.info.features[image_key].shape
    height, width = shape[:2] if size is None else height_and_width(size)
    count = sum(builder.info.splits[split].num_examples for split in splits if split in builder.info.splits)
    memory.check_images(count, height, width, shape[-1], name)


def _cache_path(builder: tfds.core.DatasetBuilder, splits: tuple[str, ...], size: Size | None) -> Path:
    """Returns a path in the cache that changes when the data do.

    It depends on the data set's version, `size`, and each record file's name, size and time.
    """
    files = []
    for split in splits:
        for path in map(os.fspath, builder.info.splits[split].filepaths):
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f"The record file {path} cannot be read ({error.strerror}); {RESTORE}.") from error
            files.append((os.path.basename(path), status.st_size, status.st_mtime_ns))
    full_name = builder.info.full_name  # for example emnist/letters/3.1.0
    if size is not None and not isinstance(size, int):
        height, width = height_and_width(size)
        size = height if height == width else (height, width)
    wanted = [_CACHE_FORMAT, full_name, files] + ([] if size is None else [size])
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    return cache.directory() / f"{full_name.replace('/', '-')}-{key}.npz"


def _decode(
    name: str, builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str, size: Size | None
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes and resizes all images of a split.

    Returns them, (N, H, W, C) uint8, and the labels, (N,) int32.
    """
    from tqdm import tqdm

    info = builder.info.splits[split]
    features = builder.info.features
    n, classes = info.num_examples, features[label_key].num_classes
    shape = features[image_key].shape
    images = np.empty((n, *(shape[:2] if size is None else height_and_width(size)), shape[-1]), np.uint8)
    labels = np.empty(n, np.int32)
    source = _source(name, builder, split, image_key, label_key)
    for row in tqdm(range(n), desc=f"decoding {name} {split}", delay=2, leave=False, disable=None):
        record = source.record(row)
        image = source.image(record)
        images[row] = image if size is None else resize_image(image, size)
        labels[row] = record.label
    if n and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(
            f"The {split} split of {name} has labels from {labels.min()} to {labels.max()}; they must be "
            f"0 to {classes - 1}. Its examples are not all labelled: choose another data set."
        )
    return images, labels
