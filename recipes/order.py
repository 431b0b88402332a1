"""Learn the order of masks from motion in unlabelled videos; see ``masktree.discover.order``.

    python recipes/order.py FRAMES --output src/masktree/weights/order.npz

Needs opencv-python-headless and lightgbm, which nothing else does.

FRAMES: a folder of tar files with pairs of neighbouring video frames, ``CLIP-KK.a.webp`` and ``CLIP-KK.b.webp``,
without cuts and still pairs. Cost: 6 minutes of one core for 970 pairs of 93 clips of 448 pixels. Expected: 863 frames
of 89 clips; recall of 10 and 100 masks on held-out clips .051 and .181 before, .070 and .316 after; a file of 9.5 kB.
The package has an earlier file, of combinations of 200 instead of 1,000 pairs (.050, .180; .072, .307): no better one.

1. Optical flow of both frames (DIS; Kroeger et al. 2016, 10.1007/978-3-319-46493-0_29), where its two directions agree.
2. An affine camera is fitted robustly to the mean flow of the leaves and taken off. Leaves that move by more than .6
   pixels and 2.5 times the median of what is left move on their own; neighbours that move alike are one segment.
3. The target of a mask is (IoU with a segment / best IoU of all masks with it)^8 where that is at least .5, else 0.
4. Gradient boosting with a Poisson loss and log(score) as offset: the expected target is score * exp(F).
5. Corrected scores are mapped to the scores that masks of the same rank had, over all frames.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

TREES, LEAVES = 120, 8
POWER = 8  # of the relative IoU: nearly the best mask counts, others hardly
STILL_SHARE = 0.12  # of the masks without a target above .01 that are looked at, with so much more weight
MAX_NOISE = 0.6  # pixels


class Example(NamedTuple):
    """The n masks of a frame: features (n, k), scores (n,), targets (n,), and IoU with its s segments (n, s)."""

    clip: str
    features: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    ious: np.ndarray


def read_pairs(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name and the two frames of each pair, (h, w, 3) uint8."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            for first in sorted(name for name in names if name.endswith(".a.webp")):
                second = first.replace(".a.", ".b.")
                frames = []
                for name in (first, second):
                    content = archive.extractfile(name)
                    assert content is not None
                    frames.append(np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB")))
                if frames[0].shape == frames[1].shape:
                    yield first.removesuffix(".a.webp"), *frames


def optical_flow(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 2) flow in pixels, and (h, w) bool: whether the flow back agrees with it."""
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    there, back = dis.calc(a, b, None), dis.calc(b, a, None)
    h, w = a.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    x, y = x + there[..., 0], y + there[..., 1]
    error = np.linalg.norm(there + cv2.remap(back, x, y, cv2.INTER_LINEAR), axis=2)
    is_inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return there, is_inside & (error < 1 + 0.05 * np.linalg.norm(there, axis=2))


