"""Does the score of ``masktree info backbone --rank`` agree with ground truth? Rank correlation over extractors.

    python benchmarks/ranking.py WORK --bsds BSDS500 --sets car_parts clothing msrc \\
        --states early=run1/state.pt late=run2/state.pt

Cost: 3 hours on one core (2 s per image, 0.5 s per comparison). Expected: table "Ranking of backbones" in
docs/benchmarks.md, which ``masktree.stages.backbone_ranking`` quotes. About twenty feature extractors of known relative
quality: the two built-in ones, parts of the texture features, mean colour and position, random networks through the
real loading code, the embedded features and weights degraded in several ways, and with --states earlier states of their
training (``state.pt`` of ``recipes/embedded_backbone.py``). For each:

* on every second image of BSDS500 val, the covering of the published cosine rule, ODS, OIS and Best, and, without
  ground truth, the two parts of the score;
* on every twelfth image of each set (a folder with ``images`` and ``annotations.json``), AR@1000 of the nodes of such
  dendrograms (``ar``) and of the regions at the thresholds .1 to .6 (``cuts``).

The ground truth serves this report only. Dendrograms stay in WORK and are reused.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import timm
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import kendalltau, spearmanr
from skimage.color import rgb2lab

from arguments import make_parser
from bsds import COSINE_LEVELS, upscale_leaves
from masktree.backbones import Backbone, load_backbone
from masktree.backbones.embedded import WEIGHT_FILE, load_embedded_network
from masktree.backbones.embedded.network import EmbeddedNetwork, fuse_batch_norm
from masktree.backbones.texture import boundary_cues
from masktree.backbones.texture.words import NUM_WORDS
from masktree.cluster import merge_tree
from masktree.evaluate import bsds, recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.files import write_atomically
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.stages import backbone_ranking as ranking
from masktree.trees import rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from table import Table
from tasks import read_images

CELLS = ranking.IMAGE_SIDE // 8
THRESHOLDS = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
METRICS = ("ods", "ois", "best", "ar", "cuts")
SCORES = ("views", "regions", "score")
SEED = 7
CUE_LAYER = "evidence."  # parameters that networks without boundary cues lack


Grids = dict[str, np.ndarray]  # by extractor: (h, w, d) float32 features of one image
Extract = Callable[[np.ndarray, int], Grids]  # from a (IMAGE_SIDE, IMAGE_SIDE, 3) uint8 image and a seed
Row = dict[str, float]


# --- extractors -----------------------------------------------------------------------------------------------------


def load_state(path: Path) -> tuple[EmbeddedNetwork, bool]:
    """An earlier state of the embedded network, and whether it was trained with boundary cues."""
    weights = torch.load(path, weights_only=True, map_location="cpu")["averaged"]
    network = EmbeddedNetwork().eval()
    network.load_state_dict(network.state_dict() | weights)
    fuse_batch_norm(network)
    return network.requires_grad_(False), any(name.startswith(CUE_LAYER) for name in weights)


def degraded_network(sigma: float) -> EmbeddedNetwork:
    """The shipped weights with noise of ``sigma`` times the standard deviation of each tensor."""
    network = load_embedded_network(WEIGHT_FILE, None)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight += sigma * weight.std() * torch.randn(weight.shape, generator=generator)
    return network


def untrained_network() -> EmbeddedNetwork:
    torch.manual_seed(1)
    network = EmbeddedNetwork().eval()
    fuse_batch_norm(network)
    return network.requires_grad_(False)


def random_timm_backbone(folder: Path, architecture: str, **model_args: Any) -> Backbone:
    """A timm network with random weights, saved and loaded as a user's own."""
    if not folder.exists():
        torch.manual_seed(3)
        network = timm.create_model(architecture, num_classes=0, **model_args)
        statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        timm.models.save_for_hf(network, folder, {"pretrained_cfg": statistics}, model_args, safe_serialization=True)
    return load_backbone(str(folder), "cpu")


def make_extractors(work: Path, states: dict[str, Path]) -> Extract:
    """A function from an image and a seed to a feature grid by each extractor."""
    networks: dict[str, tuple[EmbeddedNetwork, bool]] = {"embedded": (load_embedded_network(WEIGHT_FILE, None), True)}
    networks |= {f"state {name}": load_state(path) for name, path in states.items()}
    networks |= {f"weights +{sigma}": (degraded_network(sigma), True) for sigma in (0.15, 0.35)}
    networks["random cnn"] = (untrained_network(), False)
    texture = load_backbone("texture")
    random_backbones = {
        "random vit": random_timm_backbone(work / "vit", "vit_tiny_patch16_224", patch_size=8, depth=3),
        "random resnet": random_timm_backbone(work / "resnet", "resnet18"),
    }

    def extract(image: np.ndarray, seed: int) -> Grids:
        grids = {name: backbone(image[None])[0] for name, backbone in random_backbones.items()}
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        cues = torch.from_numpy(boundary_cues(image).maps[None])
        with torch.inference_mode():
            for name, (network, uses_cues) in networks.items():
                vectors = torch.nn.functional.normalize(network(pixels, cues if uses_cues else None)[1], dim=1)
                grids[name] = torch.nn.functional.avg_pool2d(vectors, 2)[0].permute(1, 2, 0).numpy()
        words = grids["texture"] = texture(image[None])[0]
        grids["texture, colours"] = words[..., :NUM_WORDS]
        grids["texture, textons"] = words[..., NUM_WORDS : 2 * NUM_WORDS]
        grids["texture, pmi embedding"] = words[..., 2 * NUM_WORDS :]
        grids |= simple_features(image) | degraded_features(grids["embedded"], np.random.default_rng(seed))
        return {name: np.ascontiguousarray(grid, np.float32) for name, grid in grids.items()}

    return extract


