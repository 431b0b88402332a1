"""A view of an image with its masks, choices among masks, and copy-paste (Ghiasi et al. 2021, arXiv 2012.07177)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from masktree.train.geometry import Geometry
from masktree.train.label_store import ImageLabels
from masktree.trees import hierarchy
from masktree.types import RGB

MIN_VISIBLE_FRACTION = 0.1  # of its pixels that a mask must keep under pasted objects, else it is dropped (our choice)
MAX_COVERED_FRACTION = 0.5  # of a mask, from which the released rule leaves out what would cover it (CutLER's code)
MAX_PASTED_FRACTION = 0.25  # of the view's pixels that a pasted object may cover (our choice)


@dataclass(frozen=True)
class Sample:
    """A view with its masks.

    A mask whose parent was dropped is attached to its nearest remaining ancestor. It keeps its level: an eye whose face
    is not among the masks of this example still is a part, and looks like one.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, none empty.
        parents: (n,) int32.
        levels: (n,) int8.
    """

    image: np.ndarray
    masks: np.ndarray
    parents: np.ndarray
    levels: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Sample:
        """The masks selected by a boolean array (n,)."""
        return Sample(self.image, self.masks[keep], hierarchy.reparent(self.parents, keep), self.levels[keep])


def apply_view(image: RGB, labels: ImageLabels, geometry: Geometry, keep: np.ndarray) -> Sample:
    """A view of an image with those of its masks that ``keep`` (n,) bool selects."""
    masks = geometry.apply_masks([text for text, kept in zip(labels.rles, keep, strict=True) if kept])
    return Sample(geometry.apply(image), masks, hierarchy.reparent(labels.parents, keep), labels.levels[keep])


def random_subset(selected: np.ndarray, max_count: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: the True entries of ``selected``, or ``max_count`` of them at random if there are more."""
    indices = np.flatnonzero(selected)
    if len(indices) <= max_count:
        return selected
    result = np.zeros_like(selected)
    result[rng.choice(indices, max_count, replace=False)] = True
    return result


def choose_masks(areas: np.ndarray, min_area: int, max_masks: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: masks of at least ``min_area``, a random subset if there are more than ``max_masks``."""
    return random_subset(areas >= min_area, max_masks, rng)


def choose_objects(
    parents: np.ndarray, areas: np.ndarray, min_area: int, max_area: float, max_masks: int, rng: np.random.Generator
) -> np.ndarray:
    """(n,) bool: a random number of objects, each with all of its descendants of at least ``min_area``.

    An object is a topmost mask of at most ``max_area``. If that makes more than ``max_masks`` masks, descendants are
    dropped at random.
    """
    is_large_enough = areas >= min_area
    is_candidate = is_large_enough & (areas <= max_area)
    top_down = np.argsort(hierarchy.depths(parents), kind="stable")
    covered = np.zeros(len(parents) + 1, np.bool_)  # the last entry stands for the parent of roots, index -1
    for i in top_down:
        covered[i] = covered[parents[i]] or is_candidate[i]
    objects = np.flatnonzero(is_candidate & ~covered[parents])
    if len(objects) == 0:
        return np.zeros(len(parents), np.bool_)
    count = int(rng.integers(1, min(len(objects), max_masks) + 1))
    chosen = np.zeros(len(parents) + 1, np.bool_)
    chosen[rng.choice(objects, count, replace=False)] = True
    descendants = np.zeros(len(parents) + 1, np.bool_)
    for i in top_down:
        descendants[i] = chosen[parents[i]] or descendants[parents[i]]
    keep: np.ndarray = chosen[:-1] | random_subset(descendants[:-1] & is_large_enough, max_masks - count, rng)
    return keep


def paste(sample: Sample, donor: Sample, min_area: int) -> Sample:
    """Paste the donor's objects, its roots with their descendants, in front of a sample of the same size.

    Covered pixels are removed from the sample's masks; a mask left with less than ``min_area`` pixels or a tenth of its
    own is dropped. Pixels of descendants outside of all objects are not pasted.
    """
    if len(donor.masks) == 0:
        return sample
    n, objects = len(sample.masks), np.logical_or.reduce(donor.masks[donor.parents < 0], axis=0)
    masks = np.concatenate([sample.masks, donor.masks])
    masks[:n] &= ~objects
    masks[n:] &= objects
    areas = _areas(masks)
    keep = areas >= min_area
    keep[:n] &= areas[:n] >= MIN_VISIBLE_FRACTION * _areas(sample.masks)
    donor_parents = np.where(donor.parents < 0, -1, donor.parents + n).astype(np.int32)
    pasted = Sample(
        image=np.where(objects[..., None], donor.image, sample.image),
        masks=masks,
        parents=np.concatenate([sample.parents, donor_parents]),
        levels=np.concatenate([sample.levels, donor.levels]),
    )
    return pasted if keep.all() else pasted[keep]


def choose_released(areas: np.ndarray, min_area: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: of the m masks of at least ``min_area``, a random number from 1 to max(1, m - 1), whatever their level
    (CutLER's code)."""
    candidates = np.flatnonzero(areas >= min_area)
    keep = np.zeros(len(areas), np.bool_)
    if len(candidates):
        count = 1 if len(candidates) == 1 else int(rng.integers(1, len(candidates)))
        keep[rng.choice(candidates, count, replace=False)] = True
    return keep


def paste_released(sample: Sample, donor: Sample) -> Sample:
    """Paste the donor's masks in front of a sample of the same size, by the rule in the code of CutLER and HASSOD.

    A mask of the donor that would cover half of any mask of the sample is left out. Pixels of the others are removed
    from the sample's masks, of which those without any pixel left are dropped.
    """
    if len(donor.masks) == 0:
        return sample
    if len(sample.masks):
        areas = _areas(sample.masks)
        donor = donor[np.array([_covered(mask, sample.masks, areas) < MAX_COVERED_FRACTION for mask in donor.masks])]
        if len(donor.masks) == 0:
            return sample
    n, pasted = len(sample.masks), np.logical_or.reduce(donor.masks, axis=0)
    masks = np.concatenate([sample.masks & ~pasted, donor.masks])
    parents = np.concatenate([sample.parents, np.where(donor.parents < 0, -1, donor.parents + n)]).astype(np.int32)
    both = Sample(
        image=np.where(pasted[..., None], donor.image, sample.image),
        masks=masks,
        parents=parents,
        levels=np.concatenate([sample.levels, donor.levels]),
    )
    return both[_areas(masks) > 0]


def _covered(mask: np.ndarray, masks: np.ndarray, areas: np.ndarray) -> float:
    """Largest fraction of any of the ``masks`` (n, H, W) that a non-empty ``mask`` covers."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return float((_areas(masks[:, *box] & mask[box]) / areas).max())


def _areas(masks: np.ndarray) -> np.ndarray:
    # Mask by mask: 0.1 s for 200 masks of 1024 x 1024; a sum over axes takes 0.5 s.
    return np.array([np.count_nonzero(mask) for mask in masks], np.int64)