def camera_motion(places: np.ndarray, motion: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """(n, 2) motion of an affine camera, by iteratively reweighted least squares, and the median of what is left."""
    columns = np.concatenate([places, np.ones((len(places), 1))], axis=1)
    current = weights.copy()
    for _ in range(20):
        roots = np.sqrt(current)[:, None]
        fitted = columns @ np.linalg.lstsq(columns * roots, motion * roots, rcond=None)[0]
        rest = np.linalg.norm(motion - fitted, axis=1)
        order = np.argsort(rest)
        total = np.cumsum(weights[order])
        median = float(rest[order][np.searchsorted(total, total[-1] / 2)])
        current = weights / (1 + (rest / (2 * max(1.48 * median, 0.1))) ** 2) ** 2
    return fitted, median


def moving_segments(dendrogram: Any, flow: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """(n,) segment of each leaf, -1 of leaves that do not move on their own or are not seen in both frames."""
    labels, n = dendrogram.leaves.ravel(), dendrogram.n_leaves
    h, w = dendrogram.size
    areas, known = dendrogram.areas[:n], np.bincount(labels, is_known.ravel(), n)
    sums = [np.bincount(labels, flow[..., k].ravel() * is_known.ravel(), n) for k in (0, 1)]
    motion = np.stack(sums, axis=1) / np.maximum(known, 1)[:, None]
    y, x = (axis.ravel() for axis in np.mgrid[:h, :w])
    places = np.stack([np.bincount(labels, x, n), np.bincount(labels, y, n)], axis=1) / areas[:, None] / max(h, w)
    is_seen = known > 0.5 * areas
    if is_seen.sum() < 10:
        return np.full(n, -1)
    camera, noise = camera_motion(places, motion, np.where(is_seen, known, 0))
    own = motion - camera
    speed, limit = np.linalg.norm(own, axis=1), max(MAX_NOISE, 2.5 * noise)
    is_moving = is_seen & (speed > limit)
    a, b = dendrogram.borders[0].T
    tolerance = np.maximum(0.5 * limit, 0.25 * np.minimum(speed[a], speed[b]))
    alike = is_moving[a] & is_moving[b] & (np.linalg.norm(own[a] - own[b], axis=1) < tolerance)
    links = csr_matrix((np.ones(alike.sum()), (a[alike], b[alike])), shape=(n, n))
    return np.where(is_moving, connected_components(links, directed=False)[1], -1)


def make_example(name: str, first: np.ndarray, second: np.ndarray, backbone: Any) -> Example | None:
    """The candidates of the first frame; None where nothing moves that a mask fits."""
    from masktree.discover.masktree import build_dendrogram
    from masktree.discover.order import SMALL_AREA, mask_features
    from masktree.trees.candidates import find_candidates
    from masktree.trees.masktree import MAX_MASKS

    dendrogram = build_dendrogram(first, backbone=backbone, detail=max(first.shape[:2]))
    candidates = find_candidates(dendrogram, max_masks=MAX_MASKS)
    segments = moving_segments(dendrogram, *optical_flow(first, second))
    areas = dendrogram.areas[: dendrogram.n_leaves].astype(np.float64)
    counts, sizes = Counter(segments[segments >= 0].tolist()), np.bincount(segments + 1, areas)[1:]
    chosen = [s for s, count in sorted(counts.items()) if count >= 2 and sizes[s] >= SMALL_AREA * areas.sum()]
    if not chosen:
        return None
    inside = candidates.leaves_inside.astype(np.float64)
    shared = inside @ (areas[:, None] * (segments[:, None] == np.array(chosen)))
    ious = shared / ((inside @ areas)[:, None] + sizes[chosen] - shared)
    best = ious.max(axis=0)
    if best.max() < 0.5:
        return None
    targets = (np.where(best >= 0.5, ious / best, 0) ** POWER).max(axis=1)
    features = mask_features(candidates, first)
    clip = name.rpartition("-")[0]
    return Example(clip, features, candidates.scores, targets, ious[:, best >= 0.5])


def fit(examples: list[Example], seed: int) -> Any:
    """A booster of LightGBM. Clips weigh the same, and so do the frames of a clip."""
    import lightgbm

    per_clip = Counter(example.clip for example in examples)
    rows = [
        np.full(len(example.scores), 1 / per_clip[example.clip] / max(example.targets.sum(), 0.5))
        for example in examples
    ]
    weights = np.concatenate(rows)
    features, scores, targets = (
        np.concatenate(columns)
        for columns in zip(*((example.features, example.scores, example.targets) for example in examples), strict=True)
    )
    is_target = targets > 0.01
    keep = is_target | (np.random.default_rng(seed).random(len(targets)) < STILL_SHARE)
    weights = np.where(is_target, weights, weights / STILL_SHARE)[keep]
    features, scores, targets = features[keep], scores[keep], targets[keep]
    weights *= len(weights) / weights.sum()
    offset = np.log(scores) + np.log((weights * targets).sum() / (weights * scores).sum())
    parameters = {
        "objective": "poisson",
        "num_leaves": LEAVES,
        "learning_rate": 0.1,
        "min_data_in_leaf": 200,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.5,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "max_bin": 63,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "verbose": -1,
    }
    data = lightgbm.Dataset(features, targets, weight=weights, init_score=offset)
    return lightgbm.train(parameters, data, TREES)


def export(booster: Any, examples: list[Example]) -> Any:
    """The arrays of a booster, and the map of scores over all masks of the examples."""
    from masktree.discover.order import MotionOrder, correct_scores

    trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    shape = (len(trees), LEAVES - 1)
    features, thresholds = np.zeros(shape, np.int16), np.full(shape, np.inf, np.float32)
    children, values = np.full((*shape, 2), -1, np.int16), np.zeros((len(trees), LEAVES), np.float32)
    for t, root in enumerate(trees):
        if "leaf_value" in root:  # nothing to split
            values[t, 0] = root["leaf_value"]
            continue
        waiting = [root]
        while waiting:
            node = waiting.pop()
            k = node["split_index"]
            features[t, k] = node["split_feature"]
            thresholds[t, k] = _round_down(node["threshold"])
            for side, name in enumerate(("left_child", "right_child")):
                child = node[name]
                if "leaf_value" in child:
                    children[t, k, side] = -1 - child["leaf_index"]
                    values[t, child["leaf_index"]] = child["leaf_value"]
                else:
                    children[t, k, side] = child["split_index"]
                    waiting.append(child)
    order = MotionOrder(features, thresholds, children, values, np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    before = np.concatenate([example.scores for example in examples])
    after = np.concatenate(
        [correct_scores(example.scores, example.features, order.predict(example.features)) for example in examples]
    )
    quantiles = np.concatenate([np.linspace(0, 0.9, 19), 1 - np.geomspace(0.08, 1e-4, 12), [1.0]])
    learned, scores = (np.quantile(values, quantiles) for values in (after, before))
    knots = np.concatenate([[0.0], learned, [2 * learned[-1]]]), np.concatenate([[0.0], scores, [1.0]])
    return MotionOrder(features, thresholds, children, values, *knots)


def _round_down(threshold: float) -> np.float32:
    """So that float32 features compare with it as with the float64 threshold."""
    value = np.float32(threshold)
    return value if float(value) <= threshold else np.nextafter(value, np.float32(-np.inf))


def recalls(examples: list[Example], scores: list[np.ndarray], limits: tuple[int, ...] = (10, 100)) -> np.ndarray:
    """Average recall of the segments by the first masks of each frame, at IoU .5 to .95."""
    levels = np.linspace(0.5, 0.95, 10)
    found, count = np.zeros(len(limits)), 0
    for example, values in zip(examples, scores, strict=True):
        order = np.argsort(-values, kind="stable")
        for k, limit in enumerate(limits):
            best = example.ious[order[:limit]].max(axis=0)
            found[k] += (best[:, None] >= levels).mean(axis=1).sum()
        count += example.ious.shape[1]
    return found / count


def cross_validate(examples: list[Example], seed: int, folds: int = 4) -> None:
    """Print the recall on held-out clips."""
    from masktree.discover.order import correct_scores

    clips = sorted({example.clip for example in examples})
    fold = {clip: k % folds for k, clip in enumerate(np.random.default_rng(seed).permutation(clips))}
    held_out: list[Example] = []
    corrected: list[np.ndarray] = []
    for k in range(folds):
        order = export(fit([example for example in examples if fold[example.clip] != k], seed), examples)
        for example in (example for example in examples if fold[example.clip] == k):
            held_out.append(example)
            corrected.append(correct_scores(example.scores, example.features, order.predict(example.features)))
    before = recalls(held_out, [example.scores for example in held_out])
    print(
        f"held-out clips, recall of 10 and 100 masks: {before.round(3)} before, {recalls(held_out, corrected).round(3)}"
    )


def main() -> None:
    from masktree.backbones import load_backbone

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    backbone = load_backbone("embedded")
    made = (make_example(*pair, backbone) for pair in read_pairs(options.frames))
    examples = [example for example in made if example is not None]
    print(f"{len(examples)} frames of {len({example.clip for example in examples})} clips")
    cross_validate(examples, options.seed)
    order = export(fit(examples, options.seed), examples)
    order.save(options.output)
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
