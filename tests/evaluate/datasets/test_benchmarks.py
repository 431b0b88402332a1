"""Each benchmark's reader on tiny files of the benchmark's own format."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from masktree.errors import FormatError, InputError
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.datasets.lvis import DUPLICATE_IOU
from masktree.evaluate.datasets.regions import masks_of
from masktree.trees import rle
from tests.evaluate.datasets.tiny import annotation, box_mask, compressed, document, image, masks, picture, write


def read(dataset, path, **options):
    return read_ground_truth(dataset, path, check_counts=False, **options)


# --- COCO's format ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subfolder", ["", "annotations"])
def test_coco_annotations_are_read(tmp_path, subfolder):
    crowd = {"id": 2, "image_id": 1, "segmentation": {"size": [8, 10], "counts": [0, 8, 72]}, "iscrowd": 1, "area": 8}
    records = [annotation(1, box_mask(1, 1, 2, 2), iscrowd=0), crowd]
    path = write(tmp_path / subfolder / "instances_val2017.json", document([image(139, "000000000139.jpg")], []))
    write(path, document([image(1, "000000000001.jpg")], records))
    ground_truth = read("coco", tmp_path)
    assert ground_truth.images[0].name == "000000000001.jpg"
    assert ground_truth.images[0].crowd.tolist() == [False, True]
    assert masks(ground_truth.images[0])[1] == box_mask(0, 0, 1, 8).tolist()
    assert [image.name for image in read("coco", path).images] == ["000000000001.jpg"]
    assert "CC BY 4.0" in ground_truth.licence
    with pytest.raises(
        InputError, match=r"expected instances_train2017\.json or annotations/instances_train2017\.json"
    ):
        read("coco", tmp_path, split="train2017")


@pytest.mark.parametrize(
    "name",
    [
        "entityseg_val_lr.json",
        "annotations/entityseg_val_lr.json",
        "annotations/entity_segmentation/entityv2_010203_entity_val_lr.json",
    ],
)
def test_entityseg_annotations_are_read(tmp_path, name):
    records = [annotation(1, box_mask(1, 1, 2, 2), category_id_ori="sky")]
    write(tmp_path / name, document([image(1, "entity_01_11580/a.jpg")], records))
    assert read("entityseg", tmp_path).images[0].name == "entity_01_11580/a.jpg"


def test_objects365_boxes_are_read_without_fakes(tmp_path):
    flags = {"isfake": 0, "isreflected": 0, "iscrowd": 0, "area": 12}
    records = [
        {"id": 1, "image_id": 1, "bbox": [1.5, 2, 3, 4], **flags},
        {"id": 2, "image_id": 1, "bbox": [1.5, 2, 3, 4], **flags, "isfake": 1},
        {"id": 3, "image_id": 1, "bbox": [0, 0, 9, 4], **flags, "iscrowd": 1},
    ]
    write(tmp_path / "annotations/zhiyuan_objv2_val.json", document([image(1, "images/v1/patch8/a.jpg")], records))
    ground_truth = read("objects365", tmp_path).images[0]
    assert ground_truth.rles is None
    assert ground_truth.crowd.tolist() == [False, False, True]
    assert ground_truth.boxes[0].tolist() == [1.5, 2, 3, 4]
    with pytest.raises(InputError, match="a box only; compare boxes with --iou-type boxes"):
        ground_truth.masks()


# --- LVIS -------------------------------------------------------------------------------------------------------


def lvis_image(image_id, folder="val2017", **more):
    record = image(image_id, **more)
    del record["file_name"]
    return record | {"coco_url": f"http://images.cocodataset.org/{folder}/{image_id:012}.jpg"}


def test_lvis_names_have_cocos_folders(tmp_path):
    polygon = {"id": 1, "image_id": 25, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "area": 6.0, "bbox": [1, 1, 3, 2]}
    images = [lvis_image(139), lvis_image(25, "train2017")]
    path = write(tmp_path / "lvis_v1_val.json", document(images, [polygon]))
    ground_truth = read("lvis", path)
    assert [i.name for i in ground_truth.images] == ["val2017/000000000139.jpg", "train2017/000000000025.jpg"]
    assert masks(ground_truth.images[1]) == [box_mask(1, 1, 3, 2).tolist()]
    assert len(read("lvis", path, only=["train2017/000000000025.jpg"])) == 1
    write(tmp_path / "lvis" / "lvis_v1_val_cocofied.json", document(images, [polygon]))
    reduced = read("lvis_cocofied", tmp_path)
    assert [(i.name, len(i)) for i in reduced.images] == [(i.name, len(i)) for i in ground_truth.images]
    del images[0]["coco_url"]
    write(path, document(images, [polygon]))
    with pytest.raises(FormatError, match="image 139: expected a coco_url"):
        read("lvis", tmp_path)


def test_coco_and_lvis_are_united_without_duplicates(tmp_path, rng):
    size = (8, 10)

    def draw():
        (x, y), (w, h) = rng.integers(0, 4, 2), rng.integers(1, 7, 2)
        return box_mask(x, y, w, h, size)

    ours = [draw() for _ in range(12)]
    theirs = [draw() for _ in range(25)]
    crowd = box_mask(0, 0, 10, 8)
    coco = [annotation(i, mask, 4, area=i) for i, mask in enumerate(ours)]
    coco.append(annotation(50, crowd, 4, iscrowd=1))
    lvis = [annotation(i, mask, 4, area=100 + i) for i, mask in enumerate([*theirs, crowd])]
    images = [image(3, "c.jpg"), image(4, "d.jpg")]
    write(tmp_path / "annotations/instances_val2017.json", document(images, [*coco, annotation(60, ours[0], 3)]))
    write(tmp_path / "annotations/lvis_v1_val.json", document([lvis_image(4), lvis_image(9)], lvis))
    ground_truth = read("coco_lvis", tmp_path)

    def is_new(mask):
        return not any((mask & o).sum() / (mask | o).sum() > DUPLICATE_IOU for o in ours)

    new = [i for i, mask in enumerate([*theirs, crowd]) if is_new(mask)]
    assert 0 < len(new) < 26
    assert [i.name for i in ground_truth.images] == ["c.jpg", "d.jpg"]
    assert ground_truth.images[1].areas.tolist() == [*range(12), 80, *(100 + i for i in new)]
    assert masks(ground_truth.images[1])[13:] == [[*theirs, crowd][i].tolist() for i in new]
    assert ground_truth.images[1].crowd.tolist() == [False] * 12 + [True] + [False] * len(new)
    assert len(ground_truth.images[0]) == 1  # LVIS does not have it
    assert [i.name for i in read("coco_lvis", tmp_path, only=["d.jpg"]).images] == ["d.jpg"]

    write(tmp_path / "annotations/lvis_v1_val.json", document([lvis_image(4, size=(8, 9))], []))
    with pytest.raises(FormatError, match=r"image 4 \(d.jpg\): expected the size \(8, 10\)"):
        read("coco_lvis", tmp_path)
    (tmp_path / "annotations/lvis_v1_val.json").unlink()
    with pytest.raises(InputError, match=r"lvis_v1_val\.json"):
        read("coco_lvis", tmp_path)
    with pytest.raises(InputError, match="expected a folder"):
        read("coco_lvis", tmp_path / "annotations/instances_val2017.json")


# --- parts ------------------------------------------------------------------------------------------------------


def test_paco_parts_lie_under_their_objects(tmp_path):
    whole, part = box_mask(0, 0, 6, 6), box_mask(1, 1, 2, 2)
    records = [
        annotation(5, part, obj_ann_id=8),
        annotation(8, whole, obj_ann_id=8),
        annotation(9, part, obj_ann_id=9),
    ]
    path = write(tmp_path / "paco_lvis_v1_val.json", document([image(1, "val2017/a.jpg")], records))
    ground_truth = read("paco", tmp_path).images[0]
    assert ground_truth.parents.tolist() == [1, -1, -1]
    assert ground_truth.name == "val2017/a.jpg"
    records[0]["obj_ann_id"] = 77
    with pytest.raises(FormatError, match="annotation 5: expected parent_id"):
        read("paco", write(path, document([image()], records)))
    del records[1]["obj_ann_id"]
    with pytest.raises(FormatError, match="annotation 8: expected an obj_ann_id"):
        read("paco", write(path, document([image()], records)))


def test_partimagenet_joins_objects_and_parts(tmp_path):
    first, second = box_mask(0, 0, 4, 8), box_mask(5, 0, 4, 8)
    inside, across, outside = box_mask(5, 1, 2, 2), box_mask(2, 0, 5, 1), box_mask(4, 0, 1, 3)
    parts = [annotation(i, mask, 10) for i, mask in enumerate([inside, second, across, outside])]
    wholes = [annotation(i, mask, 33) for i, mask in enumerate([first, second])]
    names = ("n01440764_10029.JPEG", "n01440764_1003.JPEG")
    part_path = tmp_path / "annotations/val/val.json"
    whole_path = tmp_path / "annotations/val_whole/val.json"
    write(part_path, document([image(10, names[0]), image(11, names[1])], parts))
    write(whole_path, document([image(32, names[1]), image(33, names[0])], wholes))
    ground_truth = read("partimagenet", tmp_path)
    assert [(i.id, i.name) for i in ground_truth.images] == [(10, names[0]), (11, names[1])]
    assert masks(ground_truth.images[0]) == [m.tolist() for m in (first, second, inside, across, outside)]
    assert ground_truth.images[0].parents.tolist() == [-1, -1, 1, -1, -1]  # across: two pixels each, no half of five
    assert len(ground_truth.images[1]) == 0
    assert ground_truth.images[1].masks() == ()
    assert len(read("partimagenet", tmp_path, only=[names[1], names[0]])) == 2

    write(whole_path, document([image(33, names[0])], wholes))
    with pytest.raises(FormatError, match=r"n01440764_1003\.JPEG in one of them only"):
        read("partimagenet", tmp_path)
    write(whole_path, document([image(32, names[1]), image(33, names[0], (9, 10))], []))
    with pytest.raises(FormatError, match=r"n01440764_10029.JPEG: expected the size \(8, 10\)"):
        read("partimagenet", tmp_path)
    whole_path.unlink()
    with pytest.raises(InputError, match=r"expected annotations/val_whole/val\.json"):
        read("partimagenet", tmp_path)


# --- SA-1B ------------------------------------------------------------------------------------------------------


def sa1b_file(folder, number, mask_list, **more):
    records = [
        {"id": 500 + i, "segmentation": compressed(mask), "area": int(mask.sum()), "predicted_iou": 0.9}
        for i, mask in enumerate(mask_list)
    ]
    info = {"image_id": number, "width": 10, "height": 8, "file_name": f"sa_{number}.jpg"} | more
    return write(folder / f"sa_{number}.json", {"image": info, "annotations": records})


def test_sa1b_files_are_read_in_the_order_of_their_ids(tmp_path):
    for number in (2, 10, 1):
        sa1b_file(tmp_path, number, [box_mask(0, 0, number, 2), box_mask(1, 1, 2, 2)])
    sa1b_file(tmp_path, 3, [])
    ground_truth = read_ground_truth("sa1b", tmp_path)  # no counts to check
    assert [(i.id, i.name, len(i)) for i in ground_truth.images] == [
        (1, "sa_1.jpg", 2),
        (2, "sa_2.jpg", 2),
        (3, "sa_3.jpg", 0),
        (10, "sa_10.jpg", 2),
    ]
    assert ground_truth.images[2].masks() == ()
    assert ground_truth.images[3].areas.tolist() == [20, 4]
    (tmp_path / "sa_2.json").write_text("{", encoding="utf-8")
    chosen = read_ground_truth("sa1b", tmp_path, only=["sa_10.jpg", "sa_1.jpg"])  # the damaged one is not opened
    assert [i.name for i in chosen.images] == ["sa_1.jpg", "sa_10.jpg"]
    with pytest.raises(FormatError, match=r"sa_2\.json: expected a COCO file in JSON"):
        read_ground_truth("sa1b", tmp_path)
    with pytest.raises(InputError, match=r"got none for .*sa_4\.json and 1 more"):
        read_ground_truth("sa1b", tmp_path, only=["sa_1.jpg", "sa_4.jpg", "sa_5.jpg"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "expected image and annotations as SA-1B"),
        ({"image": {"image_id": 1}, "annotations": []}, "whole number 'height'; got none"),
        ({"image": {"image_id": 1, "width": 2, "height": 2, "file_name": "a.jpg"}, "annotations": [1]}, "records"),
        (
            {"image": {"width": 2, "height": 2, "file_name": "a.jpg"}, "annotations": []},
            "whole number 'image_id'; got none",
        ),
    ],
)
def test_damaged_sa1b_files_raise_a_format_error(tmp_path, content, match):
    write(tmp_path / "sa_7.json", content)
    with pytest.raises(FormatError, match=match):
        read_ground_truth("sa1b", tmp_path)


def test_missing_sa1b_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected files sa_\*\.json; got none"):
        read_ground_truth("sa1b", tmp_path)
    with pytest.raises(InputError, match="expected a folder with files"):
        read_ground_truth("sa1b", tmp_path / "none")


# --- label maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 9), (1, 7), (7, 1), (1, 1)])
def test_label_maps_are_split_into_regions(rng, shape):
    labels = rng.choice(np.array([-4, 0, 3, 10**9]), shape)
    found = masks_of(labels)
    assert sorted(found) == sorted(set(labels.ravel().tolist()))
    for value, mask in found.items():
        assert mask == rle.encode(labels == value)
    assert masks_of(np.zeros((0, 5), np.int32)) == {}


def panoptic(folder, numbers, segments, name="000000000139", size=(8, 10)):
    rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], 2)
    picture(folder / "panoptic_val2017" / f"{name}.png", rgb)
    record = {"image_id": 139, "file_name": f"{name}.png", "segments_info": segments}
    return write(
        folder / "panoptic_val2017.json",
        {"images": [image(139, f"{name}.jpg", size)], "annotations": [record]},
    )


@pytest.mark.parametrize("subfolder", ["", "annotations"])
def test_panoptic_pictures_are_read(tmp_path, subfolder):
    folder = tmp_path / subfolder
    numbers = np.zeros((8, 10), np.int64)
    numbers[:3] = 5_000_000
    numbers[3:6, :4] = 300
    numbers[3:6, 6:] = 7
    segments = [{"id": 7, "iscrowd": 1}, {"id": 5_000_000, "iscrowd": 0}, {"id": 300}]
    path = panoptic(folder, numbers, segments)
    ground_truth = read("coco_panoptic", tmp_path).images[0]
    assert (ground_truth.id, ground_truth.name) == (139, "000000000139.jpg")
    assert masks(ground_truth) == [(numbers == n).tolist() for n in (7, 5_000_000, 300)]
    assert ground_truth.crowd.tolist() == [True, False, False]
    for wrong, match in (
        (segments[:2], "got number 300"),
        ([*segments, {"id": 8}], "segment 8: expected it once and in"),
        ([*segments, {"id": 7}], "segment 7: expected it once"),
        ([{"id": "7"}], "whole number 'id'"),
        ({}, "expected segments_info"),
    ):
        panoptic(folder, numbers, wrong)
        with pytest.raises(FormatError, match=match):
            read("coco_panoptic", tmp_path)
    panoptic(folder, numbers, segments, size=(8, 9))
    with pytest.raises(FormatError, match=r"picture of size \(8, 9\)"):
        read("coco_panoptic", tmp_path)
    panoptic(folder, numbers, segments)
    write(path, {"images": [image(139), image(140, "b.jpg")], "annotations": []})
    with pytest.raises(FormatError, match="one annotation for each of 2 images; got none"):
        read("coco_panoptic", tmp_path)
    write(path, {"images": []})
    with pytest.raises(FormatError, match="expected a list of records 'annotations'"):
        read("coco_panoptic", tmp_path)


def test_damaged_pictures_raise_a_format_error(tmp_path):
    numbers = np.full((8, 10), 7)
    panoptic(tmp_path, numbers, [{"id": 7}])
    png = tmp_path / "panoptic_val2017/000000000139.png"
    png.write_bytes(png.read_bytes()[:40])
    with pytest.raises(FormatError, match=r"139\.png: expected an image file; got no image format"):
        read("coco_panoptic", tmp_path)
    picture(png, numbers)
    with pytest.raises(FormatError, match="mode RGB; got L"):
        read("coco_panoptic", tmp_path)
    png.unlink()
    with pytest.raises(InputError, match=r"139\.png: expected a PNG file; got none"):
        read("coco_panoptic", tmp_path)


def test_ade20k_instances_are_read(tmp_path):
    rgb = np.zeros((8, 10, 3), np.uint8)
    rgb[..., 0] = 9  # a class without instance
    rgb[:2, :, :2] = 3, 1
    rgb[4:, :5, :2] = 3, 2
    rgb[4:, 8:, :2] = 12, 200
    folder = tmp_path / "annotations_instance/validation"
    picture(folder / "ADE_val_00000012.png", rgb)
    picture(folder / "ADE_val_00000002.png", np.zeros((3, 4, 3)))
    ground_truth = read("ade20k", tmp_path)
    assert [(i.id, i.name, i.size) for i in ground_truth.images] == [
        (2, "ADE_val_00000002.jpg", (3, 4)),
        (12, "ADE_val_00000012.jpg", (8, 10)),
    ]
    assert masks(ground_truth.images[1]) == [(rgb[..., 1] == number).tolist() for number in (1, 2, 200)]
    assert len(read("ade20k", tmp_path, only=["ADE_val_00000012.jpg"])) == 1
    rgb[5, 0, 0] = 4
    picture(folder / "ADE_val_00000012.png", rgb)
    with pytest.raises(FormatError, match=r"00000012\.png: expected one class for each instance"):
        read("ade20k", tmp_path)
    picture(folder / "ADE_val.png", np.ones((3, 4, 3)))
    with pytest.raises(InputError, match="a name that ends in a number"):
        read("ade20k", tmp_path, only=["ADE_val.jpg"])
    (tmp_path / "annotations_instance/training").mkdir()
    with pytest.raises(InputError, match=r"expected pictures \*\.png; got none"):
        read("ade20k", tmp_path, split="training")


def bsds(folder, name, maps, size=(8, 10), split="test"):
    picture(folder / "images" / split / f"{name}.jpg", np.zeros((*size, 3)))
    cell = np.empty((1, len(maps)), object)
    for i, labels in enumerate(maps):
        cell[0, i] = {"Segmentation": labels.astype(np.uint16), "Boundaries": np.zeros(labels.shape, np.uint8)}
    path = folder / "groundTruth" / split / f"{name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"groundTruth": cell})
    return path


@pytest.mark.parametrize("subfolder", ["", "data", "BSDS500/data"])
def test_bsds500_has_each_region_once(tmp_path, subfolder):
    halves = np.ones((8, 10), int)
    halves[:, 5:] = 2
    quarter = halves.copy()
    quarter[4:, 5:] = 3
    bsds(tmp_path / subfolder, "2018", [halves, quarter, halves])
    ground_truth = read("bsds500", tmp_path).images[0]
    assert (ground_truth.id, ground_truth.name) == (2018, "2018.jpg")
    expected = [halves == 1, halves == 2, quarter == 2, quarter == 3]
    assert masks(ground_truth) == [mask.tolist() for mask in expected]


def test_damaged_bsds500_files_raise_a_format_error(tmp_path):
    path = bsds(tmp_path, "2018", [np.ones((8, 9))])
    with pytest.raises(
        FormatError, match=r"2018\.mat: expected label maps of its image's size \(8, 10\); got \(8, 9\)"
    ):
        read("bsds500", tmp_path)
    path.write_bytes(b"no matlab file at all")
    with pytest.raises(FormatError, match=r"2018\.mat: expected a MATLAB file; got a damaged"):
        read("bsds500", tmp_path)
    savemat(path, {"other": 1})
    with pytest.raises(FormatError, match="expected a BSDS500 file"):
        read("bsds500", tmp_path)
    (tmp_path / "images/test/2018.jpg").write_bytes(b"no image at all")
    with pytest.raises(FormatError, match=r"2018\.jpg: expected an image file; got no image format"):
        read("bsds500", tmp_path)
    path.rename(path.with_stem("2019"))
    with pytest.raises(InputError, match="got 2018 in one of them only"):
        read("bsds500", tmp_path)
    with pytest.raises(InputError, match="expected images/val or data/images/val"):
        read("bsds500", tmp_path, split="val")


def test_bsds500_val_has_100_images_of_different_regions(shared):
    folder = shared / "data" / "BSDS500"
    if not (folder / "images" / "val").is_dir():
        pytest.skip("BSDS500 is not on this machine.")
    ground_truth = read_ground_truth("bsds500", folder, split="val")  # 100 images, as expected
    assert len(ground_truth) == 100
    assert all(len(set(image.masks())) == len(image) for image in ground_truth.images)
    name = ground_truth.images[3].name
    assert len(read_ground_truth("bsds500", folder, split="val", only=[name])) == 1
