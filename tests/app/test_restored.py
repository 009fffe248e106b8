"""The images by which a trained net is shown."""

from __future__ import annotations

import numpy as np
import pytest

from cnnjax import data
from cnnjax.app import restored
from cnnjax.errors import UserError


def test_a_test_example_by_number() -> None:
    digits = data.digits()
    title, image, true = restored.test_example(digits, " 40")
    assert title == f"test 40 (true: {digits.test_labels[40]})" and true == digits.test_labels[40]
    np.testing.assert_array_equal(image, digits.test_images[40])
    for index in ("360", "-1", "one", "1.5", ""):
        with pytest.raises(UserError, match=f"--index={index}: must be a number from 0 to 359"):
            restored.test_example(digits, index)
