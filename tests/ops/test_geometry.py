"""Shapes, receptive fields and counts against hand-computed numbers, and a test per error message."""

import numpy as np
import pytest

from cnnjax.ops import output_shape, receptive_field
from cnnjax.ops.counts import Counts, conv_counts, subsample_counts
from cnnjax.ops.geometry import real_taps, resolve_padding, slide
from tests.tables import in_one_case


@in_one_case(
    ("sizes", "window", "keywords", "expected"),
    [
        ((32, 32), 5, {}, (28, 28)),
        ((224, 224), 7, {"stride": 2, "padding": 3}, (112, 112)),
        ((227, 227), 11, {"stride": 4}, (55, 55)),
        ((224, 224), 11, {"stride": 4, "padding": 2}, (55, 55)),
        ((55, 55), 3, {"stride": 2}, (27, 27)),
        ((7,), 3, {"padding": "SAME"}, (7,)),
        ((7,), 3, {"padding": "SAME", "stride": 2}, (4,)),
        ((7,), 3, {"padding": "SAME_LOWER", "stride": 3}, (3,)),
        ((7,), 3, {"padding": "FULL"}, (9,)),
        ((7,), 3, {"padding": "FULL", "dilation": 2}, (11,)),
        ((7,), 3, {"padding": "CAUSAL", "dilation": 3}, (7,)),
        ((7,), 3, {"padding": -1}, (3,)),
        ((7, 9), (3, 1), {"padding": ((1, 0), -2)}, (6, 5)),
        ((7, 9, 4), (3, 2, 1), {"stride": (2, 3, 1), "dilation": (1, 2, 5)}, (3, 3, 4)),
        ((np.int64(7),), np.array([3]), {"stride": np.int32(2)}, (3,)),
        ((5,), 2, {"stride": 2, "padding": 0, "ceil_mode": True}, (3,)),
        ((5,), 2, {"stride": 2, "padding": 0}, (2,)),
        ((6,), 2, {"stride": 2, "padding": 0, "ceil_mode": True}, (3,)),
        # a window that would start in the high padding is left out
        ((3,), 2, {"stride": 3, "padding": 1, "ceil_mode": True}, (2,)),
        ((2,), 1, {"stride": 3, "padding": 1, "ceil_mode": True}, (1,)),
    ],
)
def test_output_shape(sizes, window, keywords, expected):
    assert output_shape(sizes, window, **keywords) == expected


@in_one_case(
    ("name", "stride", "dilation", "expected"),
    [
        ("VALID", 1, 1, (0, 0)),
        ("SAME", 1, 1, (1, 2)),  # window 4 over 6: three in all, the odd one high
        ("SAME_LOWER", 1, 1, (2, 1)),
        ("SAME", 2, 1, (1, 1)),  # 3 outputs span 8
        ("SAME", 5, 1, (1, 2)),  # 2 outputs span 9
        ("SAME", 6, 1, (0, 0)),  # never negative
        ("SAME", 1, 3, (4, 5)),
        ("FULL", 1, 2, (6, 6)),
        ("CAUSAL", 1, 2, (6, 0)),
    ],
)
def test_named_padding(name, stride, dilation, expected):
    assert resolve_padding(name, (6,), (4,), (stride,), (dilation,)) == (expected,)


def test_real_taps():
    windows = slide((5,), 3, stride=2, padding=((1, 1),))
    assert real_taps(windows, 0) == [2, 3, 2]
    assert real_taps(windows, 0, padded=True) == [3, 3, 3]
    windows = slide((4,), 3, stride=2, padding=((0, 0),), ceil_mode=True)
    assert real_taps(windows, 0) == real_taps(windows, 0, padded=True) == [3, 2]
    windows = slide((3,), 2, stride=1, padding=2, dilation=3)  # at -2 and 1, -1 and 2, 0 and 3, 1 and 4
    assert real_taps(windows, 0) == [1, 1, 1, 1]


def test_receptive_field():
    assert receptive_field([]) == 1
    assert receptive_field([3, 3, 3]) == 7
    assert receptive_field([(3, 1), (2, 2), (3, 1)]) == 8
    assert receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)]) == 15  # doubling dilations
    assert receptive_field([{"window": 7, "stride": 2}, {"window": 3, "stride": 2, "padding": 1}]) == 11
    assert receptive_field([((3, 5), (2, 1)), (2, 2)]) == (5, 6)


