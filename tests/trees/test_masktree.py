from __future__ import annotations

import base64
import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import masktree
from masktree.cluster.merge import merge_tree
from masktree.errors import FormatError, InputError
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.trees import rle
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree


def rectangle(y0, y1, x0, x1, size=(20, 30)):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def forest() -> MaskTree:
    """A whole with a part and its sub-part, and a second whole that overlaps nothing."""
    return MaskTree.from_masks(
        np.array(
            [
                rectangle(2, 18, 2, 18),
                rectangle(4, 12, 4, 12),
                rectangle(5, 8, 5, 8),
                rectangle(0, 20, 22, 28),
            ]
        )
    )


@pytest.fixture
def partitioned(rng) -> MaskTree:
    tree = merge_tree(rng.normal(size=(12, 15, 6)).astype(np.float32))
    return MaskTree.from_dendrogram(tree.with_altitudes(tree.altitudes / 2), min_area=3)


def check_invariants(tree: MaskTree) -> None:
    for index in range(len(tree)):
        mask, parent = tree.mask(index), tree.parents[index]
        assert tree.areas[index] == mask.sum()
        x, y, w, h = tree.boxes[index].astype(int)
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        if parent >= 0:
            assert (mask & tree.mask(parent)).sum() >= 0.9 * mask.sum()
            assert tree.areas[parent] > tree.areas[index]
            assert tree.granularities[parent] >= tree.granularities[index]
            assert tree.depths[index] == tree.depths[parent] + 1
    np.testing.assert_array_equal(tree.levels, np.minimum(tree.depths, 2))
    last = None
    for granularity in np.linspace(0, 1, 7):
        labels = tree.cut(float(granularity))
        assert labels.shape == tree.size
        assert set(np.unique(labels)) == set(range(labels.max() + 1))
        last = labels.max() if last is None else min(last, labels.max())


def test_forests_and_partitions_satisfy_the_invariants(forest, partitioned):
    check_invariants(forest)
    check_invariants(partitioned)
    assert len(partitioned) > 5


def test_hierarchy_of_the_planted_forest(forest):
    assert forest.parents.tolist() == [-1, 0, 1, -1]
    assert [forest.record(i)["level"] for i in range(4)] == ["whole", "part", "subpart", "whole"]


def test_at_gives_the_chain_from_subpart_to_whole(forest):
    assert forest.at(x=6, y=6) == [2, 1, 0]
    assert forest.at(x=25, y=0) == [3]
    assert forest.at(x=0, y=0) == []
    for x, y in ((-1, 0), (30, 0), (0, 20)):
        with pytest.raises(InputError, match="0 <= x < 30, 0 <= y < 20"):
            forest.at(x=x, y=y)


def test_at_takes_the_pixel_that_holds_the_point(forest):
    for x in range(30):
        for y in range(20):
            assert forest.at(x + 0.75, y + 0.5) == forest.at(np.int16(x), np.float32(y)) == forest.at(x, y)
    for column, row in ((float("nan"), 3), (3, float("nan")), (-0.5, 3), (30.0, 3), (3, float("inf"))):
        with pytest.raises(InputError, match="a point inside the image"):
            forest.at(column, row)


def test_a_fine_cut_shows_every_mask_and_the_coarsest_the_wholes(forest):
    """Finest: every mask shows. Coarsest: the wholes. The uncovered rest is one remainder per connected piece."""
    finest, coarsest = forest.cut(0.0), forest.cut(1.0)
    owner = forest.owners(0.0)
    for index in range(4):
        visible = forest.mask(index) & ~np.any(
            [forest.mask(c) for c in np.flatnonzero(forest.parents == index)] or [np.zeros(forest.size, bool)], axis=0
        )
        np.testing.assert_array_equal(owner == index, visible)
    # remainders: around the first whole (columns 0..21) and right of the second (columns 28, 29)
    assert finest.max() + 1 == 4 + 2
    assert coarsest.max() + 1 == 2 + 2
    np.testing.assert_array_equal(forest.owners(1.0) == 0, forest.mask(0))


def test_cut_of_a_partition_is_that_of_the_dendrogram(partitioned):
    for granularity in (0.0, 0.3, 0.62, 1.0):
        np.testing.assert_array_equal(partitioned.cut(granularity), partitioned.dendrogram.cut(1 - granularity))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"granularity in \[0, 1\]"):
            partitioned.cut(wrong)


