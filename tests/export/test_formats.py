"""Every format against an independent reader, pixel by pixel: the tool's own package, or a parser written here."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.export.formats import FORMATS
from masktree.export.options import ExportOptions, cut_tree
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import LEVELS, MaskTree
from tests.export.planted import SIZE, fill, planted_image, planted_masks, planted_photo, planted_tree

PARENTS = [None, 0, 1, 2, 0, 0]


@pytest.fixture
def image(tmp_path):
    return planted_image(tmp_path)


def write(to, image, path, **options):
    """One image in a format."""
    entry = FORMATS[to]
    chosen = ExportOptions(**options)
    entry.write(image if entry.scope == "image" else iter([entry.prepare(image, chosen)]), path, chosen)
    return path


def rings_of(geometry):
    pieces = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [np.array(ring) for piece in pieces for ring in piece]


def test_imagej_regions_are_read_by_roifile(image, tmp_path):
    roifile = pytest.importorskip("roifile", reason="roifile is not installed: pip install roifile.")
    rois = roifile.roiread(write("imagej", image, tmp_path / "a.zip"))
    assert [roi.name for roi in rois] == [f"{i:04d}-{LEVELS[level]}" for i, level in enumerate(image.tree.levels)]
    for index, (roi, mask) in enumerate(zip(rois, planted_masks(), strict=True)):
        paths = roi.coordinates(multi=True)
        np.testing.assert_array_equal(fill([np.asarray(path) for path in paths]), mask)
        rows, columns = np.nonzero(mask)
        assert (roi.top, roi.left, roi.bottom, roi.right) == (
            rows.min(), columns.min(), rows.max() + 1, columns.max() + 1,
        )  # fmt: skip
        assert roi.group == image.tree.levels[index] + 1
        properties = dict(line.split(": ") for line in roi.props.splitlines())
        assert properties["parent_id"] == ("" if PARENTS[index] is None else str(PARENTS[index]))
        assert float(properties["score"]) == pytest.approx(image.tree.scores[index])
    assert [roi.roitype.name for roi in rois] == ["TRACED", "RECT", "RECT", "TRACED", "RECT", "TRACED"]
    assert (tmp_path / "a.zip").read_bytes() == write("imagej", image, tmp_path / "b.zip").read_bytes()


def test_qupath_features_are_nested_or_flat(image, tmp_path):
    document = json.loads(write("qupath", image, tmp_path / "a.geojson").read_text())
    found = {}

    def visit(features, parent):
        for feature in features:
            properties = feature["properties"]
            index = int(properties["metadata"]["mask_id"])
            found[index] = parent
            np.testing.assert_array_equal(fill(rings_of(feature["geometry"])), planted_masks()[index])
            assert properties["objectType"] == "annotation"
            assert properties["measurements"]["area"] == planted_masks()[index].sum()
            assert properties["classification"]["name"] == LEVELS[image.tree.levels[index]]
            visit(properties.get("childObjects", []), index)

    visit(document["features"], None)
    assert [found[index] for index in range(6)] == PARENTS
    flat = write("qupath", image, tmp_path / "a.geojson.gz", flat=True, compress=True)
    features = json.loads(gzip.decompress(flat.read_bytes()))["features"]
    assert [f["properties"]["metadata"].get("parent_id") for f in features] == [None, "0", "1", "2", "0", "0"]
    assert len({f["id"] for f in features}) == 6


@pytest.fixture
def geotiff(image):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed: pip install rasterio.")
    photo = image.photo.with_suffix(".tif")
    transform = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)
    with rasterio.open(
        photo, "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=3, dtype="uint8", crs="EPSG:32633",
        transform=transform,
    ) as file:  # fmt: skip
        file.write(planted_photo().transpose(2, 0, 1))
    return photo


@pytest.mark.parametrize("to", ["geojson", "gpkg"])
@pytest.mark.parametrize("has_system", [True, False])
def test_gis_files_are_read_by_gdal(image, geotiff, tmp_path, to, has_system):
    pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed: pip install pyogrio.")
    from dataclasses import replace

    if has_system:
        image = replace(image, photo=geotiff)
    path = write(to, image, tmp_path / f"a{FORMATS[to].suffix}")
    meta, _, geometries, columns = pyogrio.raw.read(path)
    values = dict(zip(meta["fields"].tolist(), columns, strict=True))
    assert (meta["crs"] == "EPSG:32633") is has_system
    assert values["mask_id"].tolist() == list(range(6))
    assert [None if np.isnan(v) else int(v) for v in values["parent_id"]] == PARENTS
    assert values["level"].tolist() == [LEVELS[level] for level in image.tree.levels]
    assert values["area"].tolist() == planted_masks().sum((1, 2)).tolist()
    for geometry, mask in zip(geometries, planted_masks(), strict=True):
        rings = wkb_rings(geometry)
        if has_system:
            rings = [(ring - [400_000, 5_800_000]) / [0.5, -0.5] for ring in rings]
        np.testing.assert_array_equal(fill(rings), mask)


def wkb_rings(data):
    """All rings of a polygon or multipolygon in well-known binary."""
    kind, count = np.frombuffer(data, "<u4", 2, 1)
    at, rings = 9, []

    def polygon(at, count):
        for _ in range(count):
            [n] = np.frombuffer(data, "<u4", 1, at)
            rings.append(np.frombuffer(data, "<f8", 2 * n, at + 4).reshape(-1, 2))
            at += 4 + 16 * int(n)
        return at

    if kind == 3:
        polygon(at, count)
    else:
        for _ in range(count):
            at = polygon(at + 9, int(np.frombuffer(data, "<u4", 1, at + 5)[0]))
    return rings


def test_a_geotiff_that_is_gone_is_not_taken_for_one_without_coordinates(image, geotiff, tmp_path):
    from dataclasses import replace

    geotiff.unlink()
    with pytest.raises(ValueError, match="No such file"):
        write("geojson", replace(image, photo=geotiff), tmp_path / "a.geojson")


@pytest.fixture
def dendrogram_image(image):
    """Six stripes that are merged one after the other."""
    from dataclasses import replace

    leaves = np.broadcast_to(np.arange(SIZE[1], dtype=np.int32) // 8, SIZE).copy()
    parents = np.array([6, 6, 7, 8, 9, 10, 7, 8, 9, 10, 10], np.int32)
    altitudes = np.array([0, 0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.7, 0.9])
    tree = PartitionTree(leaves=leaves, parents=parents[: 2 * 6 - 1], altitudes=altitudes)
    return replace(image, tree=MaskTree.from_dendrogram(tree, min_area=1))


def test_label_images_are_the_cuts(dendrogram_image, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: pip install tifffile.")
    path = write("label-tiff", dendrogram_image, tmp_path / "a.ome.tif", granularities=(0.1, 0.5))
    with tifffile.TiffFile(path) as file:
        labels = file.asarray()
        names = [e.get("Name") for e in ET.fromstring(file.ome_metadata).iter() if e.tag.endswith("Channel")]
    assert names == ["granularity 0.1", "granularity 0.5"]
    assert labels.dtype == np.uint16
    assert [label.max() for label in labels] == [6, 4]
    for label, granularity in zip(labels, (0.1, 0.5), strict=True):
        np.testing.assert_array_equal(label, dendrogram_image.tree.cut(granularity) + 1)


@pytest.mark.parametrize("to", ["ucm", "ucm-tiff"])
def test_contour_maps_keep_sixteen_bits(dendrogram_image, image, tmp_path, to):
    with Image.open(write(to, dendrogram_image, tmp_path / "a")) as picture:
        assert picture.mode == "I;16"
        values = np.asarray(picture)
    np.testing.assert_array_equal(values, np.round(dendrogram_image.tree.ucm() * 65535))
    assert len(np.unique(values)) > 3
    with pytest.raises(InputError, match="a tree with a dendrogram"):
        write(to, image, tmp_path / "b")


def test_coco_files_are_read_by_pycocotools(image, tmp_path):
    from pycocotools.coco import COCO

    coco = COCO(str(write("coco", image, tmp_path / "a.json")))
    assert coco.imgs == {1: {"id": 1, "file_name": "sub/a.png", "width": SIZE[1], "height": SIZE[0]}}
    for index, (annotation, mask) in enumerate(zip(coco.anns.values(), planted_masks(), strict=True)):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        parent = None if PARENTS[index] is None else PARENTS[index] + 1
        assert annotation["parent_id"] == annotation["attributes"]["parent_id"] == parent
        assert annotation["attributes"]["level"] == annotation["level"] == LEVELS[image.tree.levels[index]]
    assert [category["name"] for category in coco.cats.values()] == ["entity"]


def test_classes_become_categories_and_labels(tmp_path):
    names = ("scene", "cell", "nucleus", "nucleolus", "cell", "dirt")
    image = planted_image(tmp_path, classes=names)
    document = json.loads(write("coco", image, tmp_path / "a.json").read_text())
    categories = {category["id"]: category["name"] for category in document["categories"]}
    assert tuple(categories[a["category_id"]] for a in document["annotations"]) == names
    by_level = ExportOptions(classes={"whole": "cell"}).select(planted_image(tmp_path))
    assert by_level.class_names() == ("cell", "part", "subpart", "subpart", "part", "part")


def test_panoptic_pictures_hold_the_ids(dendrogram_image, tmp_path):
    write("coco-panoptic", dendrogram_image, tmp_path / "out", granularities=(0.3,))
    document = json.loads((tmp_path / "out/panoptic.json").read_text())
    [annotation] = document["annotations"]
    colors = np.asarray(Image.open(tmp_path / "out/panoptic" / annotation["file_name"])).astype(int)
    ids = colors @ [1, 256, 65536]
    np.testing.assert_array_equal(ids, dendrogram_image.tree.cut(0.3) + 1)
    for segment in annotation["segments_info"]:
        rows, columns = np.nonzero(ids == segment["id"])
        assert segment["area"] == len(rows)
        assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert sum(segment["area"] for segment in annotation["segments_info"]) == SIZE[0] * SIZE[1]
    assert document["categories"][0]["isthing"] == 1


def test_sa1b_files_are_read_by_pycocotools(image, tmp_path):
    from pycocotools import mask as coco_mask

    document = json.loads(write("sa1b", image, tmp_path / "sa_1.json").read_text())
    assert document["image"] == {"image_id": 1, "width": 44, "height": 30, "file_name": "sub/a.png"}
    keys = {"id", "segmentation", "area", "bbox", "predicted_iou", "stability_score", "point_coords", "crop_box"}
    for record in document["annotations"]:
        index = record["id"] - 10_000
        assert keys < set(record)
        np.testing.assert_array_equal(coco_mask.decode(record["segmentation"]), planted_masks()[index])
        assert record["parent_id"] == (None if PARENTS[index] is None else PARENTS[index] + 10_000)


def read_brush(rle):
    """Label Studio's decoder: thi.ng/rle-pack, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    num, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < num:
        is_run = read(1)
        length = 1 + read(sizes[read(2)])
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return values


