"""``MaskTree``: the masks of one image, nested as ``parents`` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numba import njit
from scipy import ndimage

from masktree.errors import InputError
from masktree.trees import hierarchy, rle
from masktree.trees.dendrogram import PartitionTree, renumber
from masktree.types import RGB, Labels, Mask, Masks, checked

LEVELS = ("whole", "part", "subpart")
_COLUMNS = {
    "parents": np.int32,
    "scores": np.float32,
    "granularities": np.float32,
    "stabilities": np.float32,
    "levels": np.int8,
}
_DIGITS = 5  # of the values in files


@dataclass(frozen=True, eq=False)
class MaskTree:
    """N masks of one image with their hierarchy. Masks may overlap; nesting is what ``parents`` says.

    The arrays are copied and read-only; trees are compared and hashed by identity.

    Attributes:
        size: (height, width) of the image in pixels.
        rles: N compressed COCO run-length strings (column-major).
        parents: (N,) int32 index of the parent mask, -1 for roots; no cycles.
        scores: (N,) float32, higher is better; in [0, 1].
        granularities: (N,) float32 in [0, 1]: 0 the finest, 1 the whole image; never falls towards the root.
        stabilities: (N,) float32 in [0, 1]: how far the granularity can move before the mask changes.
        levels: (N,) int8: 0 whole, 1 part, 2 subpart; by default from the depth.
        dendrogram: the dendrogram behind the masks, where the method partitions the image; then cuts are exact.
    """

    size: tuple[int, int]
    rles: tuple[bytes, ...]
    parents: np.ndarray
    scores: np.ndarray
    granularities: np.ndarray
    stabilities: np.ndarray
    levels: np.ndarray
    dendrogram: PartitionTree | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not all(isinstance(side, (int, np.integer)) and side > 0 for side in self.size) or len(self.size) != 2:
            raise InputError(f"expected a size of two whole numbers above 0, height and width; got {self.size}")
        if not all(isinstance(item, bytes) for item in self.rles):
            raise InputError("expected run-length strings as bytes; encode text with .encode('ascii')")
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "rles", tuple(self.rles))
        n = len(self.rles)
        for name, dtype in _COLUMNS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray):
                raise InputError(f"expected {name} as a NumPy array; got {type(array).__name__}; use numpy.asarray")
            if array.shape != (n,):
                raise InputError(f"expected {name} of shape ({n},), one per mask; got {array.shape}")
            if n and not np.can_cast(array.dtype, dtype, casting="same_kind"):
                raise InputError(f"expected {name} of type {np.dtype(dtype)}; got {array.dtype}")
            if not np.all(np.isfinite(array)):
                raise InputError(f"expected finite {name}; got NaN or infinite values")
            if np.dtype(dtype).kind == "f" and n and (array.min() < 0 or array.max() > 1):
                raise InputError(f"expected {name} in [0, 1]; got {array.min():.6g}..{array.max():.6g}")
            own = array.astype(dtype)  # a copy: the caller's array stays writable, and ours as it is
            own.setflags(write=False)
            object.__setattr__(self, name, own)
        if n and (self.parents.min() < -1 or self.parents.max() >= n):
            raise InputError(f"expected parents in -1..{n - 1}; got {self.parents.min()}..{self.parents.max()}")
        if n and (self.levels.min() < 0 or self.levels.max() > 2):
            raise InputError("expected levels in 0 (whole), 1 (part), 2 (subpart)")
        hierarchy.depths(self.parents)  # raises on a cycle
        if self.dendrogram is not None and self.dendrogram.size != self.size:
            raise InputError(f"expected a partition of size {self.size}; got {self.dendrogram.size}")

    # --- ways to make one ---------------------------------------------------------------------------------------

    @classmethod
    def from_rles(
        cls,
        rles: Sequence[bytes],
        size: tuple[int, int],
        parents: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        stabilities: np.ndarray | None = None,
        levels: np.ndarray | None = None,
    ) -> MaskTree:
        """From masks with known parents. Granularity is sqrt(area / image area) (our choice), the square root as
        in UnSAMv2's definition, made monotone towards the root; scores and stabilities default to 1."""
        n = len(rles)
        parents = np.asarray(parents, np.int32)
        granularities = ceil_float32(np.sqrt(rle.areas(rles, size) / (size[0] * size[1])))
        for child in np.argsort(-hierarchy.depths(parents), kind="stable"):
            if parents[child] >= 0:
                up = parents[child]
                granularities[up] = max(granularities[up], granularities[child])
        ones = np.ones(n, np.float32)
        return cls(
            size=size,
            rles=tuple(rles),
            parents=parents,
            scores=ones if scores is None else np.asarray(scores, np.float32),
            granularities=granularities,
            stabilities=ones.copy() if stabilities is None else np.asarray(stabilities, np.float32),
            levels=hierarchy.levels(parents) if levels is None else np.asarray(levels, np.int8),
        )

    @classmethod
    @checked
    def from_masks(cls, masks: Masks, *, min_coverage: float = 0.9, scores: np.ndarray | None = None) -> MaskTree:
        """From dense masks; parents by coverage, see :func:`masktree.trees.hierarchy.parents_by_coverage`."""
        size = (masks.shape[1], masks.shape[2])
        rles = [rle.encode(mask) for mask in masks]
        return cls.from_rles(
            rles, size, hierarchy.parents_by_coverage(rles, size, min_coverage=min_coverage), scores=scores
        )

    @classmethod
    def from_dendrogram(
        cls,
        tree: PartitionTree,
        *,
        min_area: int = 32,
        max_area: float = 0.9,
        max_masks: int = 1000,
        min_score: float = 0.0,
        duplicate_iou: float = 0.9,
    ) -> MaskTree:
        """The stable nodes of a dendrogram whose altitudes are granularities in [0, 1].

        Args:
            tree: altitudes must lie in [0, 1].
            min_area: smallest mask in pixels, at least 1 (our choice).
            max_area: largest mask as a share of the image, above 0 and up to 1 (UnSAM drops masks above 90 %).
            max_masks: at most this many masks, best score first, at least 1 (the field's benchmarks count 1000).
            min_score: least score of a mask, 0 to 1.
            duplicate_iou: of two nested nodes with a higher IoU only that of higher score stays (SOHES's NMS), 0 to 1.

        The stability of a node is its persistence: altitude of its parent minus its own. Its score is that times
        sqrt(area / image area) (our choice): small nodes are many, as stable as large ones, and rarely an entity.
        Granularity is the altitude, as float32 rounded up, so that ``cut`` at it has the node as a region.

        Where no node passes the tree has no masks. An image that is one region all through (a single leaf, or all
        merges at altitude 0) is one mask whatever ``max_area`` says, if it has ``min_area`` pixels.

        Raises:
            InputError: altitudes or an option out of range.
        """
        for name, count in (("min_area", min_area), ("max_masks", max_masks)):
            if not isinstance(count, (int, np.integer)) or count < 1:
                raise InputError(f"expected {name} as a whole number of at least 1; got {count!r}")
        for name, share in (
            ("max_area", max_area),
            ("min_score", min_score),
            ("duplicate_iou", duplicate_iou),
        ):
            if not 0 <= share <= 1 or (name == "max_area" and share == 0):
                raise InputError(f"expected {name} in {'(0' if name == 'max_area' else '[0'}, 1]; got {share!r}")
        altitudes, areas = tree.altitudes, tree.areas
        if altitudes[-1] > 1.0 or altitudes[0] < 0.0:
            raise InputError(f"expected altitudes calibrated to [0, 1]; got {altitudes.min():.3g}..{altitudes[-1]:.3g}")
        stabilities = altitudes[tree.parents] - altitudes
        stabilities[-1] = 1.0 - altitudes[-1]
        wanted = (areas >= min_area) & (areas <= max_area * tree.leaves.size) & (stabilities > 0)
        scores = stabilities * np.sqrt(areas / tree.leaves.size)
        wanted &= scores >= min_score
        if altitudes[-1] == 0:
            wanted[-1] = tree.leaves.size >= min_area
        nodes = _select_nodes(tree, wanted, scores, areas, duplicate_iou, max_masks)
        return cls(
            size=tree.size,
            rles=tuple(tree.rles(nodes)),
            parents=(parents := _kept_parents(tree, nodes)),
            scores=scores[nodes].astype(np.float32),
            granularities=ceil_float32(altitudes[nodes]),
            stabilities=stabilities[nodes].astype(np.float32),
            levels=hierarchy.levels(parents),
            dendrogram=tree,
        )

    # --- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, keep: np.ndarray) -> MaskTree:
        """The masks chosen by a boolean array (N,); a dropped parent is replaced by its nearest kept ancestor.

        The dendrogram stays, so cuts of a filtered partition are unchanged; levels follow the new depths.
        """
        keep = np.asarray(keep)
        if keep.dtype != np.bool_ or keep.shape != (len(self),):
            raise InputError(f"expected a boolean array of shape ({len(self)},); got {keep.dtype} {keep.shape}")
        parents = hierarchy.reparent(self.parents, keep)
        return replace(
            self,
            rles=tuple(r for r, k in zip(self.rles, keep, strict=True) if k),
            parents=parents,
            scores=self.scores[keep],
            granularities=self.granularities[keep],
            stabilities=self.stabilities[keep],
            levels=hierarchy.levels(parents),
        )

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) int64 areas in pixels."""
        return rle.areas(self.rles, self.size)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, 4) float64 XYWH boxes in pixels."""
        return rle.boxes(self.rles, self.size)

    @cached_property
    def depths(self) -> np.ndarray:
        """(N,) int32: 0 for roots, parent's depth + 1 below."""
        return hierarchy.depths(self.parents)

    @cached_property
    def _runs(self) -> rle.Runs:
        return rle.runs(self.rles, self.size)

    def mask(self, index: int) -> Mask:
        """(H, W) bool mask number ``index``."""
        return rle.decode(self.rles[index], self.size)

    def masks(
        self, *, output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask"
    ) -> list[dict[str, Any]]:
        """The masks as segment-anything shaped dicts, largest first.

        Keys as there: segmentation ((H, W) bool, or RLE as ``output_mode`` says), area, bbox (XYWH), predicted_iou
        (the score), point_coords ([[x, y]], a pixel deep inside), stability_score, crop_box; and id, parent_id (None
        for roots), level, depth, granularity. With binary masks each dict holds H*W bytes: for many masks on a large
        image take an RLE mode, or iterate over ``mask(i)``.
        """
        records = []
        for index in np.argsort(-self.areas, kind="stable"):
            mask = self.mask(index)
            record = self.record(int(index))
            stability = record.pop("stability")
            if output_mode == "binary_mask":
                record["segmentation"] = mask
            elif output_mode == "uncompressed_rle":
                record["segmentation"] = {
                    "size": list(self.size),
                    "counts": rle.counts(self.rles[index], self.size),
                }
            record["predicted_iou"] = record.pop("score")
            record["stability_score"] = stability
            record["point_coords"] = [_inner_point(mask)]
            record["crop_box"] = [0, 0, self.size[1], self.size[0]]
            records.append(record)
        return records

    def record(self, index: int) -> dict[str, Any]:
        """One mask as plain values: id, parent_id, level, depth, granularity, score, stability, area, bbox,
        segmentation (COCO compressed RLE). Numbers have five digits; granularity is rounded up, so that ``cut`` at it
        still has the mask."""
        parent = int(self.parents[index])
        return {
            "id": index,
            "parent_id": parent if parent >= 0 else None,
            "level": LEVELS[self.levels[index]],
            "depth": int(self.depths[index]),
            "granularity": _ceil_decimal(self.granularities[index]),
            "score": round(float(self.scores[index]), _DIGITS),
            "stability": round(float(self.stabilities[index]), _DIGITS),
            "area": int(self.areas[index]),
            "bbox": [float(v) for v in self.boxes[index]],
            "segmentation": {"size": list(self.size), "counts": self.rles[index].decode("ascii")},
        }

    def at(self, x: float, y: float) -> list[int]:
        """Indices of the masks that contain point (x, y), smallest first: sub-part to whole.

        Pixel (column, row) holds the points column <= x < column + 1, row <= y < row + 1.
        """
        h, w = self.size
        if not (0 <= x < w and 0 <= y < h):  # NaN is inside nothing
            raise InputError(f"expected a point inside the image (0 <= x < {w}, 0 <= y < {h}); got ({x}, {y})")
        runs = self._runs
        pixel = int(x) * h + int(y)
        inside = (runs.starts <= pixel) & (pixel < runs.ends)
        owner = np.searchsorted(runs.offsets, np.flatnonzero(inside), side="right") - 1
        return [int(i) for i in owner[np.lexsort((owner, self.areas[owner]))]]

    # --- cuts ---------------------------------------------------------------------------------------------------

    def cut(self, granularity: float) -> Labels:
        """A label map that covers every pixel exactly once, at any granularity in [0, 1]; 0 finest, 1 coarsest.

        From a dendrogram: its partition at that altitude; ``cut(granularities[i])`` has mask i as a region. From
        overlapping masks: each pixel takes the largest mask on it whose granularity is at most ``granularity``, or its
        smallest mask where there is none such; what no mask covers becomes one remainder per connected piece.
        """
        if not 0.0 <= granularity <= 1.0:
            raise InputError(f"expected a granularity in [0, 1]; got {granularity}")
        if self.dendrogram is not None:
            return self.dendrogram.cut_at(granularity)
        owner = self.owners(granularity)
        pieces, _ = ndimage.label(owner < 0)
        return renumber(np.where(owner >= 0, owner, len(self) - 1 + pieces).astype(np.int32))

    def owners(self, granularity: float) -> np.ndarray:
        """(H, W) int32: the mask that each pixel takes in ``cut(granularity)``, -1 where there is none.

        Cost: one pass over the runs of all masks; memory is one label map, however many masks there are.
        """
        owner = np.full(self.size[0] * self.size[1], -1, np.int32)
        below = self.granularities <= ceil_float32(np.array(granularity, np.float64))
        # Painted later wins: first the too coarse masks from large to small, so that the smallest is on top,
        # then the allowed ones from small to large, so that the largest is on top.
        order = np.lexsort((np.where(below, self.areas, -self.areas), below))
        _paint(owner, *self._runs, order)
        return owner.reshape(self.size[1], self.size[0]).T.copy()

    def ucm(self, *, doubled: bool = False) -> np.ndarray:
        """Contour map of the granularity at which borders vanish; see ``PartitionTree.ucm``.

        Needs the dendrogram of a method that partitions (``--method masktree``).
        """
        if self.dendrogram is None:
            raise InputError("expected a tree of a method that partitions the image; got overlapping masks only")
        return self.dendrogram.ucm(doubled=doubled)

    def draw(self, image: RGB, *, granularity: float = 0.5) -> RGB:
        """Picture of the tree over its (H, W, 3) uint8 RGB image; see ``masktree.overlay`` for more options."""
        from masktree.trees.draw import overlay

        return overlay(image, self, granularity=granularity)

    # --- writing ------------------------------------------------------------------------------------------------

    def to_coco(self, image_id: int = 1, first_id: int = 1, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations with compressed RLE, and parent_id (an annotation id or None), level, score.

        Args:
            image_id: value of ``image_id``.
            first_id: id of the first annotation; the others follow in order.
            category_id: the one class-agnostic category.
        """
        annotations = []
        for index in range(len(self)):
            record = self.record(index)
            parent = record["parent_id"]
            record |= {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": category_id,
                "iscrowd": 0,
                "parent_id": None if parent is None else first_id + parent,
            }
            annotations.append(record)
        return annotations

    def save(self, path: str | Path, *, image: dict[str, Any] | None = None) -> None:
        """Write as JSON, whole or not at all. ``image`` adds keys such as file_name to the image record."""
        from masktree.trees import file as treefile

        treefile.write(self, Path(path), image or {})

    @classmethod
    def load(cls, path: str | Path) -> MaskTree:
        """Read a file written by ``save``. Raises FormatError on a damaged or foreign file."""
        from masktree.trees import file as treefile

        return treefile.read(Path(path))


@njit(cache=True, nogil=True)
def _paint(owner, starts, ends, offsets, order):  # pragma: no cover
    for index in order:
        for run in range(offsets[index], offsets[index + 1]):
            owner[starts[run] : ends[run]] = index


def ceil_float32(values: np.ndarray) -> np.ndarray:
    """float32 numbers not below the float64 ``values``: the next ones whose decimals in files are not below either."""
    up = values.astype(np.float32)
    up = np.where(up < values, np.nextafter(up, np.float32(np.inf)), up)
    # A short decimal a hair below the value, in the same float32 step, would be taken for the value: go one step on.
    decimal = np.round(up.astype(np.float64), _DIGITS)
    same = (decimal < values) & (decimal > np.nextafter(up, np.float32(-np.inf)))
    return np.where(same, np.nextafter(up, np.float32(np.inf)), up)


def _ceil_decimal(value: np.float32) -> float:
    """The least decimal of five digits that ``ceil_float32`` brings to at least ``value``, so that a file that is read
    and written again stays the same."""
    decimal = round(float(value), _DIGITS)
    return decimal if ceil_float32(np.array(decimal)) >= value else round(decimal + 10.0**-_DIGITS, _DIGITS)


def _inner_point(mask: Mask) -> list[float]:
    """[x, y] of the pixel farthest from the mask's border."""
    if not mask.any():
        return [0.0, 0.0]
    ys, xs = np.nonzero(mask)
    y0, x0 = ys.min(), xs.min()
    inside = np.pad(mask[y0 : ys.max() + 1, x0 : xs.max() + 1], 1)
    y, x = np.unravel_index(int(ndimage.distance_transform_edt(inside).argmax()), inside.shape)
    return [float(x0 + x - 1), float(y0 + y - 1)]


def _select_nodes(
    tree: PartitionTree,
    wanted: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    duplicate_iou: float,
    max_masks: int,
) -> np.ndarray:
    """Greedy choice, best score first, without near-duplicates: of nested nodes IoU = ratio of the areas, so
    only ancestors within that ratio need be looked at. Returns ascending node numbers."""
    root = len(tree.parents) - 1
    suppressed = np.zeros(root + 1, bool)
    kept: list[int] = []
    is_kept = np.zeros(root + 1, bool)
    candidates = np.flatnonzero(wanted)
    for node in candidates[np.argsort(-scores[candidates], kind="stable")]:
        if len(kept) == max_masks:
            break
        if suppressed[node]:
            continue
        near = []
        up = node
        while up != root and areas[node] > duplicate_iou * areas[tree.parents[up]]:
            up = tree.parents[up]
            near.append(up)
        if any(is_kept[a] for a in near):
            continue
        suppressed[near] = True
        is_kept[node] = True
        kept.append(int(node))
    return np.sort(np.array(kept, np.int64))


def _kept_parents(tree: PartitionTree, nodes: np.ndarray) -> np.ndarray:
    """(k,) int32 index of the nearest chosen ancestor of each chosen node, -1 for roots."""
    position = np.full(len(tree.parents), -1, np.int32)
    position[nodes] = np.arange(len(nodes))
    parents = np.full(len(nodes), -1, np.int32)
    root = len(tree.parents) - 1
    for index, node in enumerate(nodes):
        up = node
        while up != root:
            up = tree.parents[up]
            if position[up] >= 0:
                parents[index] = position[up]
                break
    return parents
