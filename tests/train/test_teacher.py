"""A teacher that finds what is planted: photographs whose colours say which masks a pixel belongs to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from masktree.errors import FormatError, InputError, TrainingError
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.mask2former.model import Mask2Former
from masktree.models.structures import Batch, Targets
from masktree.train import teacher as module
from masktree.train.augmentation import Augmentation
from masktree.train.collapse_monitor import CollapseMonitor
from masktree.train.geometry import Geometry
from masktree.train.label_store import LabelStore
from masktree.train.pseudo_label_thresholds import PseudoLabelThresholds
from masktree.train.teacher import MIN_COVERAGE, ScoredMasks, Teacher, evaluating
from masktree.train.teacher_views import TwoViewDataset, ViewBatch
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from tests.models.cascade import test_model as test_cascade
from tests.models.mask2former import test_model as test_mask2former
from tests.models.standins import PlantedDetections
from tests.train.labelled import write_labels

CPU = torch.device("cpu")
SIDE = 96
SAME = Augmentation(crop_size=SIDE, scale=(1.0, 1.0), max_masks=20, min_area=1)
BIT = 32  # of the red channel: what is below it is noise
SCORES = (0.95, 0.9, 0.85, 0.8)


class Reader(nn.Module):
    """Finds mask j of score ``scores[j]`` where bit j of red is set. A batch norm counts what it has seen in training
    mode, and spoils it."""

    wants_cues = False

    def __init__(self, scores: Sequence[float] = SCORES) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.scores = torch.tensor(scores)
        self.modes: list[tuple[bool, bool]] = []

    def detect(self, images: Tensor, cues: Tensor | None, content: Sequence[tuple[int, int]]) -> list:
        images = self.norm(images)
        self.modes.append((self.training, torch.is_autocast_enabled("cpu")))
        red = (images[:, 0].float() * 255 * (1 + self.norm.eps) ** 0.5).round().int() // BIT
        found = []
        for own, size in zip(red, content, strict=True):
            bits = torch.stack([(own >> j) % 2 for j in range(len(self.scores))])
            found.append(PlantedDetections(self.scores, bits.float() - 0.5, tuple(own.shape), size))
        return found


def planted(size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> np.ndarray:
    """Masks of a single_batch, its part, and something else, of any place."""
    rng, (H, W) = np.random.default_rng(seed), size
    masks = np.zeros((3, H, W), bool)
    top, left = int(rng.integers(2, H // 4)), int(rng.integers(2, W // 6))
    masks[0, top : top + H // 2, left : left + W // 2] = True
    masks[1, top + H // 10 : top + H // 3, left + W // 10 : left + W // 3] = True
    yy, xx = np.mgrid[:H, :W]
    masks[2] = (yy - 0.75 * H) ** 2 + (xx - 0.75 * W) ** 2 < (0.2 * min(H, W)) ** 2
    return masks


def painted(masks: np.ndarray) -> np.ndarray:
    """The photograph of these masks."""
    image = np.full((*masks.shape[1:], 3), 100, np.uint8)
    image[..., 0] = sum((BIT << j) * mask.astype(np.uint8) for j, mask in enumerate(masks)) + BIT // 2
    return image


def collection(folder: Path, masks: Sequence[np.ndarray]) -> LabelStore:
    (folder / "photos").mkdir()
    trees = {}
    for index, own in enumerate(masks):
        Image.fromarray(painted(own)).save(folder / "photos" / f"{index}.png")
        trees[f"{index}.png"] = MaskTree.from_masks(own)
    return LabelStore.of(write_labels(folder / "labels", folder / "photos", trees))


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return collection(tmp_path, [planted(seed=seed) for seed in range(6)])


def views_of(store: LabelStore, steps: int = 1, settings: Augmentation = SAME, batch: int = 6) -> list[ViewBatch]:
    root = store.folder.parents[2] / "photos"
    return list(TwoViewDataset(store, root, settings, 1).loader(0, steps, batch))


def by_hand(
    masks: np.ndarray, strong: Geometry, weak: Geometry | None = None, crop: int = SIDE, name: str = "0.png"
) -> ViewBatch:
    """One photograph seen in given ways, without colours mixed at the masks' borders."""
    rles = [rle.encode(mask) for mask in masks]
    weak = weak or Geometry(strong.size, strong.size, (0, 0), strong.size)
    batches = []
    for geometry in (weak, strong):
        padded = torch.zeros(1, 3, crop, crop)
        seen = torch.from_numpy(painted(geometry.apply_masks(rles))).permute(2, 0, 1).float() / 255
        padded[0, :, : geometry.window[0], : geometry.window[1]] = seen
        batches.append(Batch(padded, None, [], torch.tensor([7]), [name]))
    return ViewBatch(batches[0], batches[1], [weak.window], [weak], [strong])