def test_label_studio_brushes_are_unpacked(image, tmp_path):
    [task] = json.loads(write("label-studio", image, tmp_path / "a.json", image_prefix="/data/?d=").read_text())
    assert task["data"] == {"image": "/data/?d=sub/a.png"}
    regions = task["predictions"][0]["result"]
    seen = []
    for region in regions:
        index = int(region["id"].removeprefix("mask"))
        rgba = np.array(read_brush(region["value"]["rle"]), np.uint8).reshape(*SIZE, 4)
        np.testing.assert_array_equal(rgba, np.repeat(planted_masks()[index][:, :, None] * 255, 4, 2))
        parent = region.get("parentID")
        assert parent == (None if PARENTS[index] is None else f"mask{PARENTS[index]}")
        assert parent is None or parent in seen  # parents are painted first
        seen.append(region["id"])
        assert region["value"]["brushlabels"] == [LEVELS[image.tree.levels[index]]]
    assert len(seen) == 6


def test_label_studio_runs_longer_than_its_longest_are_split(tmp_path):
    from masktree.export.image import MaskCrop
    from masktree.export.label_studio import encode_brush

    for length in (1, 2, 3, 4, 5, 16384, 16385, 32769):
        packed = encode_brush(MaskCrop(0, 0, np.ones((1, length), bool)), (1, length + 1))
        assert read_brush(packed) == [255] * (4 * length) + [0] * 4