def test_lenet5_counts():
    layers = [
        conv_counts((28, 28), (5, 5), 1, 6),
        subsample_counts((14, 14), (2, 2), 6),
        conv_counts((10, 10), (5, 5), 6, 16, links=60),
        subsample_counts((5, 5), (2, 2), 16),
        conv_counts((1, 1), (5, 5), 16, 120),
        conv_counts((), (), 120, 84),
    ]
    assert [layer.params for layer in layers] == [156, 12, 1516, 32, 48120, 10164]
    assert [layer.connections for layer in layers] == [122304, 5880, 151600, 2000, 48120, 10164]
    assert conv_counts((27, 27), (5, 5), 96, 256, groups=2).params == 307456  # AlexNet's conv2
    assert conv_counts((2,), (3,), 4, 6, bias=False) == Counts(72, 144, 144)


@in_one_case(
    ("arguments", "error", "words"),
    [
        (((8, 8), 9), ValueError, r"window must fit .* window 9 .* input 8"),
        (((8,), 3, {"dilation": 4}), ValueError, "spans 9"),
        (((8, 8), (3, 3, 3)), ValueError, r"window must be an int or one int per spatial dimension \(2\)"),
        (((8, 8), 0), ValueError, "window must be at least 1, got 0"),
        (((8, 8), 2.0), TypeError, "window must be an int or 2 ints, got 2.0"),
        (((8, 8), True), TypeError, "window must be made of ints, got True"),
        (((8, 8), (2, 2.5)), TypeError, "window must be made of ints, got 2.5"),
        (((8, 8), "2"), TypeError, "window must be an int"),
        (((8, 8), 2, {"stride": 0}), ValueError, "stride must be at least 1, got 0"),
        (((8, 8), 2, {"dilation": (1, -1)}), ValueError, r"dilation must be at least 1, got \(1, -1\)"),
        (((8, 0), 2), ValueError, "spatial_shape must have"),
        ((8, 2), TypeError, "spatial_shape must be a sequence"),
        (((8, 8), 2, {"padding": "same"}), ValueError, 'did you mean "SAME"'),
        (((8, 8), 2, {"padding": "SAME_UPPER"}), ValueError, 'did you mean "SAME"'),
        (((8, 8), 2, {"padding": "CAUSAL"}), ValueError, "one spatial dimension, got 2"),
        (((8, 8), 2, {"padding": (1, 1, 1)}), ValueError, "padding must be an int, or 2 entries"),
        (((8,), 2, {"padding": (1, 2)}), ValueError, r"write \(\(1, 2\),\)"),
        (((8,), 2, {"padding": ((1, 2, 3),)}), ValueError, "padding must be an int, or 1 entries"),
        (((8,), 2, {"padding": 0.5}), TypeError, "padding must be an int"),
        (((8,), 2, {"padding": None}), TypeError, "padding must be an int"),
        (((8,), 2, {"padding": ((0.5, 1),)}), TypeError, "padding must be made of ints"),
        (((8,), 1, {"padding": ((-8, 9),)}), ValueError, "crops all 8"),
        (((8,), 2, {"ceil_mode": True}), ValueError, "ceil_mode=True needs padding in numbers"),
        (((8,), 2, {"padding": 0, "ceil_mode": 1}), TypeError, "ceil_mode must be True or False"),
    ],
)
def test_output_shape_errors(arguments, error, words):
    *positional, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=words):
        output_shape(*positional, **keywords)


@in_one_case(
    ("layers", "error", "words"),
    [
        ([(3, 0)], ValueError, r"layers\[0\]: stride must be at least 1"),
        ([3, "3"], TypeError, r"layers\[1\] must be made of ints"),
        ([(3, 1, 1, 1)], ValueError, r"layers\[0\] must be"),
        ([{"kernel_size": 3}], ValueError, r"layers\[0\] must have the keys"),
        ([((3, 3), 1), ((3, 3, 3), 1)], ValueError, "agree on the number of spatial dimensions"),
    ],
)
def test_receptive_field_errors(layers, error, words):
    with pytest.raises(error, match=words):
        receptive_field(layers)


def test_counts_errors():
    with pytest.raises(ValueError, match="groups must be 1 where links is given"):
        conv_counts((1,), (1,), 4, 4, groups=2, links=3)
