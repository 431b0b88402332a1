from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.errors import InputError
from masktree.models import trees
from masktree.models.cascade.detections import BoxDetections
from masktree.models.inputs import prepare_image
from masktree.models.mask2former.model import QueryDetections
from masktree.models.trees import segment_images, tree_of
from masktree.trees import hierarchy, rle
from tests.models.standins import PlantedDetections, TinyModel
from tests.oracles import released


def planted(masks: list[np.ndarray], **heads) -> PlantedDetections:
    """ModelDetections that render to exactly these masks at their own size."""
    size = masks[0].shape
    logits = torch.from_numpy(np.stack(masks)).float() * 2 - 1
    return PlantedDetections(torch.linspace(0.9, 0.1, len(masks)), logits, size, size, **heads)


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


WHOLE, PART, CORNER, OTHER = box(0, 0, 30, 40), box(5, 5, 20, 20), box(6, 6, 13, 13), box(25, 45, 40, 60)


# --- tree_of --------------------------------------------------------------------------------------------------------


def test_tree_has_masks_scores_and_parents_by_coverage():
    tree = tree_of(planted([PART, WHOLE, OTHER, CORNER]), (40, 60))
    assert tree.parents.tolist() == [1, -1, -1, 0]
    assert tree.levels.tolist() == [1, 0, 0, 2]
    np.testing.assert_allclose(tree.scores, np.linspace(0.9, 0.1, 4), rtol=1e-6)
    for index, mask in enumerate((PART, WHOLE, OTHER, CORNER)):
        np.testing.assert_array_equal(tree.mask(index), mask)


def test_empty_small_low_scoring_and_duplicate_masks_are_dropped():
    masks = [PART, np.zeros_like(PART), CORNER, PART, WHOLE, OTHER]
    assert tree_of(planted(masks), (40, 60)).areas.tolist() == [225, 49, 1200, 225]
    assert tree_of(planted(masks), (40, 60), min_area=50).areas.tolist() == [225, 1200, 225]
    best = tree_of(planted(masks), (40, 60), min_score=0.25)  # of the two equal ones the better stays; OTHER goes
    assert best.areas.tolist() == [225, 49, 1200]
    assert best.scores[0] == pytest.approx(0.9)


def test_parents_from_the_ancestor_head_skip_dropped_masks():
    """The head says CORNER < PART < WHOLE although OTHER covers none of them; an empty mask stands between."""
    masks = [CORNER, np.zeros_like(PART), OTHER, PART, WHOLE]
    ancestors = torch.zeros(5, 5)
    ancestors[0, 3] = ancestors[0, 4] = ancestors[3, 4] = 0.9
    ancestors[2, 4] = 0.4  # not enough
    ancestors[4, 1] = ancestors[0, 1] = 1.0  # the empty mask
    tree = tree_of(planted(masks, ancestors=ancestors), (40, 60))
    assert tree.parents.tolist() == [2, -1, 3, -1]
    assert tree.levels.tolist() == [2, 0, 1, 0]


def test_levels_come_from_the_level_head():
    levels = torch.tensor([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]])
    tree = tree_of(planted([WHOLE, OTHER, PART], levels=levels), (40, 60))
    assert tree.levels.tolist() == [1, 2, 0]
    assert tree.parents.tolist() == [-1, -1, 0]


def test_no_detections_give_an_empty_tree():
    nothing = PlantedDetections(torch.zeros(0), torch.zeros(0, 4, 4), (32, 32), (32, 32), ancestors=torch.zeros(0, 0))
    tree = tree_of(nothing, (33, 57))
    assert (len(tree), tree.size) == (0, (33, 57))
    assert len(tree_of(planted([WHOLE]), (40, 60), min_score=1.0)) == 0


def test_invalid_limits_and_nan_scores_are_refused():
    with pytest.raises(InputError, match="min_area of at least 1 pixel; got 0"):
        tree_of(planted([WHOLE]), (40, 60), min_area=0)
    with pytest.raises(InputError, match=r"min_score in \[0, 1\]; got nan"):
        tree_of(planted([WHOLE]), (40, 60), min_score=float("nan"))
    broken = dataclasses.replace(planted([WHOLE]), scores=torch.tensor([float("nan")]))
    with pytest.raises(InputError, match="finite scores from the model"):
        tree_of(broken, (40, 60))


def test_encoding_in_the_box_equals_rle_encode(rng):
    for _ in range(300):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        assert trees._encode_in_box(mask) == rle.encode(mask)


class Counting:
    """Many masks of a large image, and the bytes of dense masks that were asked for at a time."""

    def __init__(self, count: int) -> None:
        self.scores, self.ancestors, self.levels = torch.linspace(1, 0.5, count), None, None
        self.most = 0

    def render(self, start: int, stop: int, size: tuple[int, int]) -> torch.Tensor:
        self.most = max(self.most, (stop - start) * size[0] * size[1])
        masks = torch.zeros(stop - start, *size, dtype=torch.bool)
        for i in range(start, stop):
            masks[i - start, : 10 + i, : 10 + i] = True
        return masks


def test_few_masks_are_dense_at_a_time(monkeypatch):
    many = Counting(50)
    assert len(tree_of(many, (400, 500))) == 50
    assert many.most == 50 * 400 * 500  # all fit
    monkeypatch.setattr(trees, "_BATCH_BYTES", 3 * 400 * 500 + 7)
    few = Counting(50)
    tree = tree_of(few, (400, 500))
    assert few.most == 3 * 400 * 500
    assert tree.areas.tolist() == [(10 + i) ** 2 for i in range(50)]
    monkeypatch.setattr(trees, "_BATCH_BYTES", 1)
    assert tree_of(alone := Counting(5), (400, 500)).rles == tree.rles[:5]
    assert alone.most == 400 * 500