def test_cvat_masks_are_rows_of_their_boxes(image, tmp_path):
    root = ET.parse(write("cvat", image, tmp_path / "a.xml")).getroot()
    assert root.find("version").text == "1.1"
    [element] = root.findall("image")
    assert element.attrib == {"id": "0", "name": "sub/a.png", "width": "44", "height": "30"}
    declared = {
        label.find("name").text: [a.find("name").text for a in label.iter("attribute")] for label in root.iter("label")
    }
    for index, mask in enumerate(element.findall("mask")):
        left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
        counts = [int(count) for count in mask.get("rle").split(",")]
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        whole = np.zeros(SIZE, bool)
        whole[top : top + height, left : left + width] = np.pad(inside, (0, width * height - len(inside))).reshape(
            height, width
        )
        np.testing.assert_array_equal(whole, planted_masks()[index])
        values = {a.get("name"): a.text for a in mask.findall("attribute")}
        assert values["parent_id"] == (None if PARENTS[index] is None else str(PARENTS[index]))
        assert list(values) == declared[mask.get("label")]
        assert mask.get("z_order") == str(image.tree.depths[index])


def test_labelme_masks_are_pictures_of_their_boxes(image, tmp_path):
    document = json.loads(write("labelme", image, tmp_path / "out/sub/a.json").read_text())
    assert (tmp_path / "out/sub" / document["imagePath"]).resolve() == image.photo
    assert (document["imageHeight"], document["imageWidth"]) == SIZE
    for shape in document["shapes"]:
        (left, top), (right, bottom) = shape["points"]
        whole = np.zeros(SIZE, bool)
        picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
        whole[top : bottom + 1, left : right + 1] = np.asarray(picture)
        np.testing.assert_array_equal(whole, planted_masks()[shape["mask_id"]])
        assert shape["parent_id"] == PARENTS[shape["mask_id"]]
        assert shape["group_id"] == 0
    assert [shape["mask_id"] for shape in document["shapes"]] == [0, 1, 4, 5, 2, 3]


