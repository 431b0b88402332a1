"""The recipes of the published systems and of our own, from photographs to the report, at toy size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two photographs of blocks, and annotations of the blocks."""
    folder, rng = tmp_path_factory.mktemp("recipe") / "photos", np.random.default_rng(0)
    folder.mkdir()
    images, annotations = [], []
    for number in range(2):
        blocks = rng.integers(0, 255, (2, 2, 3)).astype(np.uint8).repeat(32, 0).repeat(40, 1)
        Image.fromarray(blocks).save(folder / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "height": 64, "width": 80})
        for block in range(4):
            left, top = 40 * (block % 2), 32 * (block // 2)
            outline = [left, top, left + 40, top, left + 40, top + 32, left, top + 32]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": 1,
                    "segmentation": [outline],
                    "bbox": [left, top, 40, 32],
                    "area": 1280,
                    "iscrowd": 0,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "block"}]}
    (folder.parent / "annotations.json").write_text(json.dumps(content))
    return folder


def recipe(name: str, monkeypatch, *arguments: object) -> int:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return importlib.import_module(name).main()


@pytest.mark.parametrize(
    ("name", "steps", "published"),
    [
        ("hassod_coco", 8, ("2.58 / 4.20 / 11.61", "12.69", "8.9, 1.7, 12.4, 29.1", "22.5 on LVIS")),
        ("sohes_sa1b", 7, ("more than 100", "12.0, 3.5, 9.5, 20.7", "33.3 on SA-1B")),
        ("unsam_sa1b", 7, ("334", "15.3, 2.3, 11.9, 27.7", "41.9 on SA-1B")),
        ("unsam_plus", 7, ("334", "64.8 on SA-1B")),
        ("segmenter", 8, ("45 labels", "again --pool --regroup")),
    ],
)
def test_a_plan_has_the_published_numbers(photos, tmp_path, capsys, monkeypatch, name, steps, published):
    truth = photos.parent / "annotations.json"
    arguments = [photos, "-o", tmp_path / "out", "--test", photos, "--gt", truth, "--plan"]
    assert recipe(name, monkeypatch, *arguments, *(["--human", truth] if name == "unsam_plus" else [])) == 0
    told = capsys.readouterr().out
    assert all(number in told for number in published)
    assert f"[{steps}/{steps}]" in told


@pytest.mark.parametrize(
    ("name", "steps"),
    [("hassod_coco", 4), ("sohes_sa1b", 3), ("unsam_sa1b", 3), ("unsam_plus", 7), ("segmenter", 4)],
)
def test_a_recipe_runs_to_its_end_and_is_done_once(photos, tmp_path, capsys, monkeypatch, name, steps):
    truth = photos.parent / "annotations.json"
    arguments = [photos, "-o", tmp_path / "out", "--toy"]
    if name == "unsam_plus":
        arguments += ["--human", truth, "--test", photos, "--gt", truth, "--dataset", "json"]
    assert recipe(name, monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    assert f"[{steps}/{steps}]" in told
    assert told.count("found:    AR1000, S, M, L") == (2 if name == "unsam_plus" else 0)
    assert "labels per image" in told
    found = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert len(found["done"]) == steps
    assert recipe(name, monkeypatch, *arguments) == 0
    assert " done;" not in capsys.readouterr().out


def test_a_plan_writes_nothing_and_names_the_processes(photos, tmp_path, capsys, monkeypatch):
    assert recipe("hassod_coco", monkeypatch, photos, "-o", tmp_path / "out", "--gpus", 8, "--plan") == 0
    told = capsys.readouterr().out
    assert "torchrun --nproc-per-node 8 -m masktree train" in told
    assert "--steps 32000" in told
    assert "GPU-hours in all" in told
    assert not (tmp_path / "out").exists()


def test_a_failing_step_stops_the_recipe(photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    (tmp_path / "out" / "labels" / "index.json").write_text("{}")
    assert recipe("sohes_sa1b", monkeypatch, photos, "-o", tmp_path / "out", "--toy") != 0
    assert "the same command goes on here" in capsys.readouterr().out