def teacher_of(**values: object) -> Teacher:
    given = {
        "method": "sohes",
        "thresholds": PseudoLabelThresholds(),
        "min_coverage": 0.9,
        "max_masks": 20,
        "min_area": 1,
        "monitor": CollapseMonitor(),
    }
    return Teacher(**(given | values))


def sets(targets: Targets) -> set[bytes]:
    return {mask.numpy().tobytes() for mask in targets.masks}


# --- targets --------------------------------------------------------------------------------------------------------


def test_what_is_found_in_one_view_is_taught_in_the_other(store):
    """At the photographs' own scale: every mask of the strong view exactly as the photograph has it."""
    records = {record.name: record for record in map(store.__getitem__, range(len(store)))}
    mirrors = set()
    for views in views_of(store, 3):
        batch, report = teacher_of().make_targets(Reader(), views, CPU)
        assert torch.equal(batch.images, views.strong.images)
        assert torch.equal(batch.seeds, views.strong.seeds)
        assert batch.names == views.strong.names
        kept = [report[f"kept_{size}"] for size in ("small", "medium", "large")]
        assert sum(kept) == 3
        areas = np.concatenate([rle.areas(records[name].rles, (SIDE, SIDE)) for name in batch.names])
        assert kept[0] == (areas < 32**2).sum() / 6
        assert kept[2] == 0
        assert report["collapsed"] == 0
        for i, targets in enumerate(batch.targets):
            mirrors.add((views.weak_geometries[i].flipped, views.strong_geometries[i].flipped))
            own = records[batch.names[i]]
            wanted = views.strong_geometries[i].apply_masks(own.rles)
            assert targets.masks.dtype == torch.bool
            assert targets.parents.dtype == targets.levels.dtype == torch.int64
            assert sets(targets) == {mask.tobytes() for mask in wanted}
            inner = [i for i, parent in enumerate(targets.parents.tolist()) if parent >= 0]
            assert len(inner) == 1
            assert targets.levels[inner].tolist() == [1]
            assert not (targets.masks[inner[0]] & ~targets.masks[targets.parents[inner[0]]]).any()
    assert len(mirrors) == 4


@pytest.mark.parametrize(("height", "scale"), [(64, 1.7), (200, 0.6), (130, 1.3), (37, 2.0)])
def test_at_other_scales_targets_are_right_to_a_pixel_at_their_borders(height, scale):
    """PhotoDataset larger and smaller than the teacher's view of them, which has 72 x 96 pixels."""
    masks, rng = planted((height, height * 4 // 3), seed=3), np.random.default_rng(height)
    size = masks.shape[1:]
    for _ in range(4):
        weak = Geometry(size, (72, 96), (0, 0), (72, 96), bool(rng.random() < 0.5))
        resized = round(72 * scale), round(96 * scale)
        window = min(SIDE, resized[0]), min(SIDE, resized[1])
        offset = resized[0] - window[0], (resized[1] - window[1]) // 2
        strong = Geometry(size, resized, offset, window, bool(rng.random() < 0.5))
        batch, _ = teacher_of().make_targets(Reader(), by_hand(masks, strong, weak), CPU)
        found = batch.targets[0].masks.numpy()
        seen = np.zeros((3, SIDE, SIDE), bool)
        seen[:, : window[0], : window[1]] = strong.apply_masks([rle.encode(mask) for mask in masks])
        wanted = [mask for mask in seen if mask.any()]
        assert len(found) == len(wanted)
        reach = int(np.ceil(max(scale, resized[0] / height, 1))) + 1  # a pixel of each of the three grids
        for own in wanted:
            best = found[np.argmin([(mask != own).sum() for mask in found])]
            square = np.ones((3, 3))
            inner = ndimage.binary_erosion(own, square, reach)
            assert not (inner & ~best).any()
            assert not (best & ~ndimage.binary_dilation(own, square, reach)).any()


def test_padding_of_both_views_has_no_masks():
    masks = planted((48, 96))
    strong = Geometry((48, 96), (30, 60), (0, 0), (30, 60))
    batch, _ = teacher_of().make_targets(Reader(), by_hand(masks, strong), CPU)
    found = batch.targets[0].masks
    assert found.shape == (3, SIDE, SIDE)
    assert not found[:, 30:].any()
    assert not found[:, :, 60:].any()


def test_who_lies_under_whom_is_decided_on_all_of_the_photograph():
    """In a view of the part alone, part and whole fill the same pixels: they would stand side by side."""
    masks = planted()
    rows, columns = (np.flatnonzero(masks[1].any(axis)) for axis in (1, 0))
    window = len(rows) - 4, len(columns) - 4
    strong = Geometry((SIDE, SIDE), (SIDE, SIDE), (int(rows[0]) + 2, int(columns[0]) + 2), window)
    batch, _ = teacher_of().make_targets(Reader(), by_hand(masks, strong), CPU)
    [targets] = batch.targets
    assert len(targets.masks) == 2
    assert torch.equal(targets.masks[0], targets.masks[1])
    assert targets.parents.tolist() == [-1, 0]
    assert targets.levels.tolist() == [0, 1]


def test_a_mask_whose_parent_is_out_of_sight_keeps_its_level():
    masks = np.zeros((3, SIDE, SIDE), bool)
    masks[0, 4:90, 4:90] = True
    masks[1, 10:60, 10:60] = True
    masks[2, 20:40, 20:40] = True
    views = by_hand(masks, Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE)))
    [targets] = teacher_of(max_masks=3).make_targets(Reader(), views, CPU)[0].targets
    assert targets.parents.tolist() == [-1, 0, 1]
    assert targets.levels.tolist() == [0, 1, 2]
    left = set()
    for seed in range(20):
        own = replace(views, strong=replace(views.strong, seeds=torch.tensor([seed])))
        [targets] = teacher_of(max_masks=2).make_targets(Reader(), own, CPU)[0].targets
        again = teacher_of(max_masks=2).make_targets(Reader(), own, CPU)[0].targets[0]
        assert torch.equal(targets.masks, again.masks)
        assert targets.parents.tolist() == [-1, 0]
        left.add(tuple(targets.levels.tolist()))
    assert left == {(0, 1), (0, 2), (1, 2)}