def test_yolo_has_one_polygon_for_each_mask(image, tmp_path):
    write("yolo", image, tmp_path / "out")
    found = []
    for level in LEVELS:
        folder = tmp_path / "out" / level
        assert (folder / "data.yaml").read_text().splitlines()[0] == "train: images"
        assert (folder / "images/sub/a.png").read_bytes() == image.photo.read_bytes()
        for line in (folder / "labels/sub/a.txt").read_text().splitlines():
            number, *values = line.split()
            assert number == "0"
            found.append(fill([np.array(values, float).reshape(-1, 2) * [SIZE[1], SIZE[0]]]))
    order = np.argsort(image.tree.levels, kind="stable")
    np.testing.assert_array_equal(np.stack(found), planted_masks()[order])
    image.photo.unlink()
    with pytest.raises(InputError, match="give its folder with --images"):
        write("yolo", image, tmp_path / "other")


def test_tables_have_the_numbers_of_scikit_image(image, tmp_path):
    from skimage.measure import regionprops_table

    rows = list(csv.DictReader(write("csv", image, tmp_path / "a.csv").read_text().splitlines()))
    assert [row["parent"] for row in rows] == ["" if parent is None else str(parent) for parent in PARENTS]
    for row, mask in zip(rows, planted_masks(), strict=True):
        names = [name for name in row if name.split("-")[0] in ("area", "perimeter", "centroid", "bbox")]
        names += ["axis_major_length", "axis_minor_length", "eccentricity", "orientation"]
        properties = {name.split("-")[0] for name in names}
        wanted = regionprops_table(mask.astype(np.uint8), properties=sorted(properties))
        assert {name: float(row[name]) for name in names} == pytest.approx(
            {name: float(wanted[name][0]) for name in names}
        )
        for channel in range(3):
            pixels = planted_photo()[mask][:, channel]
            assert float(row[f"intensity_mean-{channel}"]) == pytest.approx(pixels.mean())
            assert float(row[f"intensity_std-{channel}"]) == pytest.approx(pixels.std())
    image.photo.unlink()
    with pytest.warns(UserWarning, match="intensities in the table are empty"):
        rows = list(csv.DictReader(write("csv", image, tmp_path / "b.csv").read_text().splitlines()))
    assert rows[1]["intensity_mean-0"] == ""


def test_parquet_without_pyarrow_names_the_remedy(image, tmp_path):
    try:
        from pyarrow import parquet
    except ImportError:
        with pytest.raises(InputError, match="pip install pyarrow; or export to csv"):
            write("parquet", image, tmp_path / "a.parquet")
        return
    table = parquet.read_table(write("parquet", image, tmp_path / "a.parquet")).to_pylist()
    assert [row["parent"] for row in table] == PARENTS


@pytest.mark.parametrize("to", [name for name, entry in FORMATS.items() if name != "parquet"])
def test_a_tree_without_masks_is_written(image, dendrogram_image, tmp_path, to):
    from dataclasses import replace

    tree = dendrogram_image.tree if FORMATS[to].cuts is not None else image.tree
    empty = replace(image, tree=tree[np.zeros(len(tree), bool)])
    target = tmp_path / "empty"
    write(to, empty, target)
    assert target.exists() or to == "yolo"


def test_options_select_masks_and_keep_their_levels(image):
    parts = ExportOptions(levels=("part",)).select(image)
    assert len(parts.tree) == 3
    assert parts.tree.levels.tolist() == [1, 1, 1]
    assert parts.tree.parents.tolist() == [-1, -1, -1]
    large = ExportOptions(min_area=5, min_score=0.65).select(image)
    assert large.tree.scores.tolist() == pytest.approx([1, 0.9, 0.8])
    fine = ExportOptions(granularity_range=(0, 0.3)).select(image)
    assert fine.tree.granularities.max() <= 0.3
    assert 0 < len(fine.tree) < 6
    cut = ExportOptions(granularities=(0.3,)).select(image)
    np.testing.assert_array_equal(cut.tree.paint(np.arange(len(cut.tree))), planted_tree().cut(0.3))
    assert len(cut_tree(image.tree, 0.3)) == len(cut.tree)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"levels": ("hole",)}, "levels of whole, part, subpart; got hole"),
        ({"granularity_range": (0.5, 0.2)}, "from low to high"),
        ({"granularities": (1.5,)}, r"a granularity in \[0, 1\]"),
        ({"granularities": (0.5,), "min_score": 0.5}, "or a cut; got both"),
        ({"classes": {"tree": "x"}}, "got tree"),
        ({"min_area": -1}, "min_area"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        ExportOptions(**options)
