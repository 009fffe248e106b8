"""What an experiment on images makes of its description: the size of its images and the views of its evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cnnjax import data
from cnnjax.app import experiment
from cnnjax.errors import UserError


def described(monkeypatch: pytest.MonkeyPatch, *, augment: bool = False, tta: str = "none", **changes: object):
    monkeypatch.setattr(experiment, "FLAGS", SimpleNamespace(augment=augment, tta=tta))
    return experiment.Experiment(name="x", model={"name": "lenet5"}, recipe={}, **{"size": 224, **changes})  # type: ignore[arg-type]


def test_images_are_resized_to_eight_sevenths_for_random_crops_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert described(monkeypatch, crops=True, augment=True).resize_to() == 256
    assert described(monkeypatch, crops=True).resize_to() == 224
    assert described(monkeypatch, resize=True, augment=True).resize_to() == 224
    assert described(monkeypatch, augment=True).resize_to() is None, "smaller images are padded"
    assert described(monkeypatch, resize=True, size=None).resize_to() is None


@pytest.mark.parametrize(
    ("augment", "tta", "ten_crop", "views"),
    [
        (True, "none", None, "ten_crop"),
        (True, "none", False, None),
        (False, "none", None, None),
        (False, "none", True, "ten_crop"),
        (True, "mirror", None, "mirror"),
        (False, "shift", False, "shift"),
    ],
)
def test_what_evaluation_sees(
    augment: bool, tta: str, ten_crop: bool | None, views: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert described(monkeypatch, augment=augment, tta=tta, crops=True, ten_crop=ten_crop).views() == views


def test_two_ways_to_evaluate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--tta=mirror and --ten_crop are two ways to evaluate"):
        described(monkeypatch, tta="mirror", crops=True, ten_crop=True).views()


def test_the_old_name_of_the_loader_still_works() -> None:
    assert data.load is data.load_dataset
