"""Planted scenes for the discovery methods: a backbone that recognises painted colours, and rules written out."""

from __future__ import annotations

import numpy as np

from masktree.backbones.base import nearest_multiple
from masktree.backbones.weights import Weights
from masktree.trees.dendrogram import PartitionTree

GREEN, RED, BLUE, WHITE, BLACK = (0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CELL = 8


class PaintedBackbone:
    """Features of a cell: mean over its pixels of the vector that belongs to the nearest colour of a palette.

    ``images`` collects what it was given.
    """

    name = "painted"
    stride = CELL
    device = "cpu"

    def __init__(self, palette: dict[tuple[int, int, int], np.ndarray]) -> None:
        self.colours = np.array(list(palette), np.float32)
        self.vectors = np.array(list(palette.values()), np.float32)
        self.dim = self.vectors.shape[1]
        self.images: list[np.ndarray] = []
        self.provenance = Weights(
            name="painted", source="test", licence="none", patch=CELL, dim=self.dim, mean=(0, 0, 0), std=(1, 1, 1),
            url="", trained_on="nothing", label_free=True, sha256="0",
        )  # fmt: skip

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        return nearest_multiple(H, W, self.stride)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.images.append(images)
        _, H, W, _ = images.shape
        h, w = (side // CELL for side in self.input_size(H, W))
        rows, columns = np.arange(h * CELL) * H // (h * CELL), np.arange(w * CELL) * W // (w * CELL)
        pixels = images[:, rows][:, :, columns].astype(np.float32)
        nearest = ((pixels[..., None, :] - self.colours) ** 2).sum(axis=-1).argmin(axis=-1)
        cells = self.vectors[nearest].reshape(len(images), h, CELL, w, CELL, self.dim)
        return np.ascontiguousarray(cells.mean(axis=(2, 4)), np.float32)


def chain_vectors(counts: list[int], cosines: list[float], dim: int = 8) -> np.ndarray:
    """Unit vectors v0, v1, ... in which v_i has cosine ``cosines[i - 1]`` with the sum of ``counts[j]`` v_j, j < i.

    Regions of these vectors in a row thus merge from the first on, at just these similarities.
    """
    vectors = [np.eye(dim)[0]]
    for i, cosine in enumerate(cosines, start=1):
        total = sum(count * vector for count, vector in zip(counts, vectors, strict=False))
        vectors.append(cosine * total / np.linalg.norm(total) + np.sqrt(1 - cosine**2) * np.eye(dim)[i])
    return np.array(vectors, np.float32)


def cells(height: int, width: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Mask of an image of height x width cells: the cells of the given half-open window."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return np.kron(mask, np.ones((CELL, CELL), bool))


def paint(background: tuple[int, int, int], regions: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """RGB image of coloured masks over a background, later ones on top."""
    image = np.empty((*regions[0][0].shape, 3), np.uint8)
    image[:] = background
    for mask, colour in regions:
        image[mask] = colour
    return image


def unchanged(image: np.ndarray, probabilities: np.ndarray, *, independent: bool = False) -> np.ndarray:
    """The refiner that changes nothing."""
    return probabilities


def scrambled(image: np.ndarray, probabilities: np.ndarray, *, independent: bool = False) -> np.ndarray:
    """A hostile refiner: everything moves by half the image."""
    return np.roll(probabilities, probabilities.shape[2] // 2, axis=2)


def best_iou(tree: object, mask: np.ndarray) -> tuple[float, int]:
    """IoU and index of the tree's mask that is most like ``mask``; (0, -1) for an empty tree."""
    found = [tree.mask(i) for i in range(len(tree))]  # type: ignore[attr-defined]
    ious = [(float((m & mask).sum() / max((m | mask).sum(), 1)), i) for i, m in enumerate(found)]
    return max(ious, default=(0.0, -1))


def regions_of_cuts(tree: PartitionTree, thresholds: list[float]) -> set[bytes]:
    """The distinct regions of all partitions, as bytes of dense masks."""
    return {(labels == k).tobytes() for t in thresholds for labels in [tree.cut(t)] for k in range(labels.max() + 1)}
