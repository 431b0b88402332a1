"""``MaskTree``: the masks of one image and their hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy import ndimage

from masktree.arguments import check_index, check_number, check_path, check_rles, check_size, check_type, read_array
from masktree.errors import InputError
from masktree.io.images import ImageInput
from masktree.kernels import kernel
from masktree.trees import hierarchy, rle
from masktree.trees.candidates import MaskCandidates, MaskSet, check_mask_set, find_candidates
from masktree.trees.decimals import DECIMALS, ceil_decimals, ceil_float32
from masktree.trees.dendrogram import PartitionTree, renumber
from masktree.trees.instances import MIN_SCORE, select_instances
from masktree.trees.polygons import Polygon, mask_to_polygons
from masktree.types import RGB, Labels, Mask, Masks, checked

if TYPE_CHECKING:
    from supervision import Detections

LEVELS = ("whole", "part", "subpart")
KINDS = ("node", "combination", "model")
_BESIDE = ("combinations", "of a model")  # what the kinds beside nodes are called in a line
CATEGORY: Final = {"id": 1, "name": "entity", "supercategory": "entity"}  # of COCO files: masks have no classes
MAX_MASKS: Final = 1000  # of an image, unless more are asked for: average recall counts up to 1000 (AR1000)
_COLUMNS = {
    "parents": np.int32,
    "scores": np.float32,
    "granularities": np.float32,
    "stabilities": np.float32,
    "levels": np.int8,
    "kinds": np.int8,
}


@dataclass(frozen=True, eq=False, repr=False)
class MaskTree:
    """N masks of one image with their hierarchy, given by ``parents``. Masks may overlap.

    Arrays are copied and read-only; trees are compared and hashed by identity.

    Attributes:
        size: (height, width) of the image in pixels.
        rles: N compressed COCO run-length strings (column-major).
        parents: (N,) int32 index of the parent mask, -1 for roots; no cycles.
        scores: (N,) float32, higher is better; in [0, 1].
        granularities: (N,) float32 in [0, 1]: 0 the finest, 1 the whole image; never decreases towards the root.
        stabilities: (N,) float32 in [0, 1]: range of granularities over which the mask is a region of the cut.
        levels: (N,) int8: 0 whole, 1 part, 2 subpart; the depth, at most 2, unless given.
        dendrogram: the dendrogram of the cuts, or None. Masks are its nodes, or unions of its leaves if the image was
            analysed at several sizes (``detail``).
        omitted: number of further nodes, of lower scores, that ``max_masks`` left out when the tree was made.
        kinds: (N,) int8: 0 node, 1 combination: the union of two or three neighbouring nodes, see
            ``masktree.trees.combinations``, 2 model: a mask of a trained model beside them, see
            ``masktree.discover.model_pool``. The last two overlap each other and have no children. Zeros unless given.
    """

    size: tuple[int, int]
    rles: tuple[bytes, ...]
    parents: np.ndarray
    scores: np.ndarray
    granularities: np.ndarray
    stabilities: np.ndarray
    levels: np.ndarray
    dendrogram: PartitionTree | None = None
    omitted: int = 0
    kinds: np.ndarray = None  # type: ignore[assignment]  # an array in every tree

    def __post_init__(self) -> None:
        if not all(isinstance(side, (int, np.integer)) and side > 0 for side in self.size) or len(self.size) != 2:
            raise InputError(f"expected a size of two whole numbers above 0, height and width; got {self.size}")
        if not all(isinstance(item, bytes) for item in self.rles):
            raise InputError("expected run-length strings as bytes; encode text with .encode('ascii')")
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "rles", tuple(self.rles))
        n = len(self.rles)
        if self.kinds is None:
            object.__setattr__(self, "kinds", np.zeros(n, np.int8))
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
            array = array.astype(dtype)  # a copy: the caller's array stays writable and cannot change ours
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if n and (self.parents.min() < -1 or self.parents.max() >= n):
            raise InputError(f"expected parents in -1..{n - 1}; got {self.parents.min()}..{self.parents.max()}")
        if n and (self.levels.min() < 0 or self.levels.max() > 2):
            raise InputError("expected levels in 0 (whole), 1 (part), 2 (subpart)")
        if n and (self.kinds.min() < 0 or self.kinds.max() >= len(KINDS)):
            raise InputError("expected kinds in 0 (node), 1 (combination), 2 (model)")
        if self.kinds[self.parents[self.parents >= 0]].any():
            raise InputError("expected nodes as parents; got another mask; give its children the parent that it has")
        hierarchy.depths(self.parents)  # raises on a cycle
        if not isinstance(self.omitted, (int, np.integer)) or self.omitted < 0:
            raise InputError(f"expected omitted as a whole number of at least 0; got {self.omitted!r}")
        if self.dendrogram is not None and self.dendrogram.size != self.size:
            raise InputError(f"expected a dendrogram of size {self.size}; got {self.dendrogram.size}")

    # --- construction ---------------------------------------------------------------------------------------------

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
        """From masks with known parents; scores and stabilities default to 1.

        The granularity is sqrt(area / image area) (our choice; the square root is that of UnSAMv2's definition), raised
        to the maximum over the children.
        """
        check_rles(rles)
        check_size(size)
        n = len(rles)
        parents = read_array(parents, "parents", np.int32, n)
        granularities = ceil_float32(np.sqrt(rle.areas(rles, size) / (size[0] * size[1])))
        granularities = hierarchy.raise_to_children(granularities, parents)
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
        if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != np.bool_:
            raise InputError("expected masks as an (n, H, W) bool array; got another type or shape")
        check_number(min_coverage, "min_coverage", 0, 1)
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
        max_masks: int | None = MAX_MASKS,
        duplicate_iou: float = 0.9,
        masks: MaskSet = "nodes",
    ) -> MaskTree:
        """The stable nodes of a dendrogram whose altitudes are granularities in [0, 1], and combinations of them.

        The stability of a node is its persistence: the altitude of its parent minus its own. Its score is the stability
        times sqrt(area / image area) (our choice: small nodes are numerous, as stable as large ones, and rarely
        entities); segmenters calibrate it, see ``masktree.trees.scores``. Its granularity is its altitude, rounded up
        to float32 so that it is a region of the cut there.

        Combinations stand after the nodes. Their parent is the smallest node of the tree that contains them, their
        granularity that of their coarsest member, and their stability 0, as they are regions of no cut.

        The tree may have no masks; ``omitted`` counts the nodes beyond ``max_masks``. A uniform image (a single leaf,
        or all merges at altitudes up to .005) gives one mask if it has ``min_area`` pixels, whatever ``max_area`` is.

        Args:
            tree: altitudes must lie in [0, 1].
            min_area: smallest mask in pixels, at least 1 (our choice).
            max_area: largest mask as a fraction of the image, in (0, 1] (UnSAM drops masks above 90 %).
            max_masks: maximum number of masks, best score first, at least 1; None for all.
            duplicate_iou: IoU in [0, 1] above which the lower-scored of two nested nodes is dropped (NMS as in SOHES),
                and a combination beside a node or a better combination.
            masks: ``nodes``, or ``all``: unions of two or three neighbouring nodes as well, see
                ``masktree.trees.combinations``.

        Raises:
            InputError: altitudes or an option out of range.
        """
        return cls.from_candidates(
            find_candidates(
                tree,
                min_area=min_area,
                max_area=max_area,
                max_masks=max_masks,
                duplicate_iou=duplicate_iou,
                masks=masks,
            )
        )

    @classmethod
    def from_candidates(cls, candidates: MaskCandidates) -> MaskTree:
        """The masks of regions of a dendrogram, all of them."""
        return cls(
            size=candidates.dendrogram.size,
            rles=tuple(candidates.encode()),
            parents=candidates.parents,
            scores=candidates.scores.astype(np.float32),
            granularities=ceil_float32(candidates.granularities),
            stabilities=candidates.stabilities.astype(np.float32),
            levels=hierarchy.levels(candidates.parents),
            dendrogram=candidates.dendrogram,
            omitted=candidates.omitted,
            kinds=candidates.kinds,
        )

    # --- access -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rles)

    def __repr__(self) -> str:
        levels = ", ".join(
            f"{count} {name}{'s' * (count != 1)}"
            for name, count in zip(LEVELS, np.bincount(self.levels, minlength=3).tolist(), strict=True)
        )
        leaves = "" if self.dendrogram is None else f", dendrogram of {self.dendrogram.n_leaves} leaves"
        counts = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        beside = [f"{count} {what}" for count, what in zip(counts[1:], _BESIDE, strict=True) if count]
        combined = f", of these {' and '.join(beside)}" if beside else ""
        omitted = f", {self.omitted} more left out by max_masks" if self.omitted else ""
        return f"MaskTree({self.size[0]} x {self.size[1]}, {len(self)} masks: {levels}{combined}{leaves}{omitted})"

    def _repr_html_(self) -> str:
        """In notebooks: the same line, a small picture of the masks and a table of the levels."""
        from masktree.trees.draw import html_preview

        return html_preview(self)

    def __getitem__(self, keep: np.ndarray) -> MaskTree:
        """The masks selected by a boolean array (N,); a dropped parent is replaced by its nearest kept ancestor.

        Levels follow the new depths; the dendrogram, and with it the cuts, stay the same.
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
            kinds=self.kinds[keep],
        )

    @cached_property
    def nodes(self) -> MaskTree:
        """The tree without combinations and masks of a model beside it: what pictures, instances and exports show."""
        return self[self.kinds == 0] if self.kinds.any() else self

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
        """(N,) int32: number of ancestors."""
        return hierarchy.depths(self.parents)

    @cached_property
    def _decimal_granularities(self) -> list[float]:
        return ceil_decimals(self.granularities)

    @cached_property
    def _runs(self) -> rle.Runs:
        return rle.runs(self.rles, self.size)

    def mask(self, index: int) -> Mask:
        """(H, W) bool mask at ``index``."""
        check_index(index, len(self))
        return rle.decode(self.rles[index], self.size)

    def masks(
        self, *, output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask"
    ) -> list[dict[str, Any]]:
        """The masks as dicts with the keys of segment-anything, largest first.

        Keys: segmentation ((H, W) bool, or RLE depending on ``output_mode``), area, bbox (XYWH), predicted_iou (the
        score), point_coords ([[x, y]], a pixel well inside the mask), stability_score, crop_box; and id, parent_id
        (None for roots), level, depth, kind (node, combination or model), granularity. Binary masks take up to H*W
        bytes each: for many masks on a large image use an RLE mode, or iterate over ``mask(i)``.
        """
        order = np.argsort(-self.areas, kind="stable").tolist()
        points = rle.inner_points(self._runs, self.size)
        records = [self.record(index) for index in order]
        for record in records:
            record["predicted_iou"] = record.pop("score")
            record["stability_score"] = record.pop("stability")
            record["point_coords"] = [[float(value) for value in points[record["id"]]]]
            record["crop_box"] = [0, 0, self.size[1], self.size[0]]
        if output_mode == "uncompressed_rle":
            for record in records:
                record["segmentation"]["counts"] = rle.counts(self.rles[record["id"]], self.size)
        elif output_mode == "binary_mask":
            dense = list(rle.decode_runs(self._runs, self.size))
            for record in records:
                record["segmentation"] = dense[record["id"]]
        return records

    def record(self, index: int) -> dict[str, Any]:
        """One mask as plain values: id, parent_id, level, depth, kind, granularity, score, stability, area, bbox,
        segmentation (COCO compressed RLE). Scores and granularities have five decimals; the granularity is rounded up,
        so that ``cut`` at it still has the mask, a node of the dendrogram, as a region."""
        check_index(index, len(self))
        parent = int(self.parents[index])
        return {
            "id": index,
            "parent_id": parent if parent >= 0 else None,
            "level": LEVELS[self.levels[index]],
            "depth": int(self.depths[index]),
            "kind": KINDS[self.kinds[index]],
            "granularity": self._decimal_granularities[index],
            "score": round(float(self.scores[index]), DECIMALS),
            "stability": round(float(self.stabilities[index]), DECIMALS),
            "area": int(self.areas[index]),
            "bbox": [float(v) for v in self.boxes[index]],
            "segmentation": {"size": list(self.size), "counts": self.rles[index].decode("ascii")},
        }

    def at(self, x: float, y: float, *, masks: MaskSet = "nodes") -> list[int]:
        """Indices of the masks that contain point (x, y), smallest first: sub-part to whole. With ``masks="all"`` also
        of combinations, which need not lie in each other.

        Pixel (column, row) holds the points column <= x < column + 1, row <= y < row + 1.
        """
        check_mask_set(masks)
        h, w = self.size
        for value in (x, y):
            check_type(value, Real, "a coordinate")
        if not (0 <= x < w and 0 <= y < h):  # NaN is inside nothing
            raise InputError(f"expected a point inside the image (0 <= x < {w}, 0 <= y < {h}); got ({x}, {y})")
        runs = self._runs
        pixel = int(x) * h + int(y)
        inside = (runs.starts <= pixel) & (pixel < runs.ends)
        owner = np.searchsorted(runs.offsets, np.flatnonzero(inside), side="right") - 1
        if masks == "nodes":
            owner = owner[self.kinds[owner] == 0]
        return [int(i) for i in owner[np.lexsort((owner, self.areas[owner]))]]

    # --- cuts ---------------------------------------------------------------------------------------------------

    def cut(self, granularity: float) -> Labels:
        """(H, W) int32 label map that covers every pixel once, at a granularity from 0 (finest) to 1 (coarsest).

        With a dendrogram: its partition at that altitude; ``cut(granularities[i])`` has mask i as a region if that is a
        node of the dendrogram. Without: each pixel belongs to the largest node on it whose granularity is at most
        ``granularity``, else to the smallest node on it; each connected component of uncovered pixels is one more
        region.
        """
        check_number(granularity, "a granularity", 0, 1)
        if self.dendrogram is not None:
            return self.dendrogram.cut_at(granularity)
        owner = self.owners(granularity)
        components, _ = ndimage.label(owner < 0)
        return renumber(np.where(owner >= 0, owner, len(self) - 1 + components).astype(np.int32))

    def owners(self, granularity: float) -> np.ndarray:
        """(H, W) int32: the node that each pixel belongs to in ``cut(granularity)``, -1 for none.

        One pass over the runs of all masks; memory of one label map, for any number of masks.
        """
        check_number(granularity, "a granularity", 0, 1)
        below = self.granularities <= ceil_float32(np.array(granularity, np.float64))
        # Later masks overwrite earlier ones: first those above the granularity from large to small, so that the
        # smallest remains, then those up to it from small to large, so that the largest remains.
        order = np.lexsort((np.where(below, self.areas, -self.areas), below))
        return self.paint(order[self.kinds[order] == 0])

    def paint(self, order: np.ndarray) -> Labels:
        """(H, W) int32: the last of the masks with the indices ``order`` (k,) that contains each pixel, -1 for none."""
        owner = np.full(self.size[0] * self.size[1], -1, np.int32)
        _paint(owner, *self._runs, order)
        return owner.reshape(self.size[1], self.size[0]).T.copy()

    def instances(
        self, *, min_score: float = MIN_SCORE, min_area: float = 0, max_area: float = 1, masks: MaskSet = "nodes"
    ) -> Labels:
        """(H, W) int32 label map of objects that do not overlap, 1 to k, and background, 0.

        The best antichain of the tree, see :func:`masktree.trees.instances.select_instances`, which also tells which
        masks these are. With ``masks="all"`` combinations are chosen from as well.
        """
        return select_instances(self, min_score=min_score, min_area=min_area, max_area=max_area, masks=masks)[0]

    def ucm(self, *, doubled: bool = False) -> np.ndarray:
        """Map of the granularity at which each border disappears; see ``PartitionTree.ucm``.

        Raises:
            InputError: the tree has no dendrogram (it is not of the method masktree).
        """
        if self.dendrogram is None:
            raise InputError("expected a tree with a dendrogram, as of the method masktree; got overlapping masks only")
        return self.dendrogram.ucm(doubled=doubled)

    def draw(self, image: ImageInput, *, granularity: float = 0.5, shows: Literal["masks", "cut"] = "masks") -> RGB:
        """Overlay of the tree on its image; see ``masktree.overlay`` for more options."""
        from masktree.trees.draw import overlay

        return overlay(image, self, granularity=granularity, shows=shows)

    # --- files --------------------------------------------------------------------------------------------------

    def to_coco(self, file_name: str = "", *, image_id: int = 1) -> dict[str, Any]:
        """A COCO document of this image, as plain values: images, annotations and categories.

        Args:
            file_name: of the image, as readers of COCO files expect it.
            image_id: id of the image.
        """
        image = {"id": image_id, "file_name": file_name, "width": self.size[1], "height": self.size[0]}
        return {"images": [image], "annotations": self.coco_annotations(image_id), "categories": [dict(CATEGORY)]}

    def coco_annotations(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations with compressed RLE and the keys of ``record``; parent_id is an annotation id or None.

        Args:
            image_id: value of ``image_id``.
            first_id: id of the first annotation; the others follow in order.
        """
        annotations = []
        for index in range(len(self)):
            record = self.record(index)
            parent = record["parent_id"]
            record |= {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": CATEGORY["id"],
                "iscrowd": 0,
                "parent_id": None if parent is None else first_id + parent,
            }
            annotations.append(record)
        return annotations

    def polygons(self) -> list[list[Polygon]]:
        """Each mask as polygons with holes along the edges of its pixels, see ``masktree.trees.polygons``."""
        return [mask_to_polygons(mask) for mask in rle.decode_runs(self._runs, self.size)]

    def to_detections(
        self,
        *,
        levels: Sequence[str] = LEVELS,
        min_score: float = 0.0,
        min_area: float = 0,
        compact: bool = False,
        masks: MaskSet = "nodes",
    ) -> Detections:
        """The masks as ``supervision.Detections``, in the order of the tree.

        ``xyxy`` are the outer edges of the boxes in pixels, ``confidence`` is the score, ``class_id`` the level (0
        whole, 1 part, 2 subpart), so that annotators colour by level. ``data`` has ``id`` (index in this tree),
        ``parent_id`` (the ``id`` of the nearest ancestor that is kept; -1 for roots), ``level``, ``granularity`` and
        ``class_name`` (the level again, where annotators look for a name).

        Args:
            levels: of whole, part and subpart.
            min_score: lowest score, in [0, 1].
            min_area: smallest area in pixels.
            compact: masks as supervision's ``CompactMask`` instead of an (n, H, W) bool array. The array takes n * H *
                W bytes, 2 GB for 1000 masks of 1920 x 1080 pixels; a ``CompactMask`` holds run lengths, and decodes one
                mask at a time where it is drawn or indexed.
            masks: ``nodes``, or ``all``: combinations as well.

        Raises:
            InputError: supervision is not installed or too old for ``compact``, or a value out of range.
        """
        from masktree.trees.detections import to_detections

        tree = select_mask_set(self, masks)
        return to_detections(tree, levels=levels, min_score=min_score, min_area=min_area, compact=compact)

    def save(self, path: str | Path, *, image: dict[str, Any] | None = None) -> None:
        """Write as JSON, atomically. ``image`` adds keys such as file_name to the image record."""
        from masktree.trees.file import write_tree

        check_path(path)
        write_tree(self, Path(path), image or {})

    @classmethod
    def load(cls, path: str | Path) -> MaskTree:
        """Read a file written by ``save``.

        Raises:
            FormatError: damaged, or another kind of file.
        """
        from masktree.trees.file import read_tree

        check_path(path)
        return read_tree(Path(path))


@kernel()
def _paint(
    owner: np.ndarray, starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, order: np.ndarray
) -> None:  # pragma: no cover
    for index in order:
        for run in range(offsets[index], offsets[index + 1]):
            owner[starts[run] : ends[run]] = index


def select_mask_set(tree: MaskTree, masks: MaskSet) -> MaskTree:
    """The nodes of a tree, or all of it. Raises InputError unless ``masks`` is ``nodes`` or ``all``."""
    check_mask_set(masks)
    return tree.nodes if masks == "nodes" else tree
