"""Does the score of ``masktree info backbone --rank`` go with scores against a truth? Rank correlation over extractors.

    python benchmarks/ranking.py WORK --bsds /data/BSDS500 --sets /data/car_parts /data/clothing /data/msrc \\
        --states early=run1/state.pt late=run2/state.pt

About twenty feature extractors of known different quality: the two built-in ones, parts of the texture features, colour
and place alone, random networks through the real loading code, the embedded features and weights damaged in several
ways, and earlier states of its training (``state.pt`` of ``recipes/embedded_backbone.py``; --states). For each:

* on every second image of BSDS500 val, the covering of the published cosine rule, ODS, OIS and Best, and, without the
  truth, the two parts of the score of ``masktree.stages.backbone_ranking``;
* on every twelfth image of each set (a folder with ``images`` and ``annotations.json``), AR@1000 of the nodes of such
  dendrograms (``ar``) and of the regions at the thresholds .1 to .6 (``cuts``).

The truth is used for this report only; ``TRACKED`` in ``masktree.stages.backbone_ranking`` is copied from it.
Dendrograms stay in WORK.
Images are SIDE x SIDE pixels, as ``masktree.stages.backbone_ranking`` takes them. About 2 s per image and 0.5 s per
comparison. """

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import timm
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import kendalltau, spearmanr
from skimage.color import rgb2lab

from masktree.backbones import load_backbone
from masktree.backbones.embedded import WEIGHT_FILE, load_embedded_network
from masktree.backbones.embedded.network import EmbeddedNetwork, fuse_batch_norm
from masktree.backbones.texture import boundary_cues
from masktree.backbones.texture.words import NUM_WORDS
from masktree.cluster import merge_tree
from masktree.evaluate import bsds, recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.io.images import read_image, resize_image
from masktree.stages import backbone_ranking as ranking
from masktree.trees import rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from selfscores import read_truths

CELLS = ranking.IMAGE_SIDE // 8
COSINE_ALTITUDES = np.linspace(0.02, 1.98, 99)  # altitudes of the cosine rule are 1 - similarity, in [0, 2]
THRESHOLDS = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
TRUTHS = ("ods", "ois", "best", "ar", "cuts")
SCORES = ("views", "regions", "score")
SEED = 7


# --- extractors -----------------------------------------------------------------------------------------------------


def state(path: Path) -> EmbeddedNetwork:
    """An earlier state of the embedded network; cues that it did not have are left out by the caller."""
    network = EmbeddedNetwork().eval()
    network.load_state_dict(network.state_dict() | torch.load(path, weights_only=True, map_location="cpu")["averaged"])
    fuse_batch_norm(network)
    return network.requires_grad_(False)


def has_cues(path: Path) -> bool:
    return "evidence.weight" in torch.load(path, weights_only=True, map_location="cpu")["averaged"]


def damaged(sigma: float) -> EmbeddedNetwork:
    """The shipped weights with noise of ``sigma`` times the spread of each tensor."""
    network = load_embedded_network(WEIGHT_FILE, None)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight += sigma * weight.std() * torch.randn(weight.shape, generator=generator)
    return network


def untrained() -> EmbeddedNetwork:
    torch.manual_seed(1)
    network = EmbeddedNetwork().eval()
    fuse_batch_norm(network)
    return network.requires_grad_(False)


def random_hub(folder: Path, architecture: str, **model_args: object):
    """A network with random weights, saved and loaded as a user's own."""
    if not folder.exists():
        torch.manual_seed(3)
        network = timm.create_model(architecture, num_classes=0, **model_args)
        statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        timm.models.save_for_hf(network, folder, {"pretrained_cfg": statistics}, model_args, safe_serialization=True)
    return load_backbone(str(folder), "cpu")


