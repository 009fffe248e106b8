"""Random resized crops: torchvision's boxes and pixels, drawn anew for each seed, epoch and example."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import photographs, stream
from cnnjax.data.reading import Record

grain = pytest.importorskip("grain")


class Told:
    """A generator whose draws are told, as shares of their ranges."""

    def __init__(self, shares: Sequence[float]):
        self._shares = list(shares)

    def random(self) -> float:
        return self._shares.pop(0)

    def uniform(self, low: float, high: float) -> float:
        return low + self._shares.pop(0) * (high - low)

    def integers(self, low: int, high: int) -> int:
        return low + int(self._shares.pop(0) * (high - low))


class Jpegs(data.ImageSource):
    """Three JPEGs of noise, wide, tall and tiny, and their labels."""

    shape = (None, None, 3)

    def __init__(self) -> None:
        self.pixels = []
        for number, size in enumerate([(60, 90), (80, 50), (9, 7)]):
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "jpeg")
            self.pixels.append(file.getvalue())

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> Record:
        return Record(self.pixels[index], np.int32(index), f"picture {index}")


SPEC = data.InputSpec(size=(24, 32), channels=3)


@pytest.mark.parametrize(
    ("height", "width", "shares", "box"),
    [
        # a half of the area, square: 100 x 100, its corner at 3/4 of the 101 columns that fit
        (100, 200, [(0.5 - 0.08) / 0.92, 0.5, 0.0, 0.75], (75, 0, 175, 100)),
        # an eighth of the area, 4 : 3: 57.7 x 43.3, at the far corner
        (100, 200, [(0.125 - 0.08) / 0.92, 1 - 1e-12, 0.999, 0.999], (142, 57, 200, 100)),
        # the whole area at 3 : 4 does not fit; then all of it, square
        (100, 100, [1.0, 0.0, 1.0, 0.5, 0.0, 0.0], (0, 0, 100, 100)),
        # ten that do not fit: the centre at 4 : 3, at 3 : 4, and whole
        (30, 300, [1.0, 0.5] * 10, (130, 0, 170, 30)),
        (300, 30, [1.0, 0.5] * 10, (0, 130, 30, 170)),
        (90, 100, [1.0, 0.0] * 10, (0, 0, 100, 90)),
    ],
)
def test_boxes_by_hand(height: int, width: int, shares: list[float], box: tuple[int, ...]) -> None:
    told = Told(shares)
    assert photographs.random_box(told, height, width) == box  # type: ignore[arg-type]
    assert told._shares == [], "all draws were used"


def test_areas_ratios_and_places_are_uniform() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([photographs.random_box(rng, 1000, 1000, (0.08, 0.3)) for _ in range(4000)])
    columns, rows = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = columns * rows / 1e6, np.log(columns / rows)
    share = boxes[:, 0] / (1000 - columns)
    for values, low, high in ((area, 0.08, 0.3), (ratio, math.log(3 / 4), math.log(4 / 3)), (share, 0, 1)):
        ranks = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(ranks, np.linspace(low, high, 5), atol=0.03 * (high - low))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_pillow_for_the_same_box(channels: int, mirrored: bool) -> None:
    source, spec = Jpegs(), data.InputSpec(size=(24, 32), channels=channels)
    crop = photographs.RandomResizedCrop(source, spec)
    shares = [(0.5 - 0.08) / 0.92, 0.5, 0.3, 0.6, 0.4 if mirrored else 0.6]
    x, y = crop(source.read(0), Told(shares))  # type: ignore[arg-type]
    assert x.shape == (24, 32, channels) and x.dtype == np.uint8 and y == 0
    box = photographs.random_box(Told(shares), 60, 90)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(source.pixels[0])) as picture:
        cut = np.asarray(picture.convert("L" if channels == 1 else "RGB"))[box.top : box.bottom, box.left : box.right]
    expected = np.asarray(Image.fromarray(cut).resize((32, 24), Image.Resampling.BILINEAR)).reshape(24, 32, channels)
    np.testing.assert_array_equal(x, expected[:, ::-1] if mirrored else expected)


def test_pixels_are_those_of_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    source = Jpegs()
    crop = photographs.RandomResizedCrop(source, data.InputSpec(size=(24, 32), channels=3, mirror=False))
    for seed in range(30):
        x, _ = crop(source.read(seed % 3), np.random.default_rng(seed))
        with Image.open(io.BytesIO(source.pixels[seed % 3])) as picture:
            box = photographs.random_box(np.random.default_rng(seed), picture.height, picture.width)
            size = box.bottom - box.top, box.right - box.left
            theirs = functional.resized_crop(picture, box.top, box.left, *size, [24, 32])
        np.testing.assert_array_equal(x, np.asarray(theirs))


def test_images_in_memory_are_cropped_too() -> None:
    digits = data.open_dataset("digits").train
    crops = data.random_resized_crops(digits, data.InputSpec(size=16, channels=3, mirror=False), 0)
    x, y = crops[5]
    assert x.shape == (16, 16, 3) and y == digits[5][1] and (x[..., 0] == x[..., 2]).all()


def test_characters_are_not_mirrored() -> None:
    class Slope(data.ImageSource):
        shape = (40, 40, 1)

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> Record:
            return Record(np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None], (40, 40, 1)).copy(), np.int32(0), "")

    rising = {}
    for mirror in (False, True):
        crops = data.random_resized_crops(Slope(), data.InputSpec(size=8, channels=1, mirror=mirror), 0)
        rising[mirror] = [int(crops[i][0][0, 7, 0]) > int(crops[i][0][0, 0, 0]) for i in range(60)]
    assert all(rising[False]) and 15 < sum(rising[True]) < 45


def draws(seed: int, index: int) -> bytes:
    """What decides the crop of an element."""
    ds = grain.MapDataset.source([0, 1, 2]).random_map(lambda _, rng: rng.random(3).tobytes(), seed=seed)
    return ds[index]


def test_seeds_epochs_and_neighbours_share_no_draws() -> None:
    """Grain's shuffle has those of epoch e and seed s + 1 in common with epoch e + 1 and seed s; this has not."""
    all_draws = {draws(seed, index) for seed in (0, 1, 2, 3, 2**31) for index in range(30)}
    assert len(all_draws) == 150
    source = Jpegs()
    crops = [data.random_resized_crops(source, SPEC, seed) for seed in (7, 8)]
    images = {ds[index][0].tobytes() for ds in crops for index in range(60) if index % 3 < 2}
    assert len(images) == 80, "the tiny third one has few crops"
    assert [int(crops[0][index][1]) for index in (0, 4, 8, 60)] == [0, 1, 2, 0], "later epochs, the same labels"


def test_an_element_is_a_function_of_seed_and_index_alone() -> None:
    """Whatever was read before, by however many threads, from a copy of the set, or in another order."""
    expected = [data.random_resized_crops(Jpegs(), SPEC, 5)[index][0] for index in range(24)]
    for threads in (1, 4):
        crops = data.random_resized_crops(Jpegs(), SPEC, 5)
        with closing(stream.in_order(crops.__getitem__, 0, 24, threads=threads, ahead=8)) as examples:
            for got, want in zip(examples, expected, strict=True):
                np.testing.assert_array_equal(got[0], want)
    for index in (23, 3, 3, 11):
        np.testing.assert_array_equal(crops[index][0], expected[index])


@pytest.mark.slow
def test_processes_draw_the_same() -> None:
    expected = [data.random_resized_crops(data.open_dataset("digits").train, SPEC, 5)[index][0] for index in range(8)]
    crops = data.random_resized_crops(data.open_dataset("digits").train, SPEC, 5)
    examples = iter(crops.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=2)))
    for want in expected:
        np.testing.assert_array_equal(next(examples)[0], want)
