"""The recipe of the embedded weights on a tiny collection: regions, training, resuming, export, and bad input."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masktree.backbones.embedded import load_embedded_network
from masktree.errors import InputError
from tests.conftest import ROOT


def load_recipe():
    spec = importlib.util.spec_from_file_location("embedded_backbone", ROOT / "recipes" / "embedded_backbone.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()
TINY = recipe.Settings(steps=4, batch_size=2, crop=64, points=64, warmup_steps=1)


def paint(path: Path, seed: int, size: tuple[int, int] = (72, 80)) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (3, 3, 3)).astype(np.uint8)
    rows, columns = np.arange(size[0]) * 3 // size[0], np.arange(size[1]) * 3 // size[1]
    noise = rng.integers(-9, 9, (*size, 3))
    Image.fromarray(np.clip(blocks[rows[:, None], columns] + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(recipe.MIN_PHOTOS):
        paint(folder / f"{seed:03d}.png", seed)
    return folder


@pytest.fixture(scope="module")
def labelled(collection, tmp_path_factory):
    photos, labels = recipe.Photos(collection), tmp_path_factory.mktemp("labels")
    for name in photos.names:
        recipe._label((photos.encoded[name], recipe.path_of(labels, name), "texture"))
    return photos, labels


def run(labelled, folder: Path, settings) -> dict:
    photos, labels = labelled
    recipe.train(photos, labels, folder, settings, start=None, workers=0, device="cpu", save_every=1e9)
    return torch.load(folder / "state.pt", weights_only=True)


def test_regions_are_nested_over_the_levels(labelled):
    photos, labels = labelled
    regions = recipe.Regions.load(labels, photos.names[0])
    assert regions.leaves.shape == (72, 80)
    assert regions.cues.shape == (10, 36, 40)
    coarse, fine = regions.table[:, 0], regions.table[:, -1]
    assert coarse.max() <= fine.max()
    assert all(len(np.unique(coarse[fine == k])) == 1 for k in np.unique(fine))


def test_a_resumed_run_ends_with_the_same_weights(labelled, tmp_path):
    whole = run(labelled, tmp_path / "whole", TINY)
    run(labelled, tmp_path / "broken", replace(TINY, stop_after=2))
    resumed = run(labelled, tmp_path / "broken", TINY)
    assert whole["step"] == resumed["step"] == 4
    for part in ("network", "averaged"):
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, resumed[part][name]), name
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert '"held_out_border"' in lines[-1]


def test_other_settings_do_not_continue_a_run(labelled, tmp_path):
    run(labelled, tmp_path / "run", replace(TINY, stop_after=1))
    with pytest.raises(InputError, match="lr"):
        run(labelled, tmp_path / "run", replace(TINY, lr=1e-2))


def test_exported_weights_load(labelled, tmp_path):
    run(labelled, tmp_path / "run", replace(TINY, stop_after=1))
    recipe.export([tmp_path / "run"], tmp_path / "out.safetensors")
    network = load_embedded_network(tmp_path / "out.safetensors", None)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert (tmp_path / "out.safetensors").stat().st_size < 12e6
    recipe.export([tmp_path / "run", tmp_path / "run"], tmp_path / "mean.safetensors")
    assert (tmp_path / "mean.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_losses_are_lower_for_correct_predictions():
    regions = torch.tensor([[[0] * 6, [0] * 6, [1] * 6, [1] * 6]])
    points = torch.tensor([[[0, 0], [0, 1], [1, 0], [1, 1]]])
    apart = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).T.reshape(
        2, 2, 1
    )  # d = 2: rows of cells point away from each other
    good = apart.permute(1, 0, 2).expand(2, 2, 2)[None].clone()
    same = torch.ones(1, 2, 2, 2)
    assert recipe.pair_loss(good, points, regions, 8.0) < recipe.pair_loss(same, points, regions, 8.0)
    targets = torch.zeros(1, 6, 4, 4, dtype=torch.bool)
    targets[..., 1] = True
    logits = torch.where(targets, 9.0, -9.0)
    assert recipe.border_loss(logits, targets, 4.0) < 1e-2 < recipe.border_loss(-logits, targets, 4.0)


def test_balanced_assignments_use_every_prototype():
    scores = (
        torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 5 * torch.eye(8)[0]
    )  # all favour the first
    shares = recipe.balanced_assignment(scores, rounds=20)
    assert torch.allclose(shares.sum(1), torch.ones(64))
    assert torch.allclose(shares.sum(0), torch.full((8,), 8.0), atol=0.1)


def test_every_single_objective_trains_the_network(labelled, tmp_path):
    names = ("border", "pairs", "views", "near", "hidden")
    for name in names:
        single = replace(TINY, stop_after=1, **{other: float(other == name) for other in names})
        run(labelled, tmp_path / name, single)
        record = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        assert {key for key in record if key in names} == {name}
        assert record[name] > 0


def test_borders_lie_on_both_sides_of_a_change():
    labels = np.zeros((4, 8, 1), np.int32)
    labels[:, 4:] = 1
    assert recipe.find_borders(labels)[..., 0].tolist() == [[False, True, True, False]] * 2


def test_tar_files_are_read(collection, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for path in sorted(collection.iterdir()):
            shard.add(path, path.name)
    assert recipe.Photos(tmp_path).names == recipe.Photos(collection).names


def test_bad_collections_are_refused_before_any_work(collection, tmp_path):
    with pytest.raises(InputError, match="expected a folder"):
        recipe.Photos(tmp_path / "none")
    paint(tmp_path / "one.png", 0)
    with pytest.raises(InputError, match=f"at least {recipe.MIN_PHOTOS} photographs .*got 1"):
        recipe.Photos(tmp_path)
    for path in collection.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: expected a photograph"):
        recipe.Photos(tmp_path)
    paint(tmp_path / "text.png", 0, (20, 90))
    with pytest.raises(InputError, match=r"text\.png: expected at least 64 pixels"):
        recipe.Photos(tmp_path)


def test_training_needs_all_regions(labelled, tmp_path):
    photos, _ = labelled
    with pytest.raises(InputError, match="run label first"):
        recipe.train(photos, tmp_path, tmp_path / "run", TINY, start=None, workers=0, device="cpu", save_every=1)