@pytest.mark.parametrize("kind", ["queries", "boxes"])
def test_detections_of_both_models_become_trees(kind):
    """Three nested squares on a 64 x 96 photograph that the network saw at half its size."""
    sides = [(8, 8, 56, 56), (16, 16, 48, 48), (24, 24, 40, 40)]  # left, top, right, bottom in the original
    found: BoxDetections | QueryDetections
    if kind == "boxes":
        edges = torch.tensor(sides).float() / 2
        found = BoxDetections(
            edges, torch.tensor([0.9, 0.8, 0.7]), torch.eye(3), torch.ones(3, 28, 28), valid_size=(32, 48)
        )
    else:
        grid = torch.arange(0, 16).float()
        masks = [((grid * 8 >= a) & (grid * 8 < c)) for a, _, c, _ in sides]
        pixels = torch.stack([(m[:, None] & m[None, :]).float() for m in masks] + [torch.full((16, 16), -0.5)])
        embeddings = torch.cat([torch.eye(3), torch.ones(3, 1)], 1)
        ancestors = torch.tensor([[0, 0, 0], [0.9, 0, 0], [0.9, 0.8, 0]])
        found = QueryDetections(torch.tensor([0.9, 0.8, 0.7]), ancestors, embeddings, pixels, (32, 48))
    tree = tree_of(found, (64, 96))
    assert tree.parents.tolist() == [-1, 0, 1]
    assert tree.levels.tolist() == [0, 1, 2]
    for index, (left, top, right, bottom) in enumerate(sides):
        wanted = box(top, left, bottom, right, (64, 96))
        mask = tree.mask(index)
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.75


# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "valid_size", "padded"),
    [
        ((60, 100), (38, 64), (64, 64)),
        ((300, 128), (64, 27), (64, 32)),
        ((1, 1), (64, 64), (64, 64)),
        ((1, 900), (1, 64), (32, 64)),
        ((64, 64), (64, 64), (64, 64)),
    ],
)
def test_longer_side_is_resized_and_padding_is_zero(rng, size, valid_size, padded):
    image = rng.integers(1, 256, (*size, 3), np.uint8)
    item = prepare_image(image, 64, cues=True)
    assert (item.valid_size, item.size) == (valid_size, size)
    assert item.pixels.shape == (3, *padded)
    assert item.cues.shape == (NUM_CUES, padded[0] // 2, padded[1] // 2)
    h, w = valid_size
    assert item.pixels[:, :h, :w].min() > 0
    assert item.pixels.max() <= 1
    assert item.pixels[:, h:].abs().sum() + item.pixels[:, :, w:].abs().sum() == 0
    assert item.cues[:, (h + 1) // 2 :].abs().sum() + item.cues[:, :, (w + 1) // 2 :].abs().sum() == 0


@pytest.mark.parametrize("size", [(480, 640), (300, 900), (50, 50), (1, 3000), (427, 640), (333, 500)])
def test_the_shorter_side_can_be_given_as_in_the_released_detectors(size):
    item = prepare_image(np.zeros((*size, 3), np.uint8), 133, 80, cues=False)
    assert item.valid_size == tuple(max(1, side) for side in released.shortest_edge(size, 80, 133))
    assert item.pixels.shape[1:] == tuple(-(-side // 32) * 32 for side in item.valid_size)


def test_an_image_of_the_input_size_is_unchanged(rng):
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    item = prepare_image(image, 64, cues=True)
    np.testing.assert_allclose(item.pixels[:, :48].permute(1, 2, 0) * 255, image, atol=1e-4)
    np.testing.assert_array_equal(item.cues[:, :24].numpy(), boundary_cues(image).maps)
    assert prepare_image(image, 64, cues=False).cues is None


# --- segment_images -------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> TinyModel:
    torch.manual_seed(3)
    return TinyModel().eval()


def agree(a, b) -> bool:
    """Whether two trees have the same masks but for a few pixels."""
    if len(a) != len(b):
        return False
    shared = np.diag(rle.cross_intersections(a.rles, b.rles, a.size)) if len(a) else np.zeros(0)
    return bool((shared >= 0.99 * np.maximum(a.areas, b.areas)).all())


def test_order_and_batching_do_not_matter(rng, model):
    sizes = [(50, 70), (64, 30), (50, 70), (5, 7), (64, 30), (50, 70), (1, 1)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    together = segment_images(model, images, batch_size=2, min_area=1)
    assert [tree.size for tree in together] == sizes
    assert sum(map(len, together)) > 5
    for image, tree in zip(images, together, strict=True):
        assert agree(segment_images(model, [image], min_area=1)[0], tree)
        hierarchy.depths(tree.parents)
    assert segment_images(model, []) == []


def test_cues_are_given_to_models_that_want_them(rng):
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)
    assert segment_images(TinyModel(wants_cues=True).eval(), [image])[0].size == (50, 70)


def test_bfloat16_gives_nearly_the_same_masks(rng, model):
    image = np.repeat(np.repeat(rng.integers(0, 256, (5, 7, 3), np.uint8), 10, 0), 10, 1)
    full, half = (segment_images(model, [image], dtype=dtype)[0] for dtype in (torch.float32, torch.bfloat16))
    assert len(full) == len(half) >= 1
    shared = np.diag(rle.cross_intersections(full.rles, half.rles, full.size))
    assert (shared >= 0.9 * full.areas).all()