def simple_features(image: np.ndarray) -> Grids:
    """Mean colour relative to that of the image, the same with the position, and the position alone."""
    lab = rgb2lab(image).reshape(CELLS, 8, CELLS, 8, 3).mean((1, 3))
    lab -= lab.mean((0, 1))
    position = np.moveaxis(np.mgrid[:CELLS, :CELLS] / (CELLS - 1) - 0.5, 0, -1)
    waves = [np.sin(4 * np.pi * position), np.cos(4 * np.pi * position)]
    return {
        "lab": lab,
        "lab and position": np.concatenate([lab / 20, 2 * position], -1),
        "position": np.concatenate([position, *waves], -1),
    }


def degraded_features(grid: np.ndarray, rng: np.random.Generator) -> Grids:
    coarse = grid.reshape(CELLS // 4, 4, CELLS // 4, 4, -1).mean((1, 3))
    return {
        "embedded, blurred": gaussian_filter(grid, (2, 2, 0)),
        "embedded, a quarter": coarse.repeat(4, 0).repeat(4, 1),
        "embedded, noise": grid + 0.25 * rng.standard_normal(grid.shape),
        "embedded, 8 channels": grid[..., :8],
    }


# --- dendrograms ----------------------------------------------------------------------------------------------------


def write_dendrograms(path: Path, images: dict[str, np.ndarray], seed: int, extract: Extract) -> None:
    """Write the trees of all extractors for images of one photograph, named by prefixes; an existing file is kept."""
    if path.exists():
        return
    arrays: dict[str, Any] = {}
    for prefix, image in images.items():
        for name, grid in extract(image, seed).items():
            tree = merge_tree(grid)
            arrays[f"{prefix}p:{name}"], arrays[f"{prefix}a:{name}"] = tree.parents, tree.altitudes.astype(np.float32)
            arrays[f"s:{name}"] = np.array(grid.shape[:2])
    write_atomically(path, lambda handle: np.savez(handle, **arrays))


def read_dendrograms(path: Path, prefix: str = "") -> dict[str, PartitionTree]:
    """The trees by extractor; their leaves are the cells."""
    trees = {}
    with np.load(path) as arrays:
        for name in (key[2:] for key in arrays.files if key.startswith("p:")):
            h, w = arrays[f"s:{name}"].tolist()
            cells = np.arange(h * w, dtype=np.int32).reshape(h, w)
            altitudes = arrays[f"{prefix}a:{name}"].astype(np.float64)
            trees[name] = PartitionTree(cells, arrays[f"{prefix}p:{name}"], altitudes)
    return trees


# --- scores ---------------------------------------------------------------------------------------------------------


def score_recall(tree: PartitionTree, ground_truth: ImageGroundTruth) -> tuple[recall.Stats, recall.Stats]:
    """Recall of all nodes, and of the regions at the published thresholds."""
    tree = upscale_leaves(tree, *ground_truth.size)
    halved = tree.with_altitudes(np.minimum(tree.altitudes / 2, 1))
    nodes = ImageDetections.from_tree(MaskTree.from_dendrogram(halved, max_masks=1000))
    kept = np.unique(np.concatenate([tree.cut_nodes(tree.merges_at(1 - t)) for t in THRESHOLDS]))
    kept = kept[tree.areas[kept] >= 16][:1000]
    rles = tuple(tree.rles(kept))
    cuts = ImageDetections(ground_truth.size, rles, rle.boxes(rles, ground_truth.size), np.ones(len(rles)))
    return recall.score_image(ground_truth, nodes), recall.score_image(ground_truth, cuts)


def measure_bsds(
    work: Path, folder: Path, every: int, extract: Extract
) -> tuple[dict[str, Row], dict[str, np.ndarray]]:
    """Covering and score by extractor, and the score in each image."""
    samples = []
    stats: dict[str, list[bsds.Stats]] = defaultdict(list)
    cuts: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)
    for index, path in enumerate(sorted((folder / "images" / "val").glob("*.jpg"))[::every]):
        sample = ranking.make_sample(read_image(path), np.random.default_rng([SEED, index]))
        store = work / f"val_{index}.npz"
        write_dendrograms(store, {"": sample.image, "v": sample.view}, index, extract)
        segmentations = bsds.read_segmentations(folder / "groundTruth" / "val" / f"{path.stem}.mat")
        samples.append(sample)
        views = read_dendrograms(store, "v")
        for name, tree in read_dendrograms(store).items():
            upscaled = upscale_leaves(tree, *segmentations[0].shape)
            stats[name].append(bsds.score_tree(upscaled, segmentations, COSINE_LEVELS))
            cuts[name].append(ranking.cut_regions(tree, views[name], sample))
    rows, by_image = {}, {}
    for name, values in stats.items():
        metrics = bsds.summarise(values)
        parts = ranking.above_chance(cuts[name], [sample.regions for sample in samples])
        views_score, regions_score = parts.mean(0)
        by_image[name] = parts.mean(1)
        rows[name] = {key: float(metrics[f"covering_{key}"] or 0) for key in ("ods", "ois", "best")}
        rows[name] |= {"views": views_score, "regions": regions_score, "score": (views_score + regions_score) / 2}
    return rows, by_image


