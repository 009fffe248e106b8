"""TFDS: a small data set prepared on the spot, damaged in many ways; and the real ones where they are."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import time
import urllib.error
import urllib.request
from typing import ClassVar

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import cache, memory, tfds_records, tfds_source
from cnnjax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


def png(array):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    file.seek(0)
    return file


class TinyColours(tfds.core.GeneratorBasedBuilder):
    """2,100 train and 3 test images of one colour each; more than two chunks."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = ("train", "test")
    SHAPE = (4, 5, 3)
    url_infos: ClassVar = {}  # TFDS would look for them beside this file, with importlib_resources

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(2100 if split == "train" else 3) for split in self.SPLITS}

    def _generate_examples(self, count):
        for i in range(count):
            shape = [size or 4 for size in self.SHAPE]
            yield i, {"image": png(np.full(shape, i % 256, np.uint8)), "label": i % 256 // 128}


class TinyTrainOnly(TinyColours):
    """No test split."""

    SPLITS = ("train",)


class TinyVarying(TinyColours):
    """Images of many sizes."""

    SHAPE = (None, None, 3)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": png(np.full((4 + i, 9 - i, 3), i, np.uint8)), "label": 0}


class TinyValidated(TinyColours):
    """A labelled validation split and no test split."""

    SPLITS: ClassVar = {"train": (5, 0), "validation": (4, 1)}

    def _split_generators(self, dl_manager):
        return {split: self._labelled(*how) for split, how in self.SPLITS.items()}

    def _labelled(self, count, label):
        for i in range(count):
            yield i, {"image": png(np.zeros(self.SHAPE, np.uint8)), "label": label}


class TinyKeptBack(TinyValidated):
    """As ImageNet: the labels of the test split are not given."""

    SPLITS: ClassVar = {"train": (5, 0), "validation": (4, 1), "test": (6, -1)}


class TinyUnlabelled(TinyColours):
    """Labels of -1, as some test splits have them."""

    def _generate_examples(self, count):
        for i in range(3):
            yield i, {"image": png(np.zeros(self.SHAPE, np.uint8)), "label": -1}


class TinyText(tfds.core.GeneratorBasedBuilder):
    """No image at all."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"words": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {}

    def _generate_examples(self):
        yield from ()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    tfds.builder("tiny_colours", data_dir=str(folder)).download_and_prepare(file_format="array_record")
    return folder


@pytest.fixture
def colours(prepared, tmp_path):
    """A copy of the prepared data set to damage: (data_dir, the folder of its version)."""
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "tiny_colours" / "1.2.0"


def prepare(name, folder):
    tfds.builder(name, data_dir=str(folder)).download_and_prepare(file_format="array_record")


def cache_files(tmp_path):
    return sorted((tmp_path / "cache" / "cnnjax").iterdir())


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def count_decodings(monkeypatch):
    calls = []
    decode = tfds_source._decode
    monkeypatch.setattr(tfds_source, "_decode", lambda *args: calls.append(args[2]) or decode(*args))
    return calls


def test_load_decodes_every_example(prepared):
    colours = data.load("tiny_colours", prepared)
    assert colours.train_images.shape == (2100, 4, 5, 3) and colours.train_images.dtype == np.uint8
    assert colours.test_images.shape == (3, 4, 5, 3)
    assert colours.train_labels.dtype == np.int32
    assert colours.class_names == ("dark", "light")
    grey = colours.train_images[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(grey), np.sort(np.arange(2100) % 256))
    np.testing.assert_array_equal(colours.train_labels, grey // 128)
    assert (colours.train_images == grey[:, None, None, None]).all()


def test_the_second_load_comes_from_the_cache(prepared, tmp_path, monkeypatch):
    decoded = count_decodings(monkeypatch)
    first = data.load("tiny_colours", prepared)
    (file,) = cache_files(tmp_path)
    assert file.name.startswith("tiny_colours-1.2.0-") and file.suffix == ".npz"
    second = data.load("tiny_colours", str(prepared))
    assert same(first, second)
    assert decoded == ["train", "test"]


def test_a_damaged_cache_is_decoded_again_and_replaced(prepared, tmp_path, monkeypatch):
    first = data.load("tiny_colours", prepared)
    (file,) = cache_files(tmp_path)
    whole = bytearray(file.read_bytes())
    for damaged in (whole[:5000], whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:]):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=file.name):
            assert same(data.load("tiny_colours", prepared), first)
        assert cache.read(file) is not None


def test_a_changed_source_is_decoded_again(colours, tmp_path, monkeypatch):
    data_dir, folder = colours
    data.load("tiny_colours", data_dir)
    decoded = count_decodings(monkeypatch)
    record = next(folder.glob("*train.array_record*"))
    os.utime(record, ns=(0, 0))
    data.load("tiny_colours", data_dir)
    assert decoded == ["train", "test"]
    assert len(cache_files(tmp_path)) == 2


def test_without_a_cache_directory_it_goes_on_with_one_warning(prepared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="going on without it") as caught:
        assert len(data.load("tiny_colours", prepared).train_labels) == 2100
    assert len(caught) == 1


def test_the_verbosity_of_absl_is_put_back(prepared):
    from absl import logging

    before = logging.get_verbosity()
    data.load("tiny_colours", prepared)
    assert logging.get_verbosity() == before


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed"])
def test_a_corrupt_record_file_is_named(colours, damage):
    data_dir, folder = colours
    record = next(folder.glob("*train.array_record*"))
    content = bytearray(record.read_bytes())
    if damage == "removed":
        record.unlink()
    elif damage == "truncated":
        record.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 3
        content[middle : middle + 200] = bytes(255 - byte for byte in content[middle : middle + 200])
        record.write_bytes(content)
    with pytest.raises(UserError, match=record.name):
        data.load("tiny_colours", data_dir)


def test_records_are_read_one_by_one(prepared):
    loaded, opened = data.load("tiny_colours", prepared), data.open_dataset("tiny_colours", prepared)
    assert opened.class_names == loaded.class_names and opened.train.shape == (4, 5, 3)
    assert [len(opened.train), len(opened.test)] == [2100, 3]
    for index in (0, 1, 1049, 2099):
        image, label = opened.train[np.int32(index)]
        np.testing.assert_array_equal(image, loaded.train_images[index])
        assert label == loaded.train_labels[index] and label.dtype == np.int32


def test_images_of_varying_size_are_read_without_a_size(tmp_path):
    prepare("tiny_varying", tmp_path)
    opened, loaded = data.open_dataset("tiny_varying", tmp_path), data.load("tiny_varying", tmp_path, size=6)
    assert opened.train.shape == (None, None, 3) and len({opened.train[i][0].shape for i in range(5)}) == 5
    held = data.held_images(opened.train, data.InputSpec(size=6, channels=3, resize_to=6))
    np.testing.assert_array_equal([held[i][0] for i in range(5)], loaded.train_images)


def test_unlabelled_records_end_the_run(tmp_path):
    prepare("tiny_unlabelled", tmp_path)
    source = data.open_dataset("tiny_unlabelled", tmp_path).train
    with pytest.raises(UserError, match=r"Record 0 of .* has the label -1; it must be 0 to 1\..* labelled") as caught:
        source[0]
    assert type(caught.value) is UserError


@pytest.mark.parametrize("damage", ["truncated", "removed", "short"])
def test_a_record_file_that_cannot_be_used_is_named_when_it_is_opened(colours, damage):
    data_dir, folder = colours
    record = next(folder.glob("*train.array_record*"))
    content = record.read_bytes()
    record.unlink()
    if damage == "truncated":
        record.write_bytes(content[: len(content) // 2])
    elif damage == "short":
        write_records(record, [b"nothing"] * 100)
    cause = {
        "truncated": "of tiny_colours has 0 records, and 2100 by its index",
        "removed": r"cannot be read \(No such file or directory\)",
        "short": "of tiny_colours has 100 records, and 2100 by its index",
    }
    with pytest.raises(UserError, match=f"The record file .*{record.name} {cause[damage]}.*restore it, or") as caught:
        data.open_dataset("tiny_colours", data_dir)
    assert type(caught.value) is UserError


def write_records(path, records):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_a_damaged_record_is_named_and_the_others_are_read(colours):
    """Bytes flipped in the file, and records that are none, hold no image, or no image that is whole."""
    data_dir, folder = colours
    source = data.open_dataset("tiny_colours", data_dir).train
    record = next(folder.glob("*train.array_record*"))
    whole = [source._readers[0].read(i, i + 1)[0] for i in range(2100)]
    content = bytearray(record.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 8] = bytes(8)
    record.write_bytes(content)
    source = data.open_dataset("tiny_colours", data_dir).train
    bad = [index for index in range(2100) if reads(source, index) is not None]
    assert 1 <= len(bad) <= 3
    assert f"Record {bad[0]} of {record} of tiny_colours is damaged (" in reads(source, bad[0])

    cut = whole[5].replace(b"IDAT", b"IDOT")
    write_records(record, [whole[0], b"nothing", b"", *whole[3:5], cut, *whole[6:]])
    source = data.open_dataset("tiny_colours", data_dir).train
    told = {index: reads(source, index) for index in range(10)}
    assert [index for index, message in told.items() if message is not None] == [1, 2, 5]
    assert told[1].startswith(f"Record 1 of {record} of tiny_colours is damaged (")
    assert told[5].startswith(f"Record 5 of {record} of tiny_colours is no image")


def test_records_are_found_in_their_file(tmp_path):
    """Three files, of which one is empty and one holds more records than the split says; also in a copy."""
    from tensorflow_datasets.core import example_parser

    def record(value):
        example = example_parser.tf_example_pb2.Example()
        pixels = np.full((2, 2), value, np.uint8)
        example.features.feature["image"].bytes_list.value.append(png(pixels).getvalue())
        example.features.feature["label"].int64_list.value.append(value % 7)
        return example.SerializeToString()

    files = [tmp_path / name for name in "abc"]
    for file, values in zip(files, [range(4), [], range(3, 5)], strict=True):
        write_records(file, map(record, values))
    paths = tuple(map(str, files))
    split = tfds_records.Split("train", "ours", "image", "label", (2, 2, 1), 7, paths, (3, 0, 2), tfds_source._features)
    source = tfds_records.TfdsSource(split)
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [int(one[index][0].max()) for index in range(5)] == [0, 1, 2, 3, 4] == [one[i][1] for i in range(5)]
    assert source.read(4).where == f"Record 1 of {files[2]} of ours" and source.read(0).where.startswith("Record 0 of")


def reads(source, index):
    """Returns None where an example can be read, else the message of its CorruptExample."""
    try:
        source[index]
    except data.CorruptExample as error:
        return str(error)


def test_a_corrupt_description_is_a_sentence(colours):
    data_dir, folder = colours
    (folder / "dataset_info.json").write_text("{nonsense")
    with pytest.raises(UserError, match="'tiny_colours' cannot be opened: "):
        data.load("tiny_colours", data_dir)


def test_an_empty_folder_is_not_prepared(tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, present=False)
    (tmp_path / "tiny_colours" / "1.2.0").mkdir(parents=True)
    with pytest.raises(UserError, match="is not there"):
        data.load("tiny_colours", tmp_path)


def test_prepared_as_tfrecord(colours):
    data_dir, folder = colours
    description = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(description | {"fileFormat": "tfrecord"}))
    for record in folder.glob("*array_record*"):
        record.rename(folder / record.name.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"prepared as tfrecord; it must be array_record\. Move"):
        data.load("tiny_colours", data_dir)


def test_no_test_split(tmp_path):
    prepare("tiny_train_only", tmp_path)
    with pytest.raises(UserError, match="has the splits train; it must have train, and test or validation"):
        data.load("tiny_train_only", tmp_path)


def test_unlabelled_examples(tmp_path):
    prepare("tiny_unlabelled", tmp_path)
    with pytest.raises(UserError, match="labels from -1 to -1; they must be 0 to 1"):
        data.load("tiny_unlabelled", tmp_path)


def test_images_of_varying_size_are_refused_before_any_download(tmp_path):
    with pytest.raises(UserError, match=r"shape \(None, None, 3\): they differ in size\. Give an image size"):
        data.load("tiny_varying", tmp_path)


def test_images_of_varying_size_are_resized_where_a_size_is_given(tmp_path):
    prepare("tiny_varying", tmp_path)
    varying = data.load("tiny_varying", tmp_path, size=6)
    assert varying.train_images.shape == (5, 6, 6, 3) and varying.test_images.shape == (3, 6, 6, 3)
    brightness = varying.train_images[:, 3, 3, 0]
    np.testing.assert_array_equal(np.sort(brightness), [0, 1, 2, 3, 4])
    assert (varying.train_images == brightness[:, None, None, None]).all()
    np.testing.assert_array_equal(varying.train_labels, 0)
    again, smaller = data.load("tiny_varying", tmp_path, size=6), data.load("tiny_varying", tmp_path, size=3)
    assert same(again[1:5], varying[1:5]) and smaller.train_images.shape == (5, 3, 3, 3)
    assert len(cache_files(tmp_path)) == 2, "a file for each size"


def test_small_images_are_cached_as_they_are_and_enlarged_after(prepared, tmp_path):
    assert data.load("tiny_colours", prepared, size=8).train_images.shape == (2100, 8, 8, 3)
    assert data.load("tiny_colours", prepared).train_images.shape == (2100, 4, 5, 3)
    assert len(cache_files(tmp_path)) == 1


def test_a_data_set_that_does_not_fit_says_how_much_it_needs(prepared, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    message = (
        r"The 2,103 images of tiny_colours at 500x500 pixels need 2\.9 GiB of memory; 1\.0 GiB are free\. "
        "Choose a smaller image size or data set"
    )
    with pytest.raises(UserError, match=message):
        data.load("tiny_colours", prepared, size=500)  # 2 * 2,103 * 500 * 500 * 3 bytes = 2.94 GiB
    data.load("tiny_colours", prepared, size=8)


@pytest.mark.parametrize("name", ["tiny_validated", "tiny_kept_back"])
def test_validation_stands_in_for_a_test_split_that_is_absent_or_unlabelled(name, tmp_path):
    prepare(name, tmp_path)
    colours = data.load(name, tmp_path)
    assert len(colours.test_labels) == 4 and set(colours.test_labels) == {1}


def test_no_images(tmp_path):
    with pytest.raises(UserError, match="has the features words"):
        data.load("tiny_text", tmp_path)


def test_the_data_directory_must_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not an existing folder"):
        data.load("mnist", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mnsit", "no data set 'mnsit'. Did you mean mnist"),
        ("Digits", "Did you mean digits"),
        ("qqqqqq", "no data set 'qqqqqq'. For example: digits"),
        ("zzz:mnist", "no data set 'zzz:mnist'"),
        ("huggingface:mnist", "no data set 'huggingface:mnist'"),
        ("", "'' is not a well-formed"),
        ("../mnist", "not a well-formed"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
        ("mnist/large", "BuilderConfig large not found"),
    ],
)
def test_unknown_names_are_answered_at_once(name, sentence, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        data.load(name, tmp_path)
    assert time.monotonic() - start < 5


def pretend_tensorflow(monkeypatch, present):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: (present or None) if name in tfds_source._PREPARING_NEEDS else find(name, *a),
    )


def test_not_prepared_and_no_tensorflow(tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, present=False)
    with pytest.raises(
        UserError, match=r"mnist.3\.0\.1 and is not there.*pip install -e '\.\[prepare\]' in the folder of cnnjax"
    ):
        data.load("mnist", tmp_path)


def test_not_prepared_and_no_network(tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, present=True)
    monkeypatch.setattr(tfds_source, "_PROBE_URL", "https://name.invalid")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"is not there, and it cannot be downloaded: https://name.invalid"):
        data.load("mnist", tmp_path)
    assert time.monotonic() - start < 6


def test_a_probe_that_hangs_is_left_behind(monkeypatch):
    """Looking up a host's name has no timeout of its own."""
    monkeypatch.setattr(tfds_source, "_PROBE_SECONDS", -0.9)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(0.5) or io.BytesIO())
    start = time.monotonic()
    assert not tfds_source._network_answers()
    assert time.monotonic() - start < 0.4


