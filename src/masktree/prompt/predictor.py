"""``Predictor``: segment-anything's interface to clicks, boxes and masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from masktree.errors import InputError
from masktree.prompt.candidates import ANSWERS, Source
from masktree.prompt.dendrogram import Dendrogram
from masktree.prompt.prompt import SURE, Prompt
from masktree.prompt.tree import Forest
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from PIL.Image import Image

    from masktree.predict import Segmenter


class Predictor:
    """Masks for clicks, boxes, earlier masks and granularities, called as segment-anything's ``SamPredictor`` is.

    >>> predictor = masktree.Predictor(masktree.load("embedded"))  # doctest: +SKIP
    >>> predictor.set_image(rgb)  # doctest: +SKIP
    >>> masks, scores, logits = predictor.predict(np.array([[x, y]]), np.array([1]))  # doctest: +SKIP

    Args:
        source: what knows the image.
            A segmenter from ``masktree.load`` of the method masktree: ``set_image`` makes the dendrogram of the image,
            which answers at any granularity (``masktree.prompt.dendrogram``); on every backbone, without training.
            A model of kind promptable: ``set_image`` encodes the image, the network answers.
            Any other segmenter, or any callable from image to ``MaskTree``: the masks that it finds answer, with their
            unions and differences (``masktree.prompt.tree``).
            A ``PartitionTree`` or ``MaskTree``: is that of the image; ``set_image`` is not needed then.
        answers: masks of an answer to an ambiguous prompt, at least 1; segment-anything has 3.

    Raises:
        InputError: a source of another kind, or ``answers`` below 1.
    """

    def __init__(self, source: Segmenter | MaskTree | PartitionTree, *, answers: int = ANSWERS) -> None:
        if not isinstance(answers, (int, np.integer)) or answers < 1:
            raise InputError(f"expected answers as a whole number of at least 1; got {answers!r}")
        if not (isinstance(source, (MaskTree, PartitionTree)) or callable(source)):
            raise InputError(
                f"expected a segmenter, a MaskTree or a PartitionTree; got {type(source).__name__}; use masktree.load"
            )
        self.model = source
        self.answers = int(answers)
        self._source: Source | None = None
        self.reset_image()

    def set_image(self, image: str | Path | RGB | Image | None, image_format: Literal["RGB", "BGR"] = "RGB") -> None:
        """Look at an image: all the work that does not depend on prompts.

        Args:
            image: (H, W, 3) uint8 array, path, or Pillow image; for a tree the image of the tree, or None.
            image_format: order of an array's channels.

        Raises:
            InputError: an array of another shape or type, another format, or another size than the tree's.
            ImageError: the file cannot be read.
        """
        from masktree.predict import as_rgb

        if image_format not in ("RGB", "BGR"):
            raise InputError(f"expected image_format 'RGB' or 'BGR'; got {image_format!r}")
        own = self._tree_source()
        if image is None and own is not None:
            self._source = own
            return
        if image is None:
            raise InputError("expected an image; got None, which is for trees alone; give a path or an RGB array")
        self._source = None
        rgb = as_rgb(image)
        if image_format == "BGR" and isinstance(image, np.ndarray):
            rgb = np.ascontiguousarray(rgb[..., ::-1])
        if own is None:
            own = _look(self.model, rgb)
        elif own.size != rgb.shape[:2]:
            raise InputError(f"expected the image of the tree, of size {own.size}; got one of size {rgb.shape[:2]}")
        self._source = own

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        *,
        granularity: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of what is meant.

        Args:
            point_coords: (N, 2) clicks as x, y in pixels of the image.
            point_labels: (N,) 1: inside the entity, 0: outside.
            box: (4,) left, top, right, bottom in pixels; (1, 4) will do.
            mask_input: (1, 256, 256) logits of an earlier answer: what is meant looks like it.
            multimask_output: several masks of different size, as many as ``answers``; False: one.
            return_logits: masks as float32 logits. Of a tree they are 10 inside and -10 outside.
            granularity: in [0.1, 1], finest to coarsest of the entities at the prompt: one mask, the one of that size.
                Of trees this is the place of sqrt(area) between the smallest and the largest candidate.

        Returns:
            masks (C, H, W) bool, best first, C >= 1: where a tree of masks has nothing for the clicks, one empty mask
            of score 0; scores (C,) float32 in [0, 1], expected IoU; logits (C, 256, 256) float32 for ``mask_input``,
            over the square of the image's longer side.

        Raises:
            InputError: no image is set; no prompt; clicks outside alone, without a box or mask; clicks or a box outside
                the image; one pixel clicked as both; other shapes or labels; a granularity out of range.
        """
        if self._source is None:
            raise InputError("expected an image before prompts; got none; call set_image first")
        prompt = Prompt.read(self._source.size, point_coords, point_labels, box, mask_input, granularity)
        several = multimask_output and granularity is None
        masks, scores, low = self._source.answer(prompt, self.answers if several else 1)
        if return_logits:
            return masks if masks.dtype != np.bool_ else np.where(masks, SURE, -SURE).astype(np.float32), scores, low
        return masks if masks.dtype == np.bool_ else masks > 0, scores, low

    def reset_image(self) -> None:
        """Forget the image; a source that is a tree stays."""
        self._source = self._tree_source()

    @property
    def is_image_set(self) -> bool:
        return self._source is not None

    @property
    def original_size(self) -> tuple[int, int]:
        """(height, width) of the image that is set.

        Raises:
            InputError: none is.
        """
        if self._source is None:
            raise InputError("expected an image that is set; got none; call set_image first")
        return self._source.size

    @property
    def device(self) -> str:
        """Kind of device that images are seen on; cpu for trees."""
        return str(getattr(self.model, "device", "cpu"))

    def _tree_source(self) -> Source | None:
        if isinstance(self.model, MaskTree):
            return self._source or Forest(self.model)
        if isinstance(self.model, PartitionTree):
            return self._source or Dendrogram(self.model)
        return None


def is_promptable(source: object) -> bool:
    """Whether a source is a model that answers prompts itself."""
    model = getattr(source, "model", None)
    return getattr(getattr(model, "config", None), "kind", None) == "promptable"


def _look(source: Any, image: RGB) -> Source:
    if is_promptable(source):
        from masktree.prompt.model import Network

        return Network(source, image)
    tree = source(image)
    if not isinstance(tree, MaskTree):
        raise InputError(f"expected a callable from an image to its MaskTree; got one to {type(tree).__name__}")
    return Forest(tree) if tree.dendrogram is None else Dendrogram(tree.dendrogram)