def test_the_looser_coverage_of_hassod_finds_more_parents():
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, 10:60, 10:60] = True
    masks[1, 52:62, 20:30] = True  # 0.8 of it under the other
    views = by_hand(masks, Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE)))
    levels = {}
    for rule in ("sohes", "hassod"):
        teacher = teacher_of(method=rule, min_coverage=MIN_COVERAGE[rule])
        levels[rule] = teacher.make_targets(Reader(), views, CPU)[0].targets[0].levels.tolist()
    assert levels == {"sohes": [0, 0], "hassod": [0, 1]}


def test_copies_of_better_masks_are_dropped_where_queries_may_repeat_each_other():
    masks = np.zeros((3, SIDE, SIDE), bool)
    masks[0, 10:60, 10:60] = True
    masks[1, 10:59, 10:60] = True
    masks[2, 10:59, 10:50] = True  # IoU 0.78 with the first
    views = by_hand(masks, Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE)))
    queries = teacher_of().make_targets(Reader(), views, CPU)[0].targets[0]
    assert sets(queries) == {masks[0].tobytes(), masks[2].tobytes()}
    boxes = teacher_of(method="hassod").make_targets(Reader(), views, CPU)[0].targets[0]
    assert len(boxes.masks) == 3


def test_small_and_unsure_masks_are_not_taught():
    masks = planted()
    masks[1] = False
    masks[1, 5:8, 5:8] = True
    strong = Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE))
    views = by_hand(masks, strong)
    assert len(teacher_of(min_area=9).make_targets(Reader(), views, CPU)[0].targets[0].masks) == 3
    assert len(teacher_of(min_area=10).make_targets(Reader(), views, CPU)[0].targets[0].masks) == 2
    unsure = Reader((0.9, 0.7, 0.65))
    assert sets(teacher_of().make_targets(unsure, views, CPU)[0].targets[0]) == {masks[0].tobytes()}
    nothing = Reader((0.1, 0.05, 0.0))
    batch, report = teacher_of().make_targets(nothing, views, CPU)
    assert batch.targets[0].masks.shape == (0, SIDE, SIDE)
    assert report["collapsed"] == 1
    outside = by_hand(masks, replace(strong, offset=(90, 90), window=(6, 6)))
    assert len(teacher_of(min_area=2).make_targets(Reader(), outside, CPU)[0].targets[0].masks) == 0


