from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.io.photos import Photo
from masktree.stages.target_count import SAMPLE_IMAGES, choose_options
from tests.oracles.discover import PaintedBackbone

BACKBONE = PaintedBackbone({(0, 0, 0): np.ones(2)})


@dataclass(frozen=True)
class Tree:
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class FakeSegmenter:
    """Number of masks of an image: grows with the thresholds and with the grey of the image. Seen images are noted."""

    method: str = "sohes"
    options: dict[str, Any] = field(default_factory=dict)
    backbone: PaintedBackbone = BACKBONE
    seen: list[int] = field(default_factory=list)
    min_score: float = 0.0
    max_masks: int = 1000

    def __call__(self, image: np.ndarray) -> Tree:
        grey = int(image[0, 0, 0])
        self.seen.append(grey)
        if self.method == "masktree":
            stable = np.linspace(1, 0, 100 + grey)
            return Tree(stable[stable >= self.min_score][: self.max_masks])
        return Tree(np.zeros(round((10 + grey) * (1 + 2 * np.mean(self.options["thresholds"])))))


@pytest.fixture
def folder(tmp_path):
    """Ten one-pixel images of grey 0..9 and what they are to be called."""
    photos = []
    for grey in range(10):
        Image.fromarray(np.full((1, 1, 3), grey, np.uint8)).save(tmp_path / f"{grey}.png")
        photos.append(Photo(tmp_path / f"{grey}.png", str(grey)))
    return photos


def masks_per_image(options: dict[str, Any], method: str) -> float:
    limits = {name: options[name] for name in ("min_score", "max_masks") if name in options}
    segmenter = FakeSegmenter(method, options, **limits)
    return float(np.mean([len(segmenter(np.full((1, 1, 3), grey, np.uint8))) for grey in range(10)]))


@pytest.mark.parametrize("method", ["hassod", "sohes", "unsam"])
@pytest.mark.parametrize("wanted", [12, 20.5, 30])
def test_one_shift_of_the_published_thresholds_gives_the_target_number(folder, method, wanted):
    options = choose_options(folder, FakeSegmenter(method, {"min_coverage": 0.8}), wanted)
    assert options["min_coverage"] == 0.8
    published = (0.4, 0.2, 0.1) if method == "hassod" else (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    shifts = np.subtract(options["thresholds"], published)
    np.testing.assert_allclose(shifts, shifts[0], atol=1e-4)
    step = 29 * 1.0 / 2**6 + 0.5  # growth of the count over the last interval, and rounding
    assert abs(masks_per_image(options, method) - wanted) < step


@pytest.mark.parametrize("wanted", [1, 3.5, 60])
def test_the_minimum_stability_is_found(folder, wanted):
    options = choose_options(folder, FakeSegmenter("masktree", {"min_area": 9}), wanted)
    assert options["min_area"] == 9
    assert abs(masks_per_image(options, "masktree") - wanted) <= 1.0


def test_the_published_number_needs_no_shift(folder):
    published = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    wanted = masks_per_image({"thresholds": published}, "sohes")
    options = choose_options(folder, FakeSegmenter(), wanted)
    np.testing.assert_allclose(options["thresholds"], published, atol=0.03)


@pytest.mark.parametrize(("method", "images"), [("masktree", 10), ("sohes", 60)])
def test_progress_is_shown(folder, capsys, method, images):
    choose_options(folder, FakeSegmenter(method), 20, show_progress=True)
    assert f"{images}/{images} images" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [0, -3, float("nan")])
def test_a_number_that_is_not_positive_is_refused(folder, wanted):
    with pytest.raises(InputError, match="positive, finite number of labels"):
        choose_options(folder, FakeSegmenter(), wanted)


@pytest.mark.parametrize("wanted", [1, 500])
def test_unreachable_numbers_name_the_range(folder, wanted):
    with pytest.raises(InputError, match=r"between (\d+\.\d) and (\d+\.\d) labels per image.*painted.*got") as raised:
        choose_options(folder, FakeSegmenter(), wanted)
    low, high = (
        float(word) for word in str(raised.value).split() if word.replace(".", "", 1).isdigit() and "." in word
    )
    assert wanted < low or wanted > high
    for reachable in (np.ceil(low), np.floor(high)):
        assert choose_options(folder, FakeSegmenter(), reachable)


def test_more_masks_than_there_are_is_refused(folder):
    with pytest.raises(InputError, match=r"at most 104\.5 labels per image"):
        choose_options(folder, FakeSegmenter("masktree"), 105)


def test_the_sample_is_spread_over_the_collection(tmp_path):
    photos = []
    for grey in range(100):
        Image.fromarray(np.full((1, 1, 3), grey, np.uint8)).save(tmp_path / f"{grey:03}.png")
        photos.append(Photo(tmp_path / f"{grey:03}.png", str(grey)))
    segmenter = FakeSegmenter("masktree")
    choose_options(photos, segmenter, 5)
    assert len(segmenter.seen) == SAMPLE_IMAGES
    assert segmenter.seen[0] == 0
    assert segmenter.seen[-1] == 99
    assert max(np.diff(segmenter.seen)) <= 5


def test_unreadable_images_are_passed_over(folder):
    folder[3].path.write_bytes(b"words")
    segmenter = FakeSegmenter("masktree")
    choose_options(folder, segmenter, 5)
    assert segmenter.seen == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    for photo in folder:
        photo.path.write_bytes(b"words")
    with pytest.raises(InputError, match="at least one readable image"):
        choose_options(folder, FakeSegmenter(), 5)
