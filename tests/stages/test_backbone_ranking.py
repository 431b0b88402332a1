"""Ranking of backbones without labels: planted regions, chance level, and what a user of the verb meets."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.backbones.base import nearest_multiple
from masktree.backbones.texture import TextureBackbone
from masktree.cluster import merge_tree
from masktree.errors import InputError, WeightsError
from masktree.stages import backbone_ranking as ranking
from masktree.stages import info as report
from masktree.trees.dendrogram import PartitionTree
from tests.oracles import bsds as oracle

COLOURS = np.array([(200, 40, 40), (40, 180, 60), (50, 60, 210), (230, 220, 60), (20, 20, 20), (240, 240, 240)])


def planted(rng: np.random.Generator, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Six flat regions, the nearest of random centres, with a little noise."""
    places = np.moveaxis(np.mgrid[: size[0], : size[1]], 0, -1)[:, :, None]
    nearest = ((places - rng.uniform(0, size, (len(COLOURS), 2))) ** 2).sum(-1).argmin(-1)
    return np.clip(COLOURS[nearest] + rng.normal(0, 3, (*size, 3)), 0, 255).astype(np.uint8)


class Stub:
    """Features by a function from images (b, H, W, 3), already of the size of the grid, to grids."""

    stride, dim, device, provenance = 8, 3, "cpu", TextureBackbone.provenance

    def __init__(self, features, name="stub"):
        self.features, self.name = features, name

    def input_size(self, H, W):
        return nearest_multiple(H, W, self.stride)

    def __call__(self, images):
        cells = images[:, 4::8, 4::8].astype(np.float32) / 255 - 0.5
        return np.ascontiguousarray(self.features(cells), np.float32)


def place(cells: np.ndarray) -> np.ndarray:
    _, h, w, _ = cells.shape
    grid = np.moveaxis(np.mgrid[:h, :w] / h - 0.5, 0, -1)
    return np.broadcast_to(np.concatenate([grid, np.sin(9 * grid)], -1), (len(cells), h, w, 4))


def noise(cells: np.ndarray) -> np.ndarray:
    """Other features in each picture, whatever it shows."""
    rng = np.random.default_rng(int(cells.view(np.uint32).sum()))
    return rng.normal(size=cells.shape)


BACKBONES = {"colour": Stub(lambda cells: cells), "place": Stub(place), "noise": Stub(noise)}


@pytest.fixture(scope="module")
def samples() -> list[ranking.RankingSample]:
    rng = np.random.default_rng(1)
    return [ranking.make_sample(planted(rng), np.random.default_rng(i)) for i in range(ranking.MIN_PHOTOS)]


@pytest.fixture(scope="module")
def results(samples) -> dict[str, tuple[np.ndarray, float]]:
    return {name: ranking.score_backbone(backbone, samples) for name, backbone in BACKBONES.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    path, rng = tmp_path / "photos", np.random.default_rng(2)
    path.mkdir()
    for index in range(ranking.MIN_PHOTOS):
        Image.fromarray(planted(rng, (60, 80))).save(path / f"{index}.png")
    return path


@pytest.fixture
def quick(monkeypatch) -> None:
    """Regions of a photograph by its colours, in place of the default method."""
    monkeypatch.setattr(ranking, "build_dendrogram", lambda image: merge_tree(BACKBONES["colour"](image[None])[0]))


@pytest.fixture
def stubs(quick, monkeypatch) -> None:
    """Only the stubs can be loaded."""

    def load(name: str, device: str = "auto"):
        if name not in BACKBONES:
            raise WeightsError(f"expected the name of a backbone; got {name!r}; give another")
        return BACKBONES[name]

    monkeypatch.setattr(ranking, "available_backbones", lambda: ["place", "colour"])
    monkeypatch.setattr("masktree.backbones.load_backbone", load)


# --- partitions -----------------------------------------------------------------------------------------------------


def test_agreement_is_the_mean_covering_of_both_directions(rng):
    first = rng.integers(0, 5, (3, 12, 10)).astype(np.int32)
    second = rng.integers(0, 4, (3, 12, 10)).astype(np.int32)
    naive = []
    for a, b in zip(first, second, strict=True):
        (in_a, pixels), (in_b, _) = oracle.covering_sums(b, [a]), oracle.covering_sums(a, [b])
        naive.append((in_a + in_b) / 2 / pixels)
    assert ranking.mean_covering(first, second) == pytest.approx(np.mean(naive), abs=1e-12)
    assert ranking.mean_covering(first, second) == pytest.approx(ranking.mean_covering(second, first), abs=1e-12)
    assert ranking.mean_covering(first, first) == 1.0


def test_agreement_does_not_depend_on_the_numbers_of_the_regions(rng):
    labels = rng.integers(0, 5, (1, 9, 9)).astype(np.int32)
    assert ranking.mean_covering(labels, 4 - labels) == 1.0
    assert ranking.mean_covering(labels, labels * 7) == 1.0


def test_cuts_have_the_given_numbers_of_regions_and_are_nested(rng):
    tree = merge_tree(rng.normal(size=(20, 20, 6)).astype(np.float32))
    places = ranking._lattice()
    stack = ranking.cut_at_points(tree, places, places)
    assert stack.shape == (len(ranking.REGION_COUNTS), ranking.LATTICE_SIDE, ranking.LATTICE_SIDE)
    assert [len(np.unique(labels)) for labels in stack] == list(ranking.REGION_COUNTS)
    for coarse, fine in pairwise(stack):
        pairs = np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(fine))


