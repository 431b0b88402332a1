"""Recall and precision against pycocotools on random and real images, and structures with known numbers."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from masktree.cluster.merge import merge_tree
from masktree.errors import FormatError, InputError
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.recall import METRIC_NAMES, RECALL_NAMES, collect, score_image, summarise
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.oracles import recall as oracle

SIZE = (120, 150)


def disc(cy, cx, radius, squeeze, *, size=SIZE):
    y, x = np.ogrid[: size[0], : size[1]]
    return rle.encode(((y - cy) * squeeze) ** 2 + ((x - cx) / squeeze) ** 2 < radius**2)


def random_image(rng, image_id, ground_truths, detections, *, size=SIZE, digits=2):
    """Ellipses of all sizes and noisy copies of them; rounded scores, so that many are equal."""
    shapes = [
        (*(rng.random(2) * size), np.exp(rng.uniform(0.7, 4.2)), np.exp(rng.normal(0, 0.3)))
        for _ in range(max(ground_truths, 1))
    ]
    masks = [disc(*shape, size=size) for shape in shapes[:ground_truths]]
    copies = [shapes[rng.integers(len(shapes))] * np.exp(rng.normal(0, 0.06, 4)) for _ in range(detections)]
    found = [disc(*copy, size=size) for copy in copies]
    areas = rle.areas(masks, size) * rng.choice(
        [1.0, 1.2], ground_truths
    )  # annotated areas need not be those of the masks
    areas[:2] = (32**2, 96**2)[: len(areas[:2])]  # in two ranges each
    ground_truth = ImageGroundTruth.from_masks(
        image_id, f"{image_id}.jpg", size, masks, areas=areas, crowd=rng.random(ground_truths) < 0.2
    )
    boxes = rle.boxes(found, size) + rng.random((detections, 1)) / 3
    return ground_truth, ImageDetections(size, tuple(found), boxes, np.round(rng.random(detections), digits))


def numbers(data, iou_type="masks"):
    return summarise([score_image(ground_truth, found, iou_type=iou_type) for ground_truth, found in data])


def assert_equal(ours, theirs):
    assert list(ours) == list(METRIC_NAMES)
    for name, value in theirs.items():
        assert (ours[name] is None) == (value is None), name
        if value is not None:
            assert ours[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("kind", ["masks", "boxes"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_official_tool(seed, kind):
    rng = np.random.default_rng(seed)
    counts = [(12, 150), (30, 40), (1, 1), (0, 25), (9, 0), (0, 0), (60, 120)]
    ids = rng.permutation(100)[: len(counts)] + 1
    data = [random_image(rng, int(i), *count) for i, count in zip(ids, counts, strict=True)]
    ground_truths, founds = zip(*data, strict=True)
    ours = numbers(data, kind)
    assert_equal(ours, oracle.official(ground_truths, founds, kind))
    assert_equal(ours, oracle.official(ground_truths, founds, kind, use_cats=False))
    assert_equal(ours, oracle.official(ground_truths, founds, kind, faster=True))
    assert 0.05 < ours["ap"] < 0.95
    assert ours["ar10"] < ours["ar100"] < ours["ar1000"] < 1


def test_more_than_a_thousand_detections_equal_the_official_tool(rng):
    data = [random_image(rng, i, 25, 1300, size=(60, 50)) for i in (1, 2)]
    ground_truths, founds = zip(*data, strict=True)
    ours = numbers(data)
    assert_equal(ours, oracle.official(ground_truths, founds))
    assert score_image(*data[0])["detections"] == 1000
    assert data[0][1].scores.min() < np.sort(data[0][1].scores)[-1000]  # some were left out


def test_real_photographs_equal_the_official_tool(shared):
    folder = shared / "data" / "eval" / "car_parts"
    document = json.loads((folder / "annotations.json").read_text())
    data = []
    for image in document["images"][:6]:
        annotations = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        size = (image["height"], image["width"])
        ground_truth = ImageGroundTruth.from_masks(
            image["id"],
            image["file_name"],
            size,
            [a["segmentation"]["counts"].encode() for a in annotations],
            boxes=np.array([a["bbox"] for a in annotations], np.float64),
            areas=np.array([a["area"] for a in annotations], np.float64),
        )
        with Image.open(folder / "images" / image["file_name"]) as photo:
            small = np.asarray(photo.convert("RGB").resize((64, 64)), np.float32)
        tree = merge_tree(small / np.float32(255) + np.float32(0.1))  # colours alone already give trees of real shapes
        rows, columns = (np.arange(side) * 64 // side for side in size)
        tree = tree.with_leaves(tree.leaves[rows[:, None], columns])
        tree = tree.with_altitudes(tree.altitudes / tree.altitudes.max())
        data.append((ground_truth, ImageDetections.from_tree(MaskTree.from_dendrogram(tree, max_masks=1000))))
    ground_truths, founds = zip(*data, strict=True)
    for kind in ("masks", "boxes"):
        ours = numbers(data, kind)
        assert_equal(ours, oracle.official(ground_truths, founds, kind))
        assert ours["ar1000"] > 0.02


def test_the_truth_itself_scores_perfectly(rng):
    ground_truth, _ = random_image(rng, 1, 20, 1, size=(300, 400))
    ground_truth = ImageGroundTruth.from_masks(
        1, "a", ground_truth.size, [one for one in ground_truth.rles if rle.areas([one], ground_truth.size)[0]]
    )
    found = ImageDetections(
        ground_truth.size, ground_truth.rles, ground_truth.boxes, np.linspace(0, 1, len(ground_truth))
    )
    for kind in ("masks", "boxes"):
        stats = score_image(ground_truth, found, iou_type=kind)
        ours = summarise([stats])
        assert ours.pop("ar10") == pytest.approx(10 / len(ground_truth))
        assert all(value is None or value == pytest.approx(1) for value in ours.values())
        assert sum(value is None for value in ours.values()) <= 4
        assert stats["best_iou"] == [1.0] * len(ground_truth)


def test_planted_matches_are_counted():
    """Two ground truths of 40 x 40 pixels, one found with IoU 0.8, and a false detection between."""
    size = (100, 200)
    blank = np.zeros(size, bool)

    def square(top, left, height, width=40):
        mask = blank.copy()
        mask[top : top + height, left : left + width] = True
        return rle.encode(mask)

    ground_truth = ImageGroundTruth.from_masks(3, "a.jpg", size, [square(0, 0, 40), square(50, 100, 40)])
    rles = (square(50, 0, 40), square(0, 0, 32))
    stats = score_image(ground_truth, ImageDetections(size, rles, rle.boxes(rles, size), np.array([0.9, 0.4])))
    assert stats["image_id"] == 3
    assert stats["annotations"] == stats["detections"] == 2
    assert stats["best_iou"] == [0.8, 0]
    assert dict(zip(RECALL_NAMES, stats["tp"], strict=True)) == dict.fromkeys(
        ("ar10", "ar100", "ar1000", "ar_m"), 7
    ) | {
        "ar_s": 0,
        "ar_l": 0,
    }
    assert stats["num_gt"] == [20, 20, 20, 0, 20, 0]
    ours = summarise([stats])
    at_one = 0.5 * 51 / 101  # precision 1/2 up to recall 1/2
    assert ours["ar1000"] == ours["ar_m"] == pytest.approx(0.35)
    assert ours["ap50"] == ours["ap75"] == pytest.approx(at_one)
    assert ours["ap"] == pytest.approx(0.7 * at_one)
    assert ours["ar_s"] is ours["ar_l"] is ours["ap_s"] is ours["ap_l"] is None


def test_a_crowd_is_neither_counted_nor_held_against_what_lies_in_it():
    size = (80, 80)
    inside = [
        disc(20, 20, 9, 1, size=size),
        disc(50, 50, 9, 1, size=size),
        disc(50, 20, 9, 1, size=size),
        disc(20, 60, 10, 1, size=size),
    ]
    crowd = rle.union(inside[:3], size)
    ground_truth = ImageGroundTruth.from_masks(1, "a", size, [crowd, inside[3]], crowd=np.array([True, False]))
    found = ImageDetections(size, tuple(inside), rle.boxes(inside, size), np.array([0.9, 0.8, 0.7, 0.6]))
    stats = score_image(ground_truth, found)
    assert stats["annotations"] == 1
    assert stats["best_iou"] == [1]
    assert summarise([stats])["ap"] == pytest.approx(1)  # although three detections of higher score match nothing else
    plain = ImageGroundTruth.from_masks(1, "a", size, ground_truth.rles)
    assert summarise([score_image(plain, found)])["ap"] == pytest.approx(1 / 4 * 51 / 101)


def test_images_without_truths_or_detections():
    empty = ImageGroundTruth.from_masks(1, "a", SIZE, [])
    nothing = ImageDetections(SIZE, (), np.zeros((0, 4)), np.zeros(0))
    stats = score_image(empty, nothing)
    assert stats["tp"] == stats["num_gt"] == [0] * 6
    assert stats["best_iou"] == []
    assert set(summarise([stats]).values()) == {None}
    missed = score_image(ImageGroundTruth.from_masks(2, "b", SIZE, [disc(50, 50, 20, 1)]), nothing)
    assert missed["best_iou"] == [0]
    assert summarise([missed])["ar1000"] == summarise([missed])["ap"] == 0
    assert summarise([stats, missed])["ap_s"] is None


def test_empty_masks_are_counted_and_never_match(rng):
    masks = [rle.encode(np.zeros(SIZE, bool)), disc(50, 50, 20, 1)]
    ground_truth = ImageGroundTruth.from_masks(1, "a", SIZE, masks)
    found = ImageDetections(SIZE, tuple(masks), ground_truth.boxes, np.array([0.9, 0.5]))
    stats = score_image(ground_truth, found)
    assert (stats["empty_annotations"], stats["empty_detections"]) == (1, 1)
    assert stats["best_iou"] == [0, 1]
    for kind in ("masks", "boxes"):
        assert_equal(numbers([(ground_truth, found)], kind), oracle.official([ground_truth], [found], kind))


def test_stats_are_plain_and_small(rng):
    ground_truth, found = random_image(rng, 1, 80, 1000, size=(200, 250))
    exact = ImageDetections(found.size, found.rles, found.boxes, rng.random(1000))
    single = ImageDetections(found.size, found.rles, found.boxes, rng.random(1000).astype(np.float32))
    for detections, most in ((found, 8_000), (single, 10_000), (exact, 15_000)):
        stats = score_image(ground_truth, detections)
        text = json.dumps(stats, allow_nan=False)
        assert len(text) < most
        assert summarise([json.loads(text)]) == summarise([stats])
        assert {type(value) for value in stats.values()} == {int, list, str}


def test_order_of_images_and_detections_does_not_matter(rng):
    data = [random_image(rng, i, 10, 60) for i in (1, 2, 3)]
    stats = [score_image(*one) for one in data]
    assert summarise(stats[::-1]) == summarise(stats)  # although many scores are equal
    for i, (ground_truth, found) in enumerate(data):
        scores = rng.permutation(60) / 60  # no equal ones
        first = ImageDetections(SIZE, found.rles, found.boxes, scores)
        order = rng.permutation(60)
        second = ImageDetections(SIZE, tuple(found.rles[k] for k in order), found.boxes[order], scores[order])
        assert score_image(ground_truth, first) == score_image(ground_truth, second), i


def test_weights_equal_repeated_images(rng):
    data = [random_image(rng, i, 10, 60, digits=12) for i in range(1, 6)]
    stats = [score_image(*one) for one in data]
    weights = np.array([2, 0, 1, 3, 1])
    drawn = [one for one, weight in zip(stats, weights, strict=True) for _ in range(weight)]
    ours = collect(stats).summary(weights)
    assert_equal(summarise(drawn), ours)
    ground_truths, founds = zip(
        *[one for one, weight in zip(data, weights, strict=True) for _ in range(weight)], strict=True
    )
    copies = [
        ImageGroundTruth(i + 1, str(i), t.size, t.rles, t.boxes, t.areas, t.crowd, t.parents)
        for i, t in enumerate(ground_truths)
    ]
    assert_equal(ours, oracle.official(copies, founds))
    assert collect(stats).summary() == summarise(stats) != ours
    assert set(collect(stats).summary(np.zeros(5, np.int64)).values()) == {None}


def test_boxes_need_no_masks():
    boxes = np.array([[0.0, 0, 50, 40], [60, 20, 30, 30.5]])
    ground_truth = ImageGroundTruth(
        1, "a", SIZE, None, boxes, np.array([2000.0, 915.0]), np.zeros(2, bool), np.full(2, -1, np.int32)
    )
    found = ImageDetections(SIZE, None, boxes + np.array([0, 0, 0, 2]), np.array([0.5, 0.6]))
    stats = score_image(ground_truth, found, iou_type="boxes")
    assert stats["best_iou"] == [0.952, 0.938]
    assert_equal(summarise([stats]), oracle.official([ground_truth], [found], "boxes"))
    with pytest.raises(InputError, match=r"a: expected masks; got annotations with a box only; compare boxes with"):
        score_image(ground_truth, found)


def test_memory_is_that_of_runs_on_large_images():
    size = (4000, 6000)
    starts = np.arange(0, 1000 * size[0], size[0])
    rles = [rle.encode_runs(starts + i, starts + i + 40 + i % 60, size) for i in range(0, 3000, 3)]
    ground_truth = ImageGroundTruth.from_masks(1, "a", size, rles[::10])
    found = ImageDetections(size, tuple(rles), rle.boxes(rles, size), np.linspace(1, 0, 1000))
    score_image(ground_truth, ImageDetections(size, tuple(rles[:2]), found.boxes[:2], found.scores[:2]))  # compiles
    tracemalloc.start()
    stats = score_image(ground_truth, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stats["best_iou"] == [1.0] * 100
    assert peak < 150e6  # 1.1 million runs of 24 bytes, sorted; one dense mask alone has 24 MB


def test_bad_input_names_the_image(rng):
    ground_truth, found = random_image(rng, 7, 5, 6)
    other = random_image(rng, 7, 5, 6, size=(150, 120))[1]
    with pytest.raises(InputError, match=r"7\.jpg: expected predictions of 120 x 150 .* got 150 x 120"):
        score_image(ground_truth, other)
    with pytest.raises(InputError, match=r"7\.jpg: expected predicted masks; got boxes only"):
        score_image(ground_truth, ImageDetections(SIZE, None, found.boxes, found.scores))
    foreign = ImageDetections(
        SIZE, (*found.rles[:3], rle.encode(np.ones((9, 9), bool))), found.boxes[:4], found.scores[:4]
    )
    with pytest.raises(InputError, match=r"7\.jpg: predictions: .* in mask 3; got 81 pixels"):
        score_image(ground_truth, foreign)
    damaged = ImageGroundTruth(
        7, "7.jpg", SIZE, (b"\x01",), found.boxes[:1], np.ones(1), np.zeros(1, bool), -np.ones(1, int)
    )
    with pytest.raises(InputError, match=r"7\.jpg: ground truth: .* in mask 0; got a character"):
        score_image(damaged, found)
    corners = ImageDetections(SIZE, None, np.array([[5.0, 5, -1, 2]]), np.ones(1))
    with pytest.raises(InputError, match=r"7\.jpg: predictions: expected boxes .* in box 0"):
        score_image(ground_truth, corners, iou_type="boxes")
    with pytest.raises(InputError, match="expected masks or boxes; got 'points'"):
        score_image(ground_truth, found, iou_type="points")


def test_stats_of_wrong_shape_are_refused(rng):
    stats = score_image(*random_image(rng, 7, 5, 6))
    with pytest.raises(InputError, match="at least one image"):
        summarise([])
    for text in ("%", stats["matches"][:-8], "eJwDAAAAAAE=", None):
        with pytest.raises(FormatError, match="image 7: expected the matches of 6 detections"):
            summarise([stats | {"matches": text}])
    for weights in (np.ones(2, int), np.array([0.5]), np.array([-1])):
        with pytest.raises(InputError, match="whole weights"):
            collect([stats]).summary(weights)
