"""What the tests of pictures share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that is not blank."""
    with Image.open(path) as image:
        image.load()
        assert np.asarray(image.convert("L")).std() > 1, "the picture is blank"
        return image.size
