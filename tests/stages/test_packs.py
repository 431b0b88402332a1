"""SA-1B in its tar packs: labels, evaluation, merging and training without unpacking them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import FormatError, InputError
from masktree.evaluate.datasets import read_ground_truth
from masktree.io.images import read_image
from masktree.labels import LabelSet
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.merge import merge
from masktree.train.label_store import LabelStore
from masktree.train.photo_dataset import read_labelled_image
from masktree.trees import rle

CONFIG = SegmenterConfig(method="masktree", backbone="texture")
NAMES = {"sa_000000": (1, 10, 2), "sa_000001": (3,)}


def annotation(number: int, box: tuple[int, int, int, int], size: tuple[int, int]) -> dict:
    mask = np.zeros(size, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    counts = rle.encode(mask).decode()
    return {
        "id": number,
        "segmentation": {"size": list(size), "counts": counts},
        "bbox": [box[2], box[0], box[3] - box[2], box[1] - box[0]],
        "area": int(mask.sum()),
        "predicted_iou": 0.9,
        "stability_score": 0.95,
        "crop_box": [0, 0, size[1], size[0]],
        "point_coords": [[box[2], box[0]]],
    }


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """Photographs of blocks, and the outlines of the first two blocks."""
    root, rng = tmp_path_factory.mktemp("unpacked"), np.random.default_rng(0)
    for pack, numbers in NAMES.items():
        (root / pack).mkdir()
        for number in numbers:
            size = (60, 72)
            blocks = rng.integers(0, 255, (3, 3, 3)).astype(np.uint8).repeat(20, 0).repeat(24, 1)
            Image.fromarray(blocks).save(root / pack / f"sa_{number}.jpg", quality=95)
            image = {"image_id": number, "width": 72, "height": 60, "file_name": f"sa_{number}.jpg"}
            masks = [annotation(k, (0, 20, 24 * k, 24 * k + 24), size) for k in range(2)]
            (root / pack / f"sa_{number}.json").write_text(json.dumps({"image": image, "annotations": masks}))
    return root


@pytest.fixture(scope="module")
def packs(unpacked, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packs")
    for pack in NAMES:
        with tarfile.open(root / f"{pack}.tar", "w") as archive:
            for file in sorted((unpacked / pack).iterdir()):
                archive.add(file, f"./{file.name}")
    return root


@pytest.fixture(scope="module")
def labels(packs, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("labels")
    assert discover(packs, output, CONFIG, shard_size=2, workers=1).completed == 4
    return output


def contents(labels: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (labels / "annotations").iterdir()}


def test_labels_of_packs_are_those_of_the_unpacked_images(unpacked, labels, tmp_path):
    discover(unpacked, tmp_path, CONFIG, shard_size=2, workers=1)
    assert contents(tmp_path) == contents(labels)


def test_annotations_are_read_from_packs(unpacked, packs):
    everything = read_ground_truth("sa1b", packs).images
    assert [image.name for image in everything] == [
        f"{pack}/sa_{n}.jpg" for pack, numbers in NAMES.items() for n in sorted(numbers, key=str)
    ]
    for image in everything:
        [loose] = read_ground_truth("sa1b", unpacked / Path(image.name).parent, only=[Path(image.name).name]).images
        assert len(image) == 2
        assert image.masks() == loose.masks()
    one = read_ground_truth("sa1b", packs / "sa_000000.tar", only=["sa_000000/sa_10.jpg"]).images
    assert [image.name for image in one] == ["sa_000000/sa_10.jpg"]
    with pytest.raises(InputError, match=r"that are listed; got none, names are such as sa_000000/sa_1.jpg"):
        read_ground_truth("sa1b", packs, only=["sa_10.jpg"])


def test_labels_of_packs_are_evaluated_by_their_annotations(packs, labels, tmp_path, capsys):
    command = ["evaluate", "--pred", labels, "--gt", packs, "--dataset", "sa1b", "--json", tmp_path / "result.json"]
    assert cli.main([*map(str, command), "--no-boundaries"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["ar1000"] > 0.8


def test_pseudo_labels_are_added_to_the_annotations_of_packs(packs, labels, tmp_path):
    result = merge([packs, labels], tmp_path / "merged")
    assert [source["images"] for source in result.sources] == [4, 4]
    kept = {Path(source["path"]).name: source.get("kept", 0) for source in result.sources}
    assert kept[packs.name] + kept[labels.name] >= 8  # two masks of each image are in both
    assert kept[labels.name] > 0
    assert {image["file_name"] for image, _ in LabelSet.open(tmp_path / "merged")} == {
        f"{pack}/sa_{n}.jpg" for pack, numbers in NAMES.items() for n in numbers
    }
    one = merge([packs / "sa_000001.tar", labels], tmp_path / "one")
    assert sorted(source["images"] for source in one.sources) == [1, 4]


def test_training_reads_the_images_of_packs(unpacked, labels):
    label_set = LabelSet.open(labels)
    store = LabelStore.of(label_set)
    for index in range(len(store)):
        image = read_labelled_image(store, Path(label_set.index["root"]), store[index])
        np.testing.assert_array_equal(image, read_image(unpacked / store[index].name))


def test_compressed_packs_and_damaged_members_are_told_of(unpacked, tmp_path):
    with tarfile.open(tmp_path / "sa_000002.tar", "w:gz") as archive:
        archive.add(unpacked / "sa_000001" / "sa_3.json", "sa_3.json")
    with pytest.raises(FormatError, match=r"sa_000002.tar: expected a pack of SA-1B, .* not compressed"):
        read_ground_truth("sa1b", tmp_path)
    with tarfile.open(tmp_path / "sa_000002.tar", "w") as archive:
        content = (unpacked / "sa_000001" / "sa_3.json").read_bytes()[:-40]
        member = tarfile.TarInfo("sa_3.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(FormatError, match=r"sa_3.json in .*sa_000002.tar: expected a COCO file in JSON; got a damaged"):
        read_ground_truth("sa1b", tmp_path / "sa_000002.tar")