def test_a_network_that_answers_prepares(tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, present=True)
    monkeypatch.setattr(tfds_source, "_network_answers", lambda: True)
    assert len(data.load("tiny_colours", tmp_path).test_labels) == 3
    assert list((tmp_path / "tiny_colours" / "1.2.0").glob("*train.array_record*"))


def test_a_preparation_that_fails_says_why(tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, present=True)
    monkeypatch.setattr(tfds_source, "_network_answers", lambda: True)
    monkeypatch.setattr(TinyColours, "_generate_examples", lambda *_: (_ for _ in ()).throw(OSError("cut off")))
    with pytest.raises(UserError, match=r"preparing it failed: OSError: .*cut off"):
        data.load("tiny_colours", tmp_path)


@pytest.mark.parametrize("answer", ["refusal", "answer", "silence"])
def test_any_answer_of_a_server_counts(answer, monkeypatch):
    def urlopen(request, timeout):
        if answer == "refusal":
            raise urllib.error.HTTPError(request.full_url, 400, "Bad request", {}, None)
        if answer == "silence":
            raise TimeoutError
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert tfds_source._network_answers() == (answer != "silence")


@pytest.mark.parametrize(
    ("name", "train", "labels", "test_labels", "classes"),
    [
        ("mnist", (60000, 28, 28, 1), [4, 1, 0, 7, 8], [2, 0, 4, 8, 7], "0"),
        ("fashion_mnist", (60000, 28, 28, 1), [2, 1, 8, 4, 1], [4, 4, 9, 7, 5], "T-shirt/top"),
        ("cifar10", (50000, 32, 32, 3), [7, 8, 4, 4, 6], [7, 0, 6, 9, 5], "airplane"),
    ],
)
def test_real_data_where_it_is_prepared(name, train, labels, test_labels, classes):
    """The first examples in TFDS's own order; decoding all of them is for the slow tests."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not os.path.isdir(os.path.join(folder, name)):
        pytest.skip(f"TFDS_DATA_DIR holds no {name}")
    with tfds_source._quiet_absl():
        builder = tfds_source._open(name, folder)
        keys = tfds_source._supervised_keys(name, builder, None)
        tfds_source._check_prepared(name, builder)
        source = builder.as_data_source(split="train")
        assert len(source) == train[0] and len(builder.as_data_source(split="test")) == 10000
        images, got = tfds_source._decode(name, builder, "test", *keys, None)
    assert [source[i]["label"] for i in range(5)] == labels
    assert images.shape == (10000, *train[1:])
    assert got[:5].tolist() == test_labels
    assert np.bincount(got).tolist()[0] == (980 if name == "mnist" else 1000)
    assert builder.info.features["label"].names[0] == classes