def test_sizes_are_those_on_the_photograph():
    """A photograph of 4000 x 4000 pixels: small in the teacher's view, large in truth; and no mask of that size is ever
    dense."""
    size = (4000, 4000)
    weak = Geometry(size, (SIDE, SIDE), (0, 0), (SIDE, SIDE))
    seen = by_hand(planted(), Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE)))
    views = replace(seen, weak_geometries=[weak], strong_geometries=[replace(weak, resized=(150, 150))])
    batch, report = teacher_of().make_targets(Reader(), views, CPU)
    assert report["kept_large"] == 3
    assert report["kept_small"] == report["kept_medium"] == 0
    assert 1 <= len(batch.targets[0].masks) <= 3


def test_one_mask_of_the_whole_picture_is_blind():
    strong = Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE))
    masks = np.ones((1, SIDE, SIDE), bool)
    assert teacher_of().make_targets(Reader(), by_hand(masks, strong), CPU)[1]["collapsed"] == 1
    masks[0, :12] = False
    assert teacher_of().make_targets(Reader(), by_hand(masks, strong), CPU)[1]["collapsed"] == 0


# --- the model ------------------------------------------------------------------------------------------------------


def test_nothing_of_the_teacher_changes_even_if_it_was_left_in_training_mode(store):
    [views] = views_of(store)
    model = Reader().train()
    model.norm.weight.requires_grad_(False)
    frozen = nn.ModuleDict({"inner": nn.BatchNorm2d(3)}).eval()
    model.add_module("frozen", frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, _ = teacher_of().make_targets(model, views, CPU)
    assert [training for training, _ in model.modes] == [False, False]  # four images, then two
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.training
    assert model.norm.training
    assert not frozen.training
    assert not frozen["inner"].training
    evaluated, _ = teacher_of().make_targets(Reader().eval(), views, CPU)
    assert [sets(t) for t in batch.targets] == [sets(t) for t in evaluated.targets]
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training


def test_the_teacher_computes_as_the_loop_does(store):
    [views] = views_of(store)
    model = Reader().eval()
    teacher_of().make_targets(model, views, CPU)
    teacher_of().make_targets(model, views, CPU, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert [lower for _, lower in model.modes] == [False, False, True, True]


def test_damaged_weights_are_said(store):
    [views] = views_of(store)
    with pytest.raises(TrainingError, match=r"finite scores from the teacher; got NaN or infinity in \d.png"):
        teacher_of().make_targets(Reader((0.9, float("nan"), 0.8)).eval(), views, CPU)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "sohes": Mask2Former(test_mask2former.CONFIG, test_mask2former.TinyPyramid()),
        "hassod": CascadeMaskRCNN(test_cascade.CONFIG, test_cascade.TinyPyramid()),
    }


@pytest.mark.parametrize("rule", ["sohes", "hassod"])
@pytest.mark.parametrize("autocast", [contextlib.nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_a_student_can_learn_what_real_networks_find(store, rule, autocast):
    [views] = views_of(store, 1, replace(SAME, scale=(0.5, 1.5)), batch=2)
    model = networks()[rule]
    teacher = teacher_of(
        method=rule, thresholds=PseudoLabelThresholds(fixed=0.01), min_coverage=MIN_COVERAGE[rule], max_masks=5
    )
    batch, report = teacher.make_targets(model, views, CPU, autocast=autocast)
    assert sum(len(t.masks) for t in batch.targets) > 0
    assert all(len(t.masks) <= 5 and (t.masks.sum((1, 2)) >= 1).all() for t in batch.targets)
    assert all(isinstance(value, float) for value in report.values())
    for targets, geometry in zip(batch.targets, views.strong_geometries, strict=True):
        hierarchy.depths(targets.parents.numpy().astype(np.int32))
        assert not targets.masks[:, geometry.window[0] :].any()
        assert not targets.masks[:, :, geometry.window[1] :].any()
    with torch.enable_grad(), autocast():
        losses = model.train().losses(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)


# --- several processes, checkpoints, collapse -------------------------------------------------------------------------


def half(views: ViewBatch, own: slice) -> ViewBatch:
    def cut(batch: Batch) -> Batch:
        return replace(
            batch,
            images=batch.images[own],
            targets=batch.targets[own],
            seeds=batch.seeds[own],
            names=batch.names[own],
        )

    geometries = views.weak_geometries[own], views.strong_geometries[own]
    return ViewBatch(cut(views.weak), cut(views.strong), views.valid_sizes[own], *geometries)


def teach_halves(
    pair: Sequence[Teacher], model: Reader, views: ViewBatch, wanted: tuple[float, float, float]
) -> list[tuple[Batch, dict[str, float]]]:
    """The sums of both are found first, then given to both: what a sum over processes does."""
    shares = [half(views, slice(0, 3)), half(views, slice(3, 6))]
    sums: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        sums.append(values)
        return values

    for share in shares:
        probe = teacher_of(thresholds=PseudoLabelThresholds(wanted))
        probe.load_state_dict(pair[0].state_dict())
        probe.make_targets(model, share, CPU, reduce=note)
    return [
        own.make_targets(model, share, CPU, reduce=lambda values: sums[0] + sums[1])
        for own, share in zip(pair, shares, strict=True)
    ]


def test_two_processes_with_half_the_images_agree_with_one(store):
    wanted = (0.5, 1.5, 0.1)
    alone = teacher_of(thresholds=PseudoLabelThresholds(wanted))
    pair = [teacher_of(thresholds=PseudoLabelThresholds(wanted)) for _ in range(2)]
    for step, views in enumerate(views_of(store, 5)):
        model = Reader([0.95 - 0.05 * step, 0.6 + 0.05 * step, 0.5 + 0.02 * step]).eval()
        model.scores = model.scores.sort(descending=True).values
        batch, report = alone.make_targets(model, views, CPU)
        both = teach_halves(pair, model, views, wanted)
        assert both[0][1] == both[1][1] == report
        parts = [sets(t) for own, _ in both for t in own.targets]
        assert parts == [sets(t) for t in batch.targets]
        assert pair[0].thresholds.values == pair[1].thresholds.values == alone.thresholds.values
    assert torch.equal(pair[1].thresholds.histogram, alone.thresholds.histogram)
    assert alone.thresholds.values != (0.5, 0.5, 0.5)


def test_a_reloaded_teacher_goes_on_as_an_unbroken_one(store):
    steps = views_of(store, 4)
    unbroken, first = (
        teacher_of(thresholds=PseudoLabelThresholds((0.5, 0.5, 0.5)), monitor=CollapseMonitor(3)) for _ in range(2)
    )
    second = teacher_of(thresholds=PseudoLabelThresholds((0.5, 0.5, 0.5)), monitor=CollapseMonitor(3))
    model = Reader().eval()
    wanted = [unbroken.make_targets(model, views, CPU)[1] for views in steps]
    got = [first.make_targets(model, views, CPU)[1] for views in steps[:2]]
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    got += [second.make_targets(model, views, CPU)[1] for views in steps[2:]]
    assert got == wanted
    assert wanted[0]["threshold_small"] == 0.5
    assert wanted[1]["threshold_medium"] != 0.5
    with pytest.raises(FormatError):
        second.load_state_dict({"thresholds": {}, "monitor": {}})


def test_a_teacher_gone_blind_ends_the_run(store):
    teacher = teacher_of(monitor=CollapseMonitor(window=3))
    steps, model = views_of(store, 5), Reader((0.2, 0.1)).eval()
    for views in steps[:2]:
        teacher.make_targets(model, views, CPU)
    with pytest.raises(TrainingError, match="it has collapsed"):
        teacher.make_targets(model, steps[2], CPU)
    fading = teacher_of(monitor=CollapseMonitor(window=2))
    for model in (Reader(), Reader(), Reader((0.9,)), Reader((0.9,))):
        fading.make_targets(model.eval(), steps[0], CPU)
    assert "fewer and fewer masks: 1.0 per image now, 3.0 at first" in (fading.monitor.pop_warning() or "")


def test_masks_are_rendered_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("masktree.models.trees._BATCH_BYTES", SIDE * SIDE)
    rendered: list[int] = []
    render = PlantedDetections.render

    def counted(self, start, stop, size):
        rendered.append(stop - start)
        return render(self, start, stop, size)

    monkeypatch.setattr(PlantedDetections, "render", counted)
    strong = Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE))
    teacher_of().make_targets(Reader(), by_hand(planted(), strong), CPU)
    assert rendered == [1, 1, 1, 1]
    assert module._MAX_BATCH_SIZE == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "unsam"}, "method sohes, hassod; got 'unsam'"),
        ({"min_coverage": 0.0}, "coverage"),
        ({"max_masks": 0}, "max_masks and min_area"),
        ({"min_area": 0}, "max_masks and min_area"),
    ],
)
def test_impossible_teachers_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        teacher_of(**values)


def test_found_masks_can_be_chosen():
    found = ScoredMasks([b"a", b"b", b"c"], (4, 4), np.array([0.9, 0.8, 0.7]), np.array([1.0, 2.0, 3.0]))
    kept = found[np.array([True, False, True])]
    assert kept.rles == [b"a", b"c"]
    assert kept.areas.tolist() == [1.0, 3.0]
