"""Loaders of photographs: ours from JPEGs on, by stage, beside PyTorch's with torchvision's transforms.

Ours reads by threads: Pillow decodes and resizes without Python's lock, and processes take seconds to start. PyTorch's
workers also turn pixels to standardised floats, which our training step does on the device.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from absl import flags
from timing import Contenders, Result, Run, check_equal, in_turns

from cnnjax import data
from cnnjax.data import photographs, stream
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("photos", None, "data: a folder of JPEGs to cut the images from; by default they are drawn")
flags.DEFINE_integer("images", 384, "data: how many, in an epoch", lower_bound=64)
flags.DEFINE_integer("workers", 2, "data: threads of ours, processes of PyTorch's", lower_bound=1)

HEIGHT, WIDTH = 375, 500  # of most images of ImageNet
QUALITY = 92
NOISE = 8.0  # standard deviation of a drawn pixel: files of 69 KiB
DRAWN = 32  # different ones
BATCH = 64
SIZE = 224
AHEAD = 2 * BATCH  # examples, as PyTorch's workers keep two batches each
UNIT = ("us an image", 1e6)


def time_data(peers: list[str]) -> Iterator[Result]:
    """Times an epoch of random resized crops and flips of JPEGs, and its stages in one thread."""
    with tempfile.TemporaryDirectory() as folder:
        kib = write_images(Path(folder))
        source = data.open_dataset(f"folder:{folder}").train
        spec = data.InputSpec(size=SIZE, channels=3)
        name = f"{SIZE} crops of {WIDTH}x{HEIGHT} JPEGs of {kib:.0f} KiB"
        contenders: Contenders = {"own": own_epoch(source, spec), "own again": own_epoch(source, spec)}
        if "torch" in peers and importlib.util.find_spec("torchvision"):
            check_crops(source, spec)
            contenders["torch"] = torch_epoch(source)
        elif "torch" in peers:
            print("torchvision is not installed: PyTorch's loader is left out")
        if FLAGS.only in name:
            yield result(name, f"{FLAGS.workers} workers", contenders, len(source))
        for stage, run in stages(source, spec).items():
            if FLAGS.only in stage:
                yield result(stage, "one thread", {"own": run}, len(source))


def result(name: str, measure: str, contenders: Contenders, images: int) -> Result:
    """Times contenders in turns, in seconds an image."""
    timed = in_turns(contenders, FLAGS.rounds)
    seconds = {who: [one / images for one in each] for who, each in timed.seconds.items()}
    own = seconds["own"]
    ratios = {who: [a / b for a, b in zip(own, each, strict=True)] for who, each in seconds.items() if who != "own"}
    rates = ", ".join(f"{who} {1 / median(each):,.0f}" for who, each in seconds.items())
    print(f"{name}, {measure}: images/s: {rates}")
    return {
        "case": name,
        "measure": measure,
        "unit": UNIT,
        "seconds": seconds,
        "ratios": {who: median(each) for who, each in ratios.items()},
        "spread": {who: [min(each), max(each)] for who, each in ratios.items()},
        "disturbed": timed.disturbed,
    }


def own_epoch(source: data.ImageSource, spec: data.InputSpec) -> Run:
    """Returns a run that reads the next epoch, by threads, in batches as training sends them to the devices."""
    crops = data.random_resized_crops(source, spec, seed=0)
    epochs = itertools.count()

    def run() -> int:
        first = next(epochs) * len(crops)
        read = crops.__getitem__
        with closing(stream.in_order(read, first, first + len(crops), threads=FLAGS.workers, ahead=AHEAD)) as examples:
            batches = iter(lambda: list(itertools.islice(examples, BATCH)), [])
            return sum(len(batched(batch)[1]) for batch in batches)

    return run


def batched(examples: list[tuple[np.ndarray, np.int32]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns examples as one batch."""
    images, labels = zip(*examples, strict=True)
    return np.stack(images), np.stack(labels)


def torch_epoch(source: data.ImageSource) -> Run:
    """Returns a run that reads an epoch by PyTorch's loader: its own workers, and the usual transforms."""
    import torch
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader: Any = torch.utils.data.DataLoader(
        Photographs([source.read(i).where for i in range(len(source))], default_loader, chain),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=FLAGS.workers,
        persistent_workers=True,
    )

    return lambda: sum(len(labels) for _, labels in loader)