def measure_set(work: Path, folder: Path, every: int, extract: Extract) -> dict[str, list[float]]:
    """AR@1000 of the nodes and of the cuts, by extractor."""
    stats: dict[str, list[tuple[recall.Stats, recall.Stats]]] = defaultdict(list)
    for index, (path, ground_truth) in enumerate(read_images(folder)[::every]):
        store = work / f"{folder.name}_{index}.npz"
        square = resize_image(read_image(path), (ranking.IMAGE_SIDE, ranking.IMAGE_SIDE))
        write_dendrograms(store, {"": square}, index, extract)
        for name, tree in read_dendrograms(store).items():
            stats[name].append(score_recall(tree, ground_truth))
    return {
        name: [recall.summarise(list(column))["ar1000"] or 0.0 for column in zip(*values, strict=True)]
        for name, values in stats.items()
    }


def report_correlations(rows: dict[str, Row], extractors: str) -> None:
    title = f"Spearman (Kendall) rank correlation over {len(rows)} {extractors}"
    table = Table(title, {"score": "", **dict.fromkeys(METRICS, "")})
    for score in SCORES:
        cells = []
        for key in METRICS:
            a, b = ([row[k] for row in rows.values()] for k in (score, key))
            cells.append(f"{spearmanr(a, b).statistic:.2f} ({kendalltau(a, b).statistic:.2f})")
        table.add(score, *cells)


def separated_pairs(rows: dict[str, Row], by_image: dict[str, np.ndarray]) -> tuple[int, int]:
    """Pairs of extractors whose scores a 95 % bootstrap interval separates, and those in the order of ODS."""
    images = len(next(iter(by_image.values())))
    drawn = np.random.default_rng(0).integers(images, size=(ranking.BOOTSTRAP_SAMPLES, images))
    separated = correct = 0
    for a, b in combinations(rows, 2):
        low, high = np.percentile((by_image[a] - by_image[b])[drawn].mean(1), (2.5, 97.5))
        if low > 0 or high < 0:
            separated += 1
            correct += (low > 0) == (rows[a]["ods"] > rows[b]["ods"])
    return separated, correct


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bsds", type=Path, required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--states", nargs="*", default=[], help="NAME=PATH of earlier states of the embedded network")
    parser.add_argument("--every", type=int, nargs=2, default=(2, 12), help="take every nth image of BSDS500, of sets")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    extract = make_extractors(args.work, {n: Path(path) for n, path in (item.split("=", 1) for item in args.states)})
    rows, by_image = measure_bsds(args.work, args.bsds, args.every[0], extract)
    by_set = [measure_set(args.work, folder, args.every[1], extract) for folder in args.sets]
    for name, row in rows.items():
        row["ar"], row["cuts"] = np.mean([recalls[name] for recalls in by_set], axis=0)
    ordered = sorted(rows, key=lambda name: -rows[name]["ods"])
    keys = (*METRICS, *SCORES)
    table = Table("Metrics and scores", {"extractor": "", **dict.fromkeys(keys, ".3f")})
    for name in ordered:
        table.add(name, *(rows[name][key] for key in keys))
    derived = [name for name in rows if name.startswith(("embedded", "state", "weights"))]
    report_correlations(rows, "extractors")
    report_correlations({name: rows[name] for name in derived}, "derived from the embedded network")
    report_correlations({name: row for name, row in rows.items() if name not in derived}, "others")
    report_correlations({name: rows[name] for name in ordered[:-5]}, "without the five of lowest ods")
    separated, correct = separated_pairs(rows, by_image)
    print(f"\nof {separated} pairs that the score separates, {correct} are in the order of covering ODS")


if __name__ == "__main__":
    main()
