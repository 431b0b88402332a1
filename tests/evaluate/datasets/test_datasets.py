"""What the data sets state, counts, splits and lists."""

from __future__ import annotations

import dataclasses

import pytest

from masktree.errors import InputError
from masktree.evaluate import datasets
from masktree.evaluate.datasets import DATASETS, read_ground_truth, read_list
from masktree.evaluate.datasets.dataset import Counts
from tests.evaluate.datasets.tiny import annotation, box_mask, document, image, write


@pytest.fixture
def coco(tmp_path):
    images = [image(i, f"{i}.jpg") for i in (1, 2, 3)]
    return write(
        tmp_path / "instances_val2017.json",
        document(images, [annotation(i, box_mask(0, 0, 1 + i, 2), 1 + i % 3) for i in range(5)]),
    )


def expect(monkeypatch, name, **counts):
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], counts=counts))


@pytest.mark.parametrize("name", DATASETS)
def test_each_states_its_terms(name):
    entry = DATASETS[name]
    assert all([entry.title, entry.licence, entry.source, entry.layout])
    assert callable(entry.read)
    if name in {"json", "sa1b"}:
        assert (entry.images, entry.annotations, entry.splits) == (None, None, ())
    else:
        assert entry.images is not None
        assert entry.images >= 100


def test_data_sets_have_their_published_counts():
    assert (DATASETS["coco"].images, DATASETS["coco"].annotations) == (5000, 36781)
    assert (DATASETS["lvis"].images, DATASETS["lvis"].annotations) == (19809, 244707)
    assert (DATASETS["paco"].images, DATASETS["paco"].annotations) == (2410, 31739)
    assert DATASETS["ade20k"].splits == ("validation", "training")


def test_a_wrong_number_of_images_is_refused(coco, monkeypatch):
    with pytest.raises(
        InputError, match=r"expected COCO 2017, val2017, to have 5,000 images; got 3; download it again"
    ):
        read_ground_truth("coco", coco)
    expect(monkeypatch, "coco", val2017=Counts(3, 6))
    with pytest.raises(InputError, match="to have 6 annotations; got 5"):
        read_ground_truth("coco", coco)
    assert len(read_ground_truth("coco", coco, check_counts=False)) == 3
    expect(monkeypatch, "coco", val2017=Counts(3, 5))
    assert len(read_ground_truth("coco", coco)) == 3
    assert len(read_ground_truth("coco", coco, only=["2.jpg"])) == 1  # counts are of the file
    expect(monkeypatch, "coco", val2017=Counts(3, None))
    assert len(read_ground_truth("coco", coco)) == 3


def test_every_reader_checks_its_counts(tmp_path):
    """With a file of another size each reader fails at the count, not before."""
    one = document([image(1, "a.jpg", coco_url="http://x/val2017/a.jpg")], [annotation(1, box_mask(0, 0, 2, 2))])
    one["annotations"][0]["obj_ann_id"] = 1
    names = {
        "coco": ["instances_val2017.json"],
        "lvis": ["lvis_v1_val.json"],
        "lvis_cocofied": ["lvis_v1_val_cocofied.json"],
        "coco_lvis": ["instances_val2017.json", "lvis_v1_val.json"],
        "entityseg": ["entityseg_val_lr.json"],
        "partimagenet": ["annotations/val/val.json", "annotations/val_whole/val.json"],
        "paco": ["paco_lvis_v1_val.json"],
        "objects365": ["zhiyuan_objv2_val.json"],
    }
    for dataset, files in names.items():
        for file in files:
            write(tmp_path / dataset / file, one)
        with pytest.raises(InputError, match=rf"to have {DATASETS[dataset].images:,} images; got 1"):
            read_ground_truth(dataset, tmp_path / dataset)


def test_unknown_names_raise_an_input_error(coco):
    with pytest.raises(InputError, match=r"expected a data set of json, coco, .*; got 'koko'"):
        read_ground_truth("koko", coco)
    with pytest.raises(InputError, match="split of coco one of val2017, train2017; got 'test'"):
        read_ground_truth("coco", coco, split="test")
    with pytest.raises(InputError, match="split of json none"):
        read_ground_truth("json", coco, split="val")
    with pytest.raises(InputError, match=r"got '7\.jpg' and 1 more that are none"):
        read_ground_truth("json", coco, only=["2.jpg", "7.jpg", "9.jpg"])


def test_lists_of_images_are_read(tmp_path, coco):
    path = tmp_path / "held_out.txt"
    path.write_text("# held out\n3.jpg\n\n  1.jpg \n", encoding="utf-8")
    assert read_list(path) == ["3.jpg", "1.jpg"]
    assert [i.name for i in read_ground_truth("json", coco, only=read_list(path)).images] == ["1.jpg", "3.jpg"]
    path.write_text("1.jpg\n3.jpg\n1.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"got '1\.jpg' twice"):
        read_list(path)
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match="one image name a line; got none"):
        read_list(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="one name a line"):
        read_list(path)
    with pytest.raises(InputError, match="one name a line"):
        read_list(tmp_path / "none.txt")


def test_public_names_are_exported():
    assert set(datasets.__all__) == {"DATASETS", "Dataset", "read_list", "read_ground_truth"}
