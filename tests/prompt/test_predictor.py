"""The interface of segment-anything's predictor, on every object that can be prompted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import masktree
from masktree import MaskTree, Predictor
from masktree.errors import ImageError, InputError
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from tests.prompt.planted import OTHER, PART, SIZE, nested, strips

IMAGE = np.zeros((*SIZE, 3), np.uint8)


class Fixed:
    """A segmenter that gives the same tree, and remembers its images."""

    def __init__(self, tree: MaskTree) -> None:
        self.tree, self.seen = tree, []

    def __call__(self, image):
        self.seen.append(image)
        return self.tree


@pytest.fixture(scope="module")
def photo(photos):
    return resize_image(read_image(photos[0]), (120, 160))


@pytest.fixture(scope="module")
def texture():
    return masktree.load("texture", device="cpu")


def published_script(predictor, generator, image, *, obeyed=True):
    """What segment-anything's README and notebook do; nothing but how the objects were made has changed."""
    predictor.set_image(image)
    input_point = np.array([[80, 60]])
    input_label = np.array([1])
    masks, scores, logits = predictor.predict(
        point_coords=input_point,
        point_labels=input_label,
        multimask_output=True,
    )
    assert masks.shape[1:] == image.shape[:2]
    assert len(masks) == len(scores) == len(logits) >= 1

    input_point = np.array([[80, 60], [90, 70]])
    input_label = np.array([1, 1])
    mask_input = logits[np.argmax(scores), :, :]
    masks, _, _ = predictor.predict(
        point_coords=input_point,
        point_labels=input_label,
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    assert masks.shape == (1, *image.shape[:2])
    assert not obeyed or (masks[0][60, 80] and masks[0][70, 90])

    input_box = np.array([30, 20, 120, 100])
    masks, _, _ = predictor.predict(
        point_coords=None,
        point_labels=None,
        box=input_box[None, :],
        multimask_output=False,
    )
    assert masks.shape == (1, *image.shape[:2])
    masks, _, _ = predictor.predict(
        point_coords=np.array([[40, 30]]), point_labels=np.array([0]), box=input_box, multimask_output=False
    )
    assert not (obeyed and masks[0][30, 40])

    anns = generator.generate(image)
    assert anns
    for ann in sorted(anns, key=(lambda x: x["area"]), reverse=True):
        assert {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"} <= set(
            ann
        )
        assert ann["segmentation"].shape == image.shape[:2]


def test_a_script_for_segment_anything_runs(photo, texture):
    segmenter = texture
    published_script(masktree.Predictor(segmenter), masktree.AutomaticMaskGenerator(segmenter), photo)


def test_every_backbone_answers_clicks(photo, texture):
    predictor = Predictor(texture)
    assert predictor.device == "cpu"
    assert not predictor.is_image_set
    predictor.set_image(photo)
    assert predictor.original_size == photo.shape[:2]
    masks, scores, _ = predictor.predict([[80, 60]], [1])
    assert masks[:, 60, 80].all()
    assert masks.dtype == np.bool_
    assert scores.dtype == np.float32


def test_all_kinds_of_images_can_be_set(tmp_path):
    segmenter = Fixed(nested())
    predictor = Predictor(segmenter)
    rgb = np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint8).reshape(*SIZE, 3)
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    for image, order in (
        (rgb, "RGB"),
        (rgb[..., ::-1], "BGR"),
        (Image.fromarray(rgb), "RGB"),
        (tmp_path / "photo.png", "RGB"),
    ):
        predictor.set_image(image, order)
        assert np.array_equal(segmenter.seen[-1], rgb)
    predictor.reset_image()
    assert not predictor.is_image_set
    with pytest.raises(InputError, match="call set_image first"):
        predictor.predict([[1, 1]], [1])
    with pytest.raises(InputError, match="call set_image first"):
        _ = predictor.original_size
    with pytest.raises(InputError, match="'RGB' or 'BGR'; got 'HSV'"):
        predictor.set_image(rgb, "HSV")
    with pytest.raises(InputError, match="got None, which only trees accept"):
        predictor.set_image(None)
    with pytest.raises(InputError, match=r"not in \[0, 1\]"):
        predictor.set_image(rgb.astype(float))
    with pytest.raises(ImageError):
        predictor.set_image(tmp_path / "none.png")