def pool(work: Path, states: dict[str, Path]) -> Callable[[np.ndarray, int], dict[str, np.ndarray]]:
    """A function from an image (SIDE, SIDE, 3) and a seed to a feature grid by each extractor."""
    networks = {"embedded": (load_embedded_network(WEIGHT_FILE, None), True)}
    networks |= {f"state {name}": (state(path), has_cues(path)) for name, path in states.items()}
    networks |= {f"weights +{sigma}": (damaged(sigma), True) for sigma in (0.15, 0.35)}
    networks["random cnn"] = (untrained(), False)
    texture = load_backbone("texture")
    hub = {
        "random vit": random_hub(work / "vit", "vit_tiny_patch16_224", patch_size=8, depth=3),
        "random resnet": random_hub(work / "resnet", "resnet18"),
    }

    def grids(image: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        found = {name: network(image[None])[0] for name, network in hub.items()}
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        cues = torch.from_numpy(boundary_cues(image).maps[None])
        with torch.inference_mode():
            for name, (network, seen) in networks.items():
                units = torch.nn.functional.normalize(network(pixels, cues if seen else None)[1], dim=1)
                found[name] = torch.nn.functional.avg_pool2d(units, 2)[0].permute(1, 2, 0).numpy()
        words = found["texture"] = texture(image[None])[0]
        found["texture, colours"] = words[..., :NUM_WORDS]
        found["texture, textons"] = words[..., NUM_WORDS : 2 * NUM_WORDS]
        found["texture, pmi embedding"] = words[..., 2 * NUM_WORDS :]
        found |= simple(image) | worse(found["embedded"], np.random.default_rng(seed))
        return {name: np.ascontiguousarray(grid, np.float32) for name, grid in found.items()}

    return grids


def simple(image: np.ndarray) -> dict[str, np.ndarray]:
    """Mean colour less that of the image, the same with the place, and the place alone."""
    lab = rgb2lab(image).reshape(CELLS, 8, CELLS, 8, 3).mean((1, 3))
    lab -= lab.mean((0, 1))
    place = np.moveaxis(np.mgrid[:CELLS, :CELLS] / (CELLS - 1) - 0.5, 0, -1)
    waves = [np.sin(4 * np.pi * place), np.cos(4 * np.pi * place)]
    return {
        "lab": lab,
        "lab and place": np.concatenate([lab / 20, 2 * place], -1),
        "place": np.concatenate([place, *waves], -1),
    }


def worse(grid: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    coarse = grid.reshape(CELLS // 4, 4, CELLS // 4, 4, -1).mean((1, 3))
    return {
        "embedded, blurred": gaussian_filter(grid, (2, 2, 0)),
        "embedded, a quarter": coarse.repeat(4, 0).repeat(4, 1),
        "embedded, noise": grid + 0.25 * rng.standard_normal(grid.shape),
        "embedded, 8 channels": grid[..., :8],
    }


# --- dendrograms ----------------------------------------------------------------------------------------------------


def dendrograms(path: Path, pictures: dict[str, np.ndarray], seed: int, grids: Callable) -> None:
    """Write the trees of all extractors for pictures of one photograph; kept from before where they are there."""
    if path.exists():
        return
    stored = {}
    for prefix, picture in pictures.items():
        for name, grid in grids(picture, seed).items():
            tree = merge_tree(grid)
            stored[f"{prefix}p:{name}"], stored[f"{prefix}a:{name}"] = tree.parents, tree.altitudes.astype(np.float32)
            stored[f"s:{name}"] = np.array(grid.shape[:2])
    part = path.with_suffix(".part.npz")
    np.savez(part, **stored)
    part.rename(path)


def read(path: Path, prefix: str = "") -> dict[str, PartitionTree]:
    """The trees by extractor; their leaves are the cells."""
    trees = {}
    with np.load(path) as stored:
        for name in (key[2:] for key in stored.files if key.startswith("p:")):
            h, w = stored[f"s:{name}"].tolist()
            cells = np.arange(h * w, dtype=np.int32).reshape(h, w)
            altitudes = stored[f"{prefix}a:{name}"].astype(np.float64)
            trees[name] = PartitionTree(cells, stored[f"{prefix}p:{name}"], altitudes)
    return trees


def at_size(tree: PartitionTree, H: int, W: int) -> PartitionTree:
    h, w = tree.size
    return tree.with_leaves(tree.leaves[(np.arange(H) * h // H)[:, None], np.arange(W) * w // W])


# --- scores ---------------------------------------------------------------------------------------------------------


def recalls(tree: PartitionTree, truth: ImageGroundTruth) -> tuple[dict, dict]:
    """Recall of all nodes, and of the regions at the published thresholds."""
    tree = at_size(tree, *truth.size)
    halved = tree.with_altitudes(np.minimum(tree.altitudes / 2, 1))
    nodes = ImageDetections.from_tree(MaskTree.from_dendrogram(halved, max_masks=1000))
    kept = np.unique(np.concatenate([tree.cut_nodes(tree.merges_at(1 - t)) for t in THRESHOLDS]))
    kept = kept[tree.areas[kept] >= 16][:1000]
    rles = tuple(tree.rles(kept))
    cuts = ImageDetections(truth.size, rles, rle.boxes(rles, truth.size), np.ones(len(rles)))
    return recall.score_image(truth, nodes), recall.score_image(truth, cuts)


def measure_bsds(
    work: Path, folder: Path, every: int, grids: Callable
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Covering and score by extractor, and the score in each image."""
    samples, stats, found = [], {}, {}
    for index, path in enumerate(sorted((folder / "images" / "val").glob("*.jpg"))[::every]):
        one = ranking.make_sample(read_image(path), np.random.default_rng([SEED, index]))
        store = work / f"val_{index}.npz"
        dendrograms(store, {"": one.image, "v": one.view}, index, grids)
        truths = bsds.read_ground_truth(folder / "groundTruth" / "val" / f"{path.stem}.mat")
        samples.append(one)
        views = read(store, "v")
        for name, tree in read(store).items():
            scored = bsds.score_tree(at_size(tree, *truths[0].shape), truths, COSINE_ALTITUDES)
            stats.setdefault(name, []).append(scored)
            found.setdefault(name, []).append(ranking.cut_regions(tree, views[name], one))
    result, by_image = {}, {}
    for name, values in stats.items():
        covering = bsds.summarise(values)
        parts = ranking.above_chance(found[name], [one.regions for one in samples])
        views, regions = parts.mean(0)
        by_image[name] = parts.mean(1)
        result[name] = {key: covering[f"covering_{key}"] for key in TRUTHS[:3]}
        result[name] |= {"views": views, "regions": regions, "score": (views + regions) / 2}
    return result, by_image


def measure_set(work: Path, folder: Path, every: int, grids: Callable) -> dict[str, tuple[float, float]]:
    stats: dict[str, list] = {}
    every_truth = read_truths(folder, len(list((folder / "images").iterdir())))
    for index, (path, truth) in enumerate(every_truth[::every]):
        store = work / f"{folder.name}_{index}.npz"
        dendrograms(store, {"": resize_image(read_image(path), (ranking.IMAGE_SIDE, ranking.IMAGE_SIDE))}, index, grids)
        for name, tree in read(store).items():
            stats.setdefault(name, []).append(recalls(tree, truth))
    return {
        name: tuple(recall.summarise(list(column))["ar1000"] for column in zip(*values, strict=True))
        for name, values in stats.items()
    }


def correlations(rows: dict[str, dict[str, float]], title: str) -> None:
    print(f"\nSpearman (Kendall) rank correlation over {len(rows)} {title}")
    print(f"{'':10s}" + "".join(f"{key:>13s}" for key in TRUTHS))
    for score in SCORES:
        cells = []
        for key in TRUTHS:
            a, b = ([row[k] for row in rows.values()] for k in (score, key))
            cells.append(f"{spearmanr(a, b).statistic:6.2f} ({kendalltau(a, b).statistic:.2f})")
        print(f"{score:10s}" + "".join(f"{cell:>13s}" for cell in cells))


def pairs_apart(rows: dict[str, dict[str, float]], by_image: dict[str, np.ndarray]) -> tuple[int, int]:
    """Pairs of extractors whose scores a 95 % bootstrap interval tells apart, and those in the same order by ODS."""
    images = len(next(iter(by_image.values())))
    drawn = np.random.default_rng(0).integers(images, size=(ranking.BOOTSTRAP_SAMPLES, images))
    apart = right = 0
    for a, b in combinations(rows, 2):
        low, high = np.percentile((by_image[a] - by_image[b])[drawn].mean(1), (2.5, 97.5))
        if low > 0 or high < 0:
            apart += 1
            right += (low > 0) == (rows[a]["ods"] > rows[b]["ods"])
    return apart, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bsds", type=Path, required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--states", nargs="*", default=[], help="NAME=PATH of earlier states of the embedded network")
    parser.add_argument("--every", type=int, nargs=2, default=(2, 12), help="of BSDS500 val, of the sets")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    states = {name: Path(path) for name, path in (item.split("=", 1) for item in options.states)}
    grids = pool(options.work, states)
    rows, by_image = measure_bsds(options.work, options.bsds, options.every[0], grids)
    by_set = [measure_set(options.work, folder, options.every[1], grids) for folder in options.sets]
    for name, row in rows.items():
        row["ar"], row["cuts"] = np.mean([one[name] for one in by_set], axis=0)
    print(f"{'':22s}" + "".join(f"{key:>9s}" for key in (*TRUTHS, *SCORES)))
    ordered = sorted(rows, key=lambda name: -rows[name]["ods"])
    for name in ordered:
        print(f"{name:22s}" + "".join(f"{rows[name][key]:9.3f}" for key in (*TRUTHS, *SCORES)))
    correlations(rows, "extractors")
    ours = [name for name in rows if name.startswith(("embedded", "state", "weights"))]
    correlations({name: rows[name] for name in ours}, "that derive from the embedded network")
    correlations({name: row for name, row in rows.items() if name not in ours}, "others")
    correlations({name: rows[name] for name in ordered[:-5]}, "without the five of lowest ods")
    apart, right = pairs_apart(rows, by_image)
    print(f"\nof {apart} pairs that the score tells apart, {right} stand in the same order by covering ODS")


if __name__ == "__main__":
    main()