class Photographs:
    """What PyTorch's loader reads: files, by torchvision's reader and transforms.

    Args:
      paths: of the files.
      read: of a path, a picture.
      chain: of a picture, a tensor.
    """

    def __init__(self, paths: list[str], read: Any, chain: Any):
        self._paths, self._read, self._chain = paths, read, chain

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._chain(self._read(self._paths[index])), 0


def check_crops(source: data.ImageSource, spec: data.InputSpec) -> None:
    """Raises UserError where torchvision's crop of the same box has other pixels."""
    from torchvision.transforms import InterpolationMode, functional

    crops = data.random_resized_crops(source, spec, seed=0)
    for index in range(4):
        rng = np.random.default_rng(index)
        picture = source.picture(source.read(index), 3)
        box = photographs.random_box(rng, picture.height, picture.width)
        ours, _ = photographs.RandomResizedCrop(source, spec)(source.read(index), np.random.default_rng(index))
        theirs = functional.resized_crop(
            picture, box.top, box.left, box.bottom - box.top, box.right - box.left, [SIZE, SIZE],
            InterpolationMode.BILINEAR,
        )  # fmt: skip
        theirs = functional.hflip(theirs) if rng.random() < 0.5 else theirs
        check_equal("torchvision's crop", ours.astype(np.int32), np.asarray(theirs, np.int32), 0)
    if len({crops[index][0].tobytes() for index in (0, len(crops), 2 * len(crops))}) != 3:
        raise UserError("the crops of three epochs are the same.")


def stages(source: data.ImageSource, spec: data.InputSpec) -> dict[str, Run]:
    """Returns runs of the stages, each of as many images as the source has, in this thread."""
    records = [source.read(index) for index in range(len(source))]
    pictures = [source.picture(record, 3) for record in records[:BATCH]]
    crop = photographs.RandomResizedCrop(source, spec).crop
    rng = np.random.default_rng(0)
    examples = [(crop(picture, rng), np.int32(0)) for picture in pictures]
    return {
        "read": lambda: [source.read(index).label for index in range(len(records))],
        "decode": lambda: [source.picture(record, 3).size for record in records],
        "augment": lambda: [crop(pictures[index % BATCH], rng).shape for index in range(len(records))],
        "batch": lambda: [batched(examples)[1] for _ in range(len(records) // BATCH)],
    }


def write_images(folder: Path) -> float:
    """Writes JPEGs into folders of two classes, from `--photos` or drawn; returns their mean size in KiB."""
    from PIL import Image, ImageOps

    found = sorted(Path(FLAGS.photos).expanduser().rglob("*.jp*g")) if FLAGS.photos else []
    if FLAGS.photos and not found:
        raise UserError(f"--photos={FLAGS.photos} holds no JPEG files.")
    pictures = []
    for number in range(min(len(found) or DRAWN, FLAGS.images)):
        if found:
            with Image.open(found[number]) as photo:
                picture = ImageOps.fit(photo.convert("RGB"), (WIDTH, HEIGHT))
        else:
            picture = Image.fromarray(draw(np.random.default_rng(number)))
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=QUALITY)
        pictures.append(file.getvalue())
    for part, count in (("train", FLAGS.images // BATCH * BATCH), ("test", 2)):
        for number in range(count):
            path = folder / part / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures[number % len(pictures)])
    return sum(map(len, pictures)) / len(pictures) / 1024


def draw(rng: np.random.Generator) -> np.ndarray:
    """Draws shapes of one colour with some noise, `(HEIGHT, WIDTH, 3)` uint8: as hard to compress as a photograph."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.empty((HEIGHT, WIDTH, 3))
    image[:] = rng.uniform(0, 255, 3)
    for _ in range(30):
        top, left, radius = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(10, 100)
        inside = (rows - top) ** 2 + (columns - left) ** 2 < radius**2
        image[inside] = rng.uniform(0, 255, 3) + (rows[inside, None] - top) * rng.uniform(-1, 1, 3)
    return np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
