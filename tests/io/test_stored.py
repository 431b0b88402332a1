"""Photographs in tar files, Parquet files, lists and at addresses."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.io.stored import StoredPhoto, find_stored
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.segment import segment
from tests.faults.injection import files

CONFIG = SegmenterConfig(method="masktree", backbone="texture")
NAMES = ("a/000001.png", "a/000002.png", "b/000001.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of two folders, and a tar file of each beside them, as of WebDataset."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        blocks = rng.integers(0, 256, (2, 3, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(blocks).save(folder / name)
    for stem in ("a", "b"):
        with tarfile.open(folder / f"{stem}.tar", "w") as archive:
            for path in sorted((folder / stem).iterdir()):
                archive.add(path, path.name)
                text = tarfile.TarInfo(f"{path.stem}.json")
                text.size = 2
                archive.addfile(text, io.BytesIO(b"{}"))
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, bytes]:
    """The label set of the folder."""
    output = tmp_path_factory.mktemp("labels")
    discover(photos, output, CONFIG, workers=1)
    return files(output / "annotations")


def test_tar_files_give_the_labels_of_the_folder_that_they_are_unpacked_to(photos, expected, tmp_path):
    outcome = discover(f"{photos}/*.tar", tmp_path / "out", CONFIG, workers=1)
    assert (outcome.completed, outcome.failures) == (3, [])
    assert files(tmp_path / "out/annotations") == expected
    assert discover(f"{photos}/*.tar", tmp_path / "out", CONFIG, workers=1).skipped == 3


def test_a_list_gives_the_labels_of_the_folder(photos, expected, tmp_path):
    (photos / "list.txt").write_text("\n".join((*NAMES[:1], "", str(photos / NAMES[1]), "b.tar")))
    outcome = discover(photos / "list.txt", tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    assert files(tmp_path / "out/annotations") == expected


def test_addresses_give_the_labels_of_the_folder(photos, expected, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(photos / "a.tar"), "/bucket/a.tar")
    store.put(str(photos / "b"), "/bucket/b", recursive=True)
    outcome = discover("memory://bucket/", tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    assert files(tmp_path / "out/annotations") == expected
    assert json.loads((tmp_path / "out/index.json").read_text())["root"] == "memory://bucket"


def test_rows_of_parquet_files_are_photographs(photos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in NAMES]
    parquet.write_table(pyarrow.table({"image": images, "label": [1, 2, 3]}), tmp_path / "p.parquet", row_group_size=2)
    outcome = segment([tmp_path / "p.parquet"], tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    segment([photos / "b"], tmp_path / "whole", CONFIG, workers=1)
    last = json.loads((tmp_path / "out/p/00000002.json").read_text())
    whole = json.loads((tmp_path / "whole/000001.json").read_text())
    assert last["masks"] == whole["masks"]
    assert last["image"]["sha256"] == whole["image"]["sha256"]
    assert last["image"]["file_name"] == f"{tmp_path}/p.parquet/00000002"


def test_a_member_that_changes_is_segmented_again(photos, tmp_path):
    archive = tmp_path / "c.tar"
    archive.write_bytes((photos / "a.tar").read_bytes())
    assert segment([archive], tmp_path / "out", CONFIG, workers=1).completed == 2
    with tarfile.open(archive, "w") as tar:
        tar.add(photos / "b/000001.png", "000001.png")
        tar.add(photos / "a/000002.png", "000002.png")
    outcome = segment([archive], tmp_path / "out", CONFIG, workers=1)
    assert (outcome.completed, outcome.skipped) == (1, 1)


def test_a_tar_that_is_cut_off_fails_its_last_photograph(photos, tmp_path):
    [*_, last] = find_stored(f"{photos}/a.tar")[1]
    assert isinstance(last, StoredPhoto)
    (tmp_path / "d.tar").write_bytes((photos / "a.tar").read_bytes()[: last.start + 20])
    photos_found, failures = find_stored(f"{tmp_path}/d.tar")[1:]
    assert [photo.name for photo in photos_found] + [f["path"] for f in failures]
    outcome = segment([tmp_path / "d.tar"], tmp_path / "out", CONFIG, workers=1)
    assert len(outcome.failures) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.tar", "got nothing at"),
        ("empty.txt", "expected images in"),
        ("nosuchkind://bucket/a.tar", "expected"),
    ],
)
def test_sources_without_images_are_said(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=message):
        discover(source, tmp_path / "out", CONFIG, workers=1)


def test_two_photographs_of_one_name_are_refused(photos, tmp_path):
    with pytest.raises(InputError, match="one output name per image"):
        segment([photos / "a.tar", photos / "a.tar"], tmp_path / "out", CONFIG, workers=1)