def test_cuts_count_regions_at_the_points_only(rng):
    tree = merge_tree(rng.normal(size=(20, 20, 6)).astype(np.float32))
    corner = np.linspace(0, 0.3, 30)
    assert [len(np.unique(labels)) for labels in ranking.cut_at_points(tree, corner, corner)] == list(
        ranking.REGION_COUNTS
    )


def test_cuts_of_fewer_leaves_than_regions_are_the_leaves():
    tree = PartitionTree.from_merges(np.array([[0, 1]], np.int32), np.array([[0, 1]]), np.array([0.5]))
    stack = ranking.cut_at_points(tree, np.array([0.5]), np.array([0.1, 0.9]))
    assert stack.tolist() == [[[0, 1]]] * len(ranking.REGION_COUNTS)
    alone = PartitionTree.from_merges(np.zeros((3, 3), np.int32), np.zeros((0, 2), int), np.zeros(0))
    assert not ranking.cut_at_points(alone, np.array([0.5]), np.array([0.5])).any()


# --- views ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(200, 300), (300, 200)])
def test_points_of_the_view_are_where_its_pixels_come_from(monkeypatch, size):
    monkeypatch.setattr(ranking, "_jitter_colours", lambda image, rng: image)
    ramp = np.zeros((*size, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, size[0])[:, None]
    ramp[..., 1] = np.linspace(0, 255, size[1])
    one = ranking.make_sample(ramp, np.random.default_rng(5))
    at = (ranking._lattice() * ranking.IMAGE_SIDE).astype(int)
    assert np.abs(one.view[at, 7, 0] / 255.0 - one.rows).max() < 0.01
    assert np.abs(one.view[7, at, 1] / 255.0 - one.columns).max() < 0.01
    assert one.rows.min() >= 0
    assert one.columns.min() >= 0
    assert max(one.rows.max(), one.columns.max()) < 1


def test_a_sample_is_repeatable_and_changes_with_the_seed():
    image = planted(np.random.default_rng(0))
    first, again, other = (ranking.make_sample(image, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name in ("image", "view", "rows", "columns", "regions"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.view, other.view)
    assert not np.array_equal(first.rows, other.rows)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (700, 3)])
def test_a_sample_of_any_size(size):
    one = ranking.make_sample(np.full((*size, 3), 90, np.uint8), np.random.default_rng(0))
    assert one.view.shape == one.image.shape == (ranking.IMAGE_SIDE, ranking.IMAGE_SIDE, 3)


# --- scores ---------------------------------------------------------------------------------------------------------


def test_a_fixed_grid_is_at_chance_exactly(results):
    values, _ = results["place"]
    # its views agree perfectly with those of any other photograph in all but the window's place
    assert abs(values[:, 0].mean()) < 0.02
    assert abs(values[:, 1].mean()) < 0.1


def test_the_same_features_everywhere_score_zero(samples):
    still = ranking.cut_regions(*(merge_tree(place(np.zeros((1, 40, 40, 3)))[0].astype(np.float32)),) * 2, samples[0])
    values = ranking.above_chance([still] * 4, [samples[0].regions] * 4)
    assert np.abs(values).max() < 1e-12


def test_colours_find_flat_regions_again_and_noise_does_not(results):
    colour, noise = (results[name][0].mean(0) for name in ("colour", "noise"))
    assert (colour > 0.3).all()
    assert (np.abs(noise) < 0.05).all()


def test_scores_are_repeatable(samples, results):
    values, seconds = ranking.score_backbone(BACKBONES["noise"], samples)
    assert np.array_equal(values, results["noise"][0])
    assert values.shape == (len(samples), 2)
    assert seconds > 0


def test_features_that_are_not_finite_are_an_error(samples):
    with pytest.raises(InputError, match="finite"):
        ranking.score_backbone(Stub(lambda cells: cells * np.nan), samples)


def test_ranking_orders_and_marks_ties(results):
    names = ["noise", "colour", "place", "twin"]
    values, seconds = results["colour"]
    jitter = np.random.default_rng(0).normal(0, 0.02, values.shape)
    twin = values - 0.001 + jitter - jitter.mean()
    rows = ranking.rank_scores(names, [results["noise"], (values, seconds), results["place"], (twin, 1.5)])
    assert [row.name for row in rows[:2]] == ["colour", "twin"]
    assert [row.tied for row in rows] == [True, True, False, False]
    assert rows[1].seconds == 1.5
    for row in rows:
        assert row.low <= row.score <= row.high
        assert row.score == pytest.approx((row.views + row.regions) / 2)
    assert rows == ranking.rank_scores(names, [results["noise"], (values, seconds), results["place"], (twin, 1.5)])


def test_reported_correlations_are_complete_and_in_range():
    assert len(ranking.RANK_CORRELATIONS) == 5
    assert ranking.CORRECT_PAIRS < ranking.SEPARATED_PAIRS <= ranking.NUM_EXTRACTORS * (ranking.NUM_EXTRACTORS - 1) // 2
    assert all(0 < better <= value < 1 for value, better in ranking.RANK_CORRELATIONS.values())


# --- photographs and backbones --------------------------------------------------------------------------------------


def test_few_photographs_are_refused(folder, quick):
    (folder / "0.png").unlink()
    with pytest.raises(
        InputError, match=f"at least {ranking.MIN_PHOTOS} photographs .*got {ranking.MIN_PHOTOS - 1}; add more"
    ):
        ranking.read_samples(folder)
    with pytest.raises(InputError, match="expected the folder of the photographs"):
        ranking.read_samples(folder / "1.png")


def test_an_unreadable_file_is_named(folder, quick):
    (folder / "notes.png").write_text("no picture")
    samples, failures = ranking.read_samples(folder)
    assert len(samples) == ranking.MIN_PHOTOS
    assert len(failures) == 1
    assert "notes.png" in failures[0]
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 could not be read, the first: .*1\.png"):
        ranking.read_samples(folder)


def test_many_photographs_are_sampled_evenly(folder, quick, monkeypatch):
    seen = []

    def read(path):
        seen.append(path.name)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(ranking, "MAX_PHOTOS", ranking.MIN_PHOTOS)
    monkeypatch.setattr(ranking, "read_image", read)
    for index in range(15):
        shutil.copy(folder / "0.png", folder / f"x{index:02d}.png")
    assert len(ranking.read_samples(folder)[0]) == ranking.MIN_PHOTOS
    assert seen[0] == "0.png"
    assert seen[-1] == "x14.png"


def test_backbones_in_the_cache_are_available(monkeypatch):
    monkeypatch.setattr(ranking, "cached_weights", lambda weights: Path("x") if weights.name == "dino-vits8" else None)
    assert ranking.available_backbones() == ["embedded", "texture", "dino-vits8"]


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_report_ranks_available_backbones_and_names_the_others(folder, stubs):
    text, failures = report.rank_backbones(folder, ["nosuch", "noise", "colour"])
    lines = text.splitlines()
    assert lines[1].split()[:2] == ["1", "colour"]
    assert {line.split()[1] for line in lines[1:4] if "=" not in line} <= {"colour", "place", "noise"}
    assert lines[4] == ""
    assert failures == ["nosuch: expected the name of a backbone; got 'nosuch'; give another"]
    assert f"{ranking.MIN_PHOTOS} photographs" in text
    for name, (value, better) in ranking.RANK_CORRELATIONS.items():
        assert f"{name} {value:.2f} ({better:.2f})" in text
    assert text.replace("0.00  cpu", "") == report.rank_backbones(folder, ["noise"])[0].replace("0.00  cpu", "")


def test_no_backbone_at_all_is_an_error(folder, stubs, monkeypatch):
    monkeypatch.setattr(ranking, "available_backbones", list)
    with pytest.raises(InputError, match=r"at least one backbone.*'nosuch'"):
        report.rank_backbones(folder, ["nosuch"])


def test_exit_codes_of_the_command(folder, stubs, capsys):
    assert cli.main(["info", "backbone", "--rank", str(folder)]) == 0
    assert "colour" in capsys.readouterr().out
    assert cli.main(["info", "backbone", "--rank", str(folder), "--candidates", "noise", "nosuch"]) == 1
    captured = capsys.readouterr()
    assert "noise" in captured.out
    assert "left out: nosuch: expected the name" in captured.err
    assert cli.main(["info", "backbone", "--rank", str(folder / "none")]) == 2
    assert "expected the folder of the photographs" in capsys.readouterr().err
    assert cli.main(["info", "labels", "--rank", str(folder)]) == 2
    assert cli.main(["info", "backbone", "texture", "--rank", str(folder)]) == 2
    assert cli.main(["info", "backbone", "--candidates", "texture"]) == 2
    assert "--rank FOLDER" in capsys.readouterr().err


def test_the_texture_backbone_scores_above_chance(samples):
    values, seconds = ranking.score_backbone(TextureBackbone(), samples[:4])
    assert np.isfinite(values).all()
    assert values.mean() > 0.1
    assert seconds > 0
