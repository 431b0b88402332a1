"""A folder with everything that the documentation's commands and snippets read, made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import masktree
from masktree.cli import main
from tests.docs.blocks import shortened

NAMES = ("cat", "coffee", "coins")


def _shrink(source: Path, target: Path, side: int = 128) -> None:
    image = Image.open(source).convert("RGB")
    image.thumbnail((side, side))
    target.parent.mkdir(exist_ok=True)
    image.save(target)


def _write_annotations(path: Path, segmenter: masktree.DiscoverySegmenter, photos: list[Path]) -> None:
    """COCO annotations of a few entities and their parts in each photograph."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, start=1):
        tree = segmenter(photo)
        best = tree.scores >= sorted(tree.scores)[-4]
        height, width = tree.size
        images.append({"id": number, "file_name": photo.name, "height": height, "width": width})
        annotations += tree[best].coco_annotations(image_id=number, first_id=len(annotations) + 1)
    categories = [{"id": 1, "name": "entity"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """photo.jpg, photos/, more-photos/, scans/, annotations.json, human.json, out/, labels/, run/ and clicks/."""
    folder = tmp_path_factory.mktemp("documentation")
    by_name = {photo.stem: photo for photo in photos}
    _shrink(by_name["coffee"], folder / "photo.jpg")
    for name in NAMES:
        _shrink(by_name[name], folder / "photos" / f"{name}.jpg")
    for name in sorted(by_name)[:8]:
        _shrink(by_name[name], folder / "more-photos" / f"{name}.jpg", side=64)
    _shrink(by_name["tissue"], folder / "scans" / "tissue.tif")
    segmenter = masktree.load("embedded")
    assert isinstance(segmenter, masktree.DiscoverySegmenter)
    small = [folder / "photos" / f"{name}.jpg" for name in NAMES]
    _write_annotations(folder / "annotations.json", segmenter, small)
    _write_annotations(folder / "human.json", segmenter, small[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "segment photo.jpg -o out",
            "discover photos -o labels --method masktree --min-score 0.02",
            "train labels -o run --preset sohes --size tiny",
            "train labels -o clicks --preset promptable --size tiny",
        ):
            assert main(shortened(line.split())) == 0
    return folder