def reproduced(tree: MaskTree, granularities: list[float]) -> np.ndarray:
    """Whether mask i is a region of the cut at granularity i."""
    result = []
    for index, granularity in enumerate(granularities):
        mask = tree.mask(index)
        labels = tree.cut(granularity)
        region = labels == labels[mask][0]
        result.append((region == mask).all())
    return np.array(result)


@pytest.fixture(scope="module")
def real(photos) -> list[MaskTree]:
    segmenter = masktree.load(min_area=4, max_area=1.0)
    trees = []
    for path in photos[:3]:
        image = read_image(path)
        scale = 200 / max(image.shape)
        trees.append(segmenter(resize_image(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))))
    return trees


def test_every_mask_is_a_region_of_the_cut_at_its_granularity(real, partitioned, tmp_path):
    found, apart = [], []
    for tree in [*(tree.nodes for tree in real), partitioned]:
        tree.save(tmp_path / "t.json")
        back = MaskTree.load(tmp_path / "t.json")
        nodes = {item: node for node, item in enumerate(tree.dendrogram.rles(np.arange(len(tree.dendrogram.parents))))}
        indices = np.array([nodes[item] for item in tree.rles])
        altitudes = tree.dendrogram.altitudes
        above = np.where(indices < len(altitudes) - 1, altitudes[tree.dendrogram.parents[indices]], np.inf)
        assert (tree.granularities >= altitudes[indices]).all()
        written = [tree.record(i)["granularity"] for i in range(len(tree))]
        for granularities in (tree.granularities.tolist(), back.granularities.tolist(), written):
            found.append(reproduced(tree, granularities))
            apart.append(above - altitudes[indices] > 2e-5)
    regions = np.concatenate(found)
    assert len(regions) > 300
    assert regions[np.concatenate(apart)].all()
    assert regions.mean() >= 0.99


def test_granularities_are_rounded_up_and_files_do_not_drift(rng):
    values = np.concatenate([rng.random(20_000), np.arange(100_001) / 1e5, np.arange(1, 100_001) / 1e5 - 1e-9, [0, 1]])
    single = ceil_float32(values)
    assert single.dtype == np.float32
    assert (single >= values).all()
    assert single.max() == 1
    assert (single - values < 2e-7).all()
    chosen = rng.choice(len(values), 3000, replace=False)
    tree = MaskTree.from_rles([b"4"] * 3000, (2, 2), np.full(3000, -1))
    tree = replace(tree, granularities=single[chosen])
    written = np.array([tree.record(i)["granularity"] for i in range(3000)])
    assert (written >= values[chosen]).all()
    assert (written - values[chosen] < 1.00001e-5).all()
    tree = replace(tree, granularities=ceil_float32(written))
    assert [tree.record(i)["granularity"] for i in range(3000)] == written.tolist()