def test_an_image_that_fails_leaves_none_set():
    predictor = Predictor(Fixed(nested()))
    predictor.set_image(IMAGE)
    with pytest.raises(InputError):
        predictor.set_image(IMAGE[..., :2])
    assert not predictor.is_image_set


def test_trees_need_no_image():
    for tree in (nested(), strips()):
        predictor = Predictor(tree)
        assert predictor.is_image_set
        first = predictor.predict([[8, 8]], [1])[0]
        predictor.set_image(IMAGE)
        assert np.array_equal(predictor.predict([[8, 8]], [1])[0], first)
        predictor.set_image(None)
        predictor.reset_image()
        assert predictor.is_image_set
        with pytest.raises(InputError, match=r"image of the tree, of size \(40, 60\); got one of size \(41, 60\)"):
            predictor.set_image(np.zeros((41, 60, 3), np.uint8))


def test_a_segmenter_with_dendrograms_answers_from_them():
    segmented = MaskTree.from_dendrogram(strips())
    predictor = Predictor(Fixed(segmented))
    predictor.set_image(IMAGE)
    masks, _, _ = predictor.predict([[8, 8], [20, 8]], [1, 0])
    assert masks[0].sum() == 600
    assert predictor.predict([[8, 8]], [1], granularity=0.1)[0].sum() == 600


def test_logits_instead_of_masks():
    predictor = Predictor(nested())
    masks, _, _ = predictor.predict([[8, 8]], [1])
    logits, _, _ = predictor.predict([[8, 8]], [1], return_logits=True)
    assert logits.dtype == np.float32
    assert np.array_equal(logits > 0, masks)
    assert set(np.unique(logits)) == {-10, 10}


def test_a_granularity_asks_for_one_mask():
    for g in (0.1, 0.55, 1):
        masks, scores, low = Predictor(nested()).predict([[8, 8]], [1], granularity=g)
        assert len(masks) == len(scores) == len(low) == 1
    assert np.array_equal(Predictor(nested()).predict([[40, 10]], [1], granularity=0.1)[0], OTHER[None])
    assert np.array_equal(Predictor(nested()).predict([[25, 15]], [1], granularity=0.1)[0], PART[None])


def test_objects_that_cannot_be_prompted_raise_an_input_error():
    with pytest.raises(InputError, match="a segmenter, a MaskTree or a PartitionTree; got str"):
        Predictor("embedded")
    with pytest.raises(InputError, match="num_multimask_outputs as a whole number"):
        Predictor(nested(), num_multimask_outputs=0)
    with pytest.raises(InputError, match="to its MaskTree; got one to int"):
        Predictor(lambda image: 3).set_image(IMAGE)


# --- calls of segment-anything ----------------------------------------------------------------------------------------


def test_a_click_has_as_many_masks_as_in_segment_anything():
    predictor = Predictor(nested())
    masks, scores, logits = predictor.predict(np.array([[8, 8]]), np.array([1]))
    assert (masks.shape, scores.shape, logits.shape) == ((3, *SIZE), (3,), (3, 256, 256))
    assert len({mask.tobytes() for mask in masks}) > 1
    nowhere, scores, _ = predictor.predict([[SIZE[1] - 1, SIZE[0] - 1]], [1])
    assert nowhere.shape == (3, *SIZE)
    assert not nowhere.any()
    assert not scores.any()
    repeated, scores, _ = Predictor(nested(), num_multimask_outputs=20).predict([[8, 8]], [1])
    assert len(repeated) == 20
    assert (repeated[-1] == repeated[-2]).all()
    assert scores[-1] == scores[-2]


