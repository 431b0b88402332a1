"""Files of the seven formats that are imported: as masktree exports them, with damage."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from masktree.errors import MasktreeWarning
from masktree.export.options import ExportOptions
from masktree.importers.formats import IMPORTERS
from masktree.importers.image import to_tree
from masktree.stages.export import export
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from tests.edits.planted import random_tree
from tests.export.planted import SIZE, planted_image, planted_tree

from .mutations import mutated_bytes, mutated_json
from .target import fuzz

JSON_FORMATS = ("coco", "sa1b", "label-studio", "labelme", "qupath")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each format, of a planted tree."""
    folder = tmp_path_factory.mktemp("importers")
    image = planted_image(folder)
    tree = folder / "tree/a.json"
    planted_tree().save(tree, image={"file_name": str(image.photo)})
    found = {}
    for name in IMPORTERS:
        source, to = (_cuts(folder), "label-tiff") if name == "label-image" else (tree.parent, name)
        suffix = {"cvat": ".xml"}.get(name, ".json")
        target = folder / f"{name}{suffix}" if name in ("coco", "label-studio", "cvat") else folder / name
        export(source, target, to, ExportOptions(granularities=(0.5,) if to == "label-tiff" else ()))
        file = target if target.is_file() else next(p for p in target.rglob("*.*") if p.name[0] not in "r.")
        found[name] = file.read_bytes()
    found["labelme polygons"] = json.dumps(_labelme()).encode()
    return found


def _cuts(folder: Path) -> Path:
    tree = random_tree(0, SIZE)
    assert isinstance(tree.dendrogram, PartitionTree)
    tree.save(folder / "cuts/c.json")
    return folder / "cuts"


def _labelme() -> dict[str, Any]:
    """Polygons and rectangles that people drew."""
    shape = {"label": "x", "points": [[1, 1], [9, 1.5], [5, 8]], "shape_type": "polygon", "flags": {}}
    box = {"label": "y", "points": [[3, 4], [20, 14]], "shape_type": "rectangle", "group_id": 1}
    return {"shapes": [shape, box], "imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}


def _read(name: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MasktreeWarning)  # of entries that are no masks
        for image in IMPORTERS[name].read(path):
            size, masks = image.read(SIZE)
            tree, classes = to_tree(size, masks)
            assert isinstance(tree, MaskTree)
            assert classes is None or (len(classes) == len(tree) and all(type(name) is str for name in classes))
            assert len(tree.boxes) == len(tree)


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_json(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    documents = [json.loads(files[name])] + ([json.loads(files["labelme polygons"])] if name == "labelme" else [])
    fuzz(f"import of {name}", mutated_json(documents), lambda data: _read(name, tmp_path / "a.json", data))


def test_xml(files: dict[str, bytes], tmp_path: Path) -> None:
    text = files["cvat"].decode()
    numbers = st.sampled_from(["-1", "0", "1", "NaN", "1e999", "9" * 5001, "", "x", "4294967296", "1, 2, 3"])

    @st.composite
    def values(draw: st.DrawFn) -> bytes:
        """The file with the value of one attribute replaced."""
        parts = text.split('"')
        number = draw(st.integers(0, len(parts) // 2 - 1)) * 2 + 1
        parts[number] = draw(numbers)
        return '"'.join(parts).encode()

    inputs = st.one_of(values(), mutated_bytes([text.encode()]))
    fuzz("import of cvat", inputs, lambda data: _read("cvat", tmp_path / "a.xml", data))


def test_label_images(files: dict[str, bytes], tmp_path: Path) -> None:
    inputs = mutated_bytes([files["label-image"]])
    fuzz("import of label-image", inputs, lambda data: _read("label-image", tmp_path / "a.tif", data))