def test_overlapping_masks_stand_in_the_cut_at_their_written_granularity(tmp_path):
    pixels = np.arange(1, 300) * 31
    rles = [rle.encode_runs(np.array([0]), np.array([count]), (100, 100)) for count in pixels]
    tree = MaskTree.from_rles(rles, (100, 100), np.append(np.arange(1, 299), -1))
    tree.save(tmp_path / "t.json")
    for again in (tree, MaskTree.load(tmp_path / "t.json")):
        for index, count in enumerate(pixels):
            owners = again.owners(again.record(index)["granularity"])
            assert owners[(count - 1) % 100, (count - 1) // 100] == index
            assert owners[0, 0] == index  # the largest that may stand


def test_a_cut_takes_the_altitude_itself(partitioned):
    """Not 1 - (1 - altitude), which rounding may put below the altitude."""
    for altitude in partitioned.dendrogram.altitudes:
        np.testing.assert_array_equal(partitioned.cut(altitude), partitioned.dendrogram.cut_at(altitude))


def test_selected_nodes_hold_no_near_duplicates_and_the_best_stay(partitioned):
    n = len(partitioned)
    masks = np.array([partitioned.mask(i) for i in range(n)]).reshape(n, -1).astype(int)
    shared = masks @ masks.T
    iou = shared / (masks.sum(1)[:, None] + masks.sum(1)[None] - shared)
    assert (iou[~np.eye(n, dtype=bool)] <= 0.9).all()
    few = MaskTree.from_dendrogram(partitioned.dendrogram, min_area=3, max_masks=4)
    assert few.omitted == len(partitioned) - 4
    assert len(MaskTree.from_dendrogram(partitioned.dendrogram, min_area=3, max_masks=None)) == len(partitioned)
    assert sorted(few.scores)[::-1] == pytest.approx(sorted(partitioned.scores)[::-1][:4])
    expected = partitioned.stabilities * np.sqrt(partitioned.areas / np.prod(partitioned.size))
    np.testing.assert_allclose(partitioned.scores, expected, rtol=1e-6)


def test_a_uniform_image_is_one_mask():
    one_leaf = PartitionTree(np.zeros((4, 6), np.int32), np.zeros(1, np.int32), np.zeros(1))
    equal_leaves = PartitionTree(
        np.repeat([[0, 1]], 12, 1).astype(np.int32), np.array([2, 2, 2], np.int32), np.zeros(3)
    )
    for dendrogram in (one_leaf, equal_leaves):
        tree = MaskTree.from_dendrogram(dendrogram, min_area=24)
        assert len(tree) == 1
        assert tree.mask(0).all()
        assert tree.scores.tolist() == [1]
        assert tree.cut(0.5).max() == 0
        assert len(MaskTree.from_dendrogram(dendrogram, min_area=25)) == 0


def test_thresholds_that_no_node_meets_give_no_masks(partitioned):
    for wish in ({"min_area": 10_000}, {"max_area": 1e-9}):
        tree = MaskTree.from_dendrogram(partitioned.dendrogram, **wish)
        assert len(tree) == 0
        assert tree.at(3, 3) == []
        np.testing.assert_array_equal(tree.cut(0.3), partitioned.cut(0.3))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("min_area", (0, 1.5, float("nan"), "32")),
        ("max_masks", (0, -1, 2.0)),
        ("max_area", (0, 1.1, float("nan"))),
        ("duplicate_iou", (-0.1, 1.1, float("nan"))),
    ],
)
def test_options_of_the_selection_are_checked(partitioned, name, values):
    for value in values:
        with pytest.raises(InputError, match=f"expected {name}"):
            MaskTree.from_dendrogram(partitioned.dendrogram, **{name: value})


def test_a_tree_without_masks_has_empty_arrays():
    tree = MaskTree.from_masks(np.zeros((0, 4, 6), bool))
    assert len(tree) == 0
    assert tree.masks() == []
    assert tree.at(1, 1) == []
    assert tree.cut(0.5).max() == 0  # one remainder


def test_indexing_renumbers_parents_to_the_nearest_kept_ancestor(forest):
    kept = forest[np.array([True, False, True, True])]
    assert kept.parents.tolist() == [-1, 0, -1]
    assert kept.levels.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match=r"boolean array of shape \(4,\)"):
        forest[np.array([0, 1])]


def test_refuses_inconsistent_arrays(forest):
    def build(**change):
        values = {
            "size": forest.size, "rles": forest.rles, "parents": forest.parents, "scores": forest.scores,
            "granularities": forest.granularities, "stabilities": forest.stabilities, "levels": forest.levels,
        }  # fmt: skip
        return MaskTree(**(values | change))

    build()
    with pytest.raises(InputError, match=r"scores of shape \(4,\)"):
        build(scores=np.ones(3, np.float32))
    with pytest.raises(InputError, match="finite scores"):
        build(scores=np.array([1, np.nan, 1, 1], np.float32))
    with pytest.raises(InputError, match="cycle"):
        build(parents=np.array([1, 0, -1, -1], np.int32))
    with pytest.raises(InputError, match=r"parents in -1\.\.3"):
        build(parents=np.array([4, 0, -1, -1], np.int32))
    for name in ("scores", "granularities", "stabilities"):
        for value in (-0.1, 1.5):
            with pytest.raises(InputError, match=rf"{name} in \[0, 1\]; got .*{value}"):
                build(**{name: np.array([0.5, value, 0.5, 0.5], np.float32)})
    for name in ("parents", "scores", "levels"):
        with pytest.raises(InputError, match=f"{name} as a NumPy array; got list"):
            build(**{name: getattr(forest, name).tolist()})
    with pytest.raises(InputError, match="parents of type int32; got float64"):
        build(parents=forest.parents.astype(float))
    for size in ((0, 30), (20, -30), (20.5, 30), (20, 30, 3)):
        with pytest.raises(InputError, match="size of two whole numbers above 0"):
            build(size=size)
    with pytest.raises(InputError, match="as bytes"):
        build(rles=("40", *forest.rles[1:]))