def test_padding_and_rounding_of_prompts_do_not_matter():
    predictor = Predictor(nested())
    expected = predictor.predict([[0, 8]], [1])[0]
    assert (predictor.predict([[0, 8], [0, 0]], [1, -1])[0] == expected).all()
    assert (predictor.predict([[-0.4, 8]], [1])[0] == expected).all()
    height, width = SIZE
    box = predictor.predict(box=[0, 0, width, height])[0]
    assert (predictor.predict(box=np.array([-0.4, -3, width + 2, height]))[0] == box).all()
    assert (predictor.predict([[9, 9]], [-1], box=[0, 0, width, height])[0] == box).all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": [[-1.5, 8]], "point_labels": [1]}, r"clicks inside the image .* got \(-1.5, 8\)"),
        ({"point_coords": [[8, 8]], "point_labels": [-1]}, "a click inside the entity"),
        ({"box": [-30, 5, 20, 30]}, "of which at least half is inside"),
        ({"box": [[5, 5, 20, 30], [6, 6, 20, 30]]}, r"shape \(2, 4\); predict_torch takes several boxes"),
    ],
)
def test_prompts_that_mean_something_else_are_refused(prompt, message):
    with pytest.raises(InputError, match=message):
        Predictor(nested()).predict(**prompt)


def test_several_prompts_at_once_are_answered_as_one_by_one():
    image = np.zeros((40, 60, 3), np.uint8)
    predictor = Predictor(nested())
    boxes = [[1.0, 1, 31, 39], [34, 4.5, 60.4, 26]]  # the second reaches a hair beyond the image
    frame = predictor.transform.apply_boxes_torch(torch.tensor(boxes), image.shape[:2])
    assert frame[0, 2].item() == pytest.approx(31 * 1024 / 60)
    masks, scores, logits = predictor.predict_torch(None, None, frame, multimask_output=False)
    assert (masks.shape, masks.dtype, scores.shape) == ((2, 1, 40, 60), torch.bool, (2, 1))
    for index, box in enumerate(boxes):
        mask, score, low_res = predictor.predict(box=box, multimask_output=False)
        assert (masks[index].numpy() == mask).all()
        assert scores[index].numpy() == score
        assert (logits[index].numpy() == low_res).all()
    again, _, _ = predictor.predict_torch(None, None, mask_input=logits, return_logits=True)
    assert (again.shape, again.dtype) == ((2, 3, 40, 60), torch.float32)
    assert ((again[:, 0] > 0) == masks[:, 0]).all()
    empty, scores, logits = predictor.predict_torch(None, None, frame[:0])
    assert (empty.shape, scores.shape, logits.shape) == ((0, 3, 40, 60), (0, 3), (0, 3, 256, 256))


def test_every_click_of_a_batch_stays_in_its_pixel():
    predictor = Predictor(nested())
    pixels = torch.cartesian_prod(torch.arange(2, 30), torch.arange(2, 38))[::7]
    clicks = torch.stack([pixels, torch.zeros_like(pixels)], 1)  # the second is padding
    labels = torch.tensor([[1, -1]]).repeat(len(clicks), 1)
    masks, _, _ = predictor.predict_torch(predictor.transform.apply_coords_torch(clicks, (40, 60)), labels)
    assert masks[np.arange(len(pixels)), 0, pixels[:, 1], pixels[:, 0]].all()
    for size in ((1080, 1920), (3456, 5184), (7, 3000)):
        x = np.arange(size[1], dtype=np.float64)
        there = predictor.transform.apply_coords(np.stack([x, x], 1), size).astype(np.float32)
        assert (predictor.transform.invert_coords(there, size)[:, 0] == x).all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"boxes": torch.zeros(4)}, r"boxes of shape \(B, 4\), of B prompts; got \(4,\); one prompt is B = 1"),
        ({"boxes": np.zeros((1, 4))}, "boxes as a tensor; got ndarray; use torch.as_tensor"),
        ({"point_coords": torch.ones(2, 1, 2), "point_labels": torch.ones(3, 1)}, "2 point_coords, 3 point_labels"),
        ({"mask_input": torch.ones(1, 256, 256)}, r"\(B, 1, 256, 256\)"),
        ({}, "one of each for a prompt; got none"),
    ],
)
def test_batches_of_other_shapes_are_refused(prompts, message):
    with pytest.raises(InputError, match=message):
        Predictor(nested()).predict_torch(**({"point_coords": None, "point_labels": None} | prompts))