def test_arrays_of_the_caller_stay_writable_and_those_of_a_tree_stay_as_they_are(forest):
    given = {name: getattr(forest, name).copy() for name in ("parents", "scores", "granularities", "stabilities")}
    tree = replace(forest, **given)
    for name, array in given.items():
        before = array.copy()
        array[:] = 0
        np.testing.assert_array_equal(getattr(tree, name), before)
        with pytest.raises(ValueError, match="read-only"):
            getattr(tree, name)[0] = 0


def test_trees_are_compared_and_hashed_by_identity(forest, partitioned):
    other = replace(forest)
    assert forest == forest
    assert forest != other
    assert len({forest, other, forest, partitioned.dendrogram}) == 3


# --- dictionaries and files ---------------------------------------------------------------------------------------


def test_masks_have_the_keys_of_segment_anything(forest):
    records = forest.masks()
    assert [r["area"] for r in records] == sorted((r["area"] for r in records), reverse=True)
    sam = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
    for record in records:
        assert set(record) == sam | {"id", "parent_id", "level", "depth", "kind", "granularity"}
        x, y = record["point_coords"][0]
        assert record["segmentation"][int(y), int(x)]
        assert record["segmentation"].sum() == record["area"]


def test_rle_output_modes_decode_with_the_coco_tools(forest):
    for compressed, plain, dense in zip(
        forest.masks(output_mode="coco_rle"),
        forest.masks(output_mode="uncompressed_rle"),
        forest.masks(),
        strict=True,
    ):
        np.testing.assert_array_equal(coco.decode(compressed["segmentation"]).astype(bool), dense["segmentation"])
        again = coco.frPyObjects(plain["segmentation"], *forest.size)
        np.testing.assert_array_equal(coco.decode(again).astype(bool), dense["segmentation"])


def test_point_coords_are_well_inside():
    """Of a rectangle and a disc the middle; of a ring a pixel of the ring."""
    y, x = np.mgrid[:61, :81]
    disc = (y - 30) ** 2 + (x - 40) ** 2 <= 20**2
    ring = disc & ((y - 30) ** 2 + (x - 40) ** 2 > 12**2)
    tree = MaskTree.from_masks(np.array([rectangle(10, 31, 5, 76, (61, 81)), disc, ring]))
    points = {r["id"]: r["point_coords"][0] for r in tree.masks(output_mode="coco_rle")}
    assert points[0] == [40, 20]
    assert points[1] == [40, 30]
    assert ring[int(points[2][1]), int(points[2][0])]


def test_a_tree_is_described_in_one_line(forest, partitioned):
    assert repr(forest) == "MaskTree(20 x 30, 4 masks: 2 wholes, 1 part, 1 subpart)"
    assert "dendrogram of 180 leaves" in repr(partitioned)
    assert "7 more left out by max_masks" in repr(replace(forest, omitted=7))
    for tree in (forest, partitioned):
        assert "\n" not in repr(tree)
        assert len(repr(tree)) < 160
    with pytest.raises(InputError, match="omitted as a whole number"):
        replace(forest, omitted=-1)


def test_a_notebook_shows_the_line_a_picture_and_a_row_per_level(forest):
    shown = forest._repr_html_()
    page = ET.fromstring(f"<body>{shown}</body>".replace('0.5">', '0.5"/>'))
    assert page.findtext("div") == repr(forest)
    data = base64.b64decode(page.find("img").get("src").removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (30, 20)
    rows = [[cell.text for cell in row] for row in page.find("table")]
    assert rows[1:] == [
        ["whole", "2", "120", "188", "256", "0.45 to 0.65", "1.00"],
        ["part", "1", "64", "64", "64", "0.33 to 0.33", "1.00"],
        ["subpart", "1", "9", "9", "9", "0.12 to 0.12", "1.00"],
    ]
    large = MaskTree.from_rles([rle.encode(np.ones((3000, 4000), bool))] * 50, (3000, 4000), np.full(50, -1))
    assert len(large._repr_html_()) < 20_000
    assert "<table>" not in MaskTree.from_masks(np.zeros((0, 4, 5), bool))._repr_html_()


def test_to_coco_is_a_document_that_the_coco_tools_load(forest, tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(forest.to_coco("a.png", image_id=3)))
    loaded = COCO(path)
    assert loaded.imgs == {3: {"id": 3, "file_name": "a.png", "width": 30, "height": 20}}
    assert [category["name"] for category in loaded.loadCats(loaded.getCatIds())] == ["entity"]
    for index, annotation in enumerate(loaded.loadAnns(loaded.getAnnIds(3))):
        np.testing.assert_array_equal(loaded.annToMask(annotation).astype(bool), forest.mask(index))


def test_coco_annotations_keep_the_tree(forest):
    annotations = forest.coco_annotations(image_id=7, first_id=100)
    assert [a["id"] for a in annotations] == [100, 101, 102, 103]
    assert [a["parent_id"] for a in annotations] == [None, 100, 101, None]
    assert all(a["image_id"] == 7 and a["iscrowd"] == 0 for a in annotations)
    for index, annotation in enumerate(annotations):
        np.testing.assert_array_equal(coco.decode(annotation["segmentation"]).astype(bool), forest.mask(index))
    json.dumps(annotations)


@pytest.mark.parametrize("which", ["forest", "partitioned"])
def test_a_file_gives_back_the_tree(which, request, tmp_path):
    tree = replace(request.getfixturevalue(which), omitted=7)
    tree.save(tmp_path / "t.json", image={"file_name": "a ü.jpg"})
    back = MaskTree.load(tmp_path / "t.json")
    assert back.omitted == 7
    assert back.rles == tree.rles
    np.testing.assert_array_equal(back.parents, tree.parents)
    np.testing.assert_array_equal(back.levels, tree.levels)
    np.testing.assert_allclose(back.granularities, tree.granularities, atol=1e-5)
    assert (back.dendrogram is None) == (tree.dendrogram is None)
    if tree.dendrogram is not None:
        np.testing.assert_array_equal(back.dendrogram.leaves, tree.dendrogram.leaves)
        np.testing.assert_array_equal(back.dendrogram.parents, tree.dendrogram.parents)
        np.testing.assert_array_equal(back.dendrogram.altitudes, tree.dendrogram.altitudes)
        np.testing.assert_array_equal(back.ucm(doubled=True), tree.ucm(doubled=True))
    tree.save(tmp_path / "again.json", image={"file_name": "a ü.jpg"})
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2  # no temporary files stay


def test_damaged_files_are_named(partitioned, tmp_path):
    path = tmp_path / "t.json"
    partitioned.save(path)
    good = json.loads(path.read_text())

    def expect(message, text=None, **change):
        path.write_text(json.dumps(good | change) if text is None else text)
        with pytest.raises(FormatError, match=message):
            MaskTree.load(path)

    expect("expected JSON; got a damaged file", text=path.read_text()[:-40])
    expect("something else", text="[]")
    expect("expected version 2; got 99", version=99)
    expect("damaged tree", masks=[{"id": 0}])
    expect("damaged tree", dendrogram=good["dendrogram"] | {"leaves": "AAAA"})
    expect("damaged tree", dendrogram=good["dendrogram"] | {"parents": good["dendrogram"]["altitudes"]})
    expect("damaged tree", image={"width": 3, "height": 3})
    expect("the number Infinity", image={"width": float("inf"), "height": 3})
    expect("damaged tree", image={"width": 2**70, "height": 3})
    expect("expected JSON; got a damaged file", text="[" * 100_000)


def test_damaged_masks_are_found_when_the_file_is_read(forest, tmp_path):
    path = tmp_path / "t.json"
    forest.save(path)
    good = json.loads(path.read_text())

    def expect(message, **change):
        masks = [good["masks"][0], good["masks"][1] | change, *good["masks"][2:]]
        path.write_text(json.dumps(good | {"masks": masks}))
        with pytest.raises(FormatError, match=f"t.json: .*damaged .*{message}"):
            MaskTree.load(path)

    expect("one id per mask", id=0)
    expect("one id per mask", id=None)
    expect("size", segmentation=good["masks"][1]["segmentation"] | {"size": [30, 20]})
    expect("600", segmentation={"size": [20, 30], "counts": "4"})
    expect("run length", segmentation={"size": [20, 30], "counts": "~~~"})
    expect(r"scores in \[0, 1\]", score=7)
    expect(r"granularities in \[0, 1\]", granularity=-1)
    expect("the number NaN", stability=float("nan"))
    expect("expected stability", stability=10**400)
    expect("id of a mask; got 99", parent_id=99)
    path.write_text(json.dumps(good | {"image": good["image"] | {"width": 0}}))
    with pytest.raises(FormatError, match="damaged tree"):
        MaskTree.load(path)


def test_ucm_needs_a_partition(forest):
    with pytest.raises(InputError, match="overlapping masks only"):
        forest.ucm()
