"""``Predictor``: the interface of segment-anything's ``SamPredictor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from masktree.errors import InputError
from masktree.io.images import ImageInput, as_rgb
from masktree.io.pixels import ImageFormat, check_image_format
from masktree.prompt.batch import split_prompts
from masktree.prompt.dendrogram_prompter import DendrogramPrompter
from masktree.prompt.prompt import LOW_RES_SIZE, MASK_LOGIT, Prompt
from masktree.prompt.prompter import Prompter
from masktree.prompt.transform import ResizeLongestSide
from masktree.prompt.tree_prompter import TreePrompter
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from torch import Tensor

    from masktree.predict import ModelSegmenter, Segmenter


NUM_MULTIMASK_OUTPUTS = 3  # as in segment-anything


class Predictor:
    """Masks for clicks, boxes, earlier masks and granularities, called as segment-anything's ``SamPredictor`` is.

    >>> predictor = masktree.Predictor(masktree.load("embedded"))  # doctest: +SKIP
    >>> predictor.set_image(rgb)  # doctest: +SKIP
    >>> masks, scores, logits = predictor.predict(np.array([[x, y]]), np.array([1]))  # doctest: +SKIP

    Args:
        model: what the masks come from.
            A segmenter from ``masktree.load`` with the method masktree, on any backbone, without training:
            ``set_image`` computes the dendrogram of the image (``DendrogramPrompter``).
            A model of kind promptable: ``set_image`` encodes the image, the network predicts (``ModelPrompter``).
            Any other segmenter or callable from an image to its ``MaskTree``: ``set_image`` computes the masks, from
            which unions and differences are formed (``TreePrompter``).
            A ``PartitionTree`` or ``MaskTree`` of one image: no ``set_image`` is needed.
        num_multimask_outputs: number of masks for an ambiguous prompt, at least 1; as in segment-anything 3.

    Attributes:
        transform: maps prompts of ``predict_torch`` to its frame: ``apply_coords_torch``, ``apply_boxes_torch``.

    Raises:
        InputError: an unsupported model, or ``num_multimask_outputs`` below 1.
    """

    def __init__(
        self, model: Segmenter | MaskTree | PartitionTree, *, num_multimask_outputs: int = NUM_MULTIMASK_OUTPUTS
    ) -> None:
        if not isinstance(num_multimask_outputs, (int, np.integer)) or num_multimask_outputs < 1:
            raise InputError(
                f"expected num_multimask_outputs as a whole number of at least 1; got {num_multimask_outputs!r}"
            )
        if not (isinstance(model, (MaskTree, PartitionTree)) or callable(model)):
            raise InputError(
                f"expected a segmenter, a MaskTree or a PartitionTree; got {type(model).__name__}; use masktree.load"
            )
        self.model = model
        self.num_multimask_outputs = int(num_multimask_outputs)
        self.transform = ResizeLongestSide()
        self._prompter: Prompter | None = None
        self.reset_image()

    def set_image(self, image: ImageInput | None, image_format: ImageFormat = "RGB") -> None:
        """Encode an image: all work that does not depend on prompts.

        Args:
            image: array, path, or Pillow image, see ``masktree.io.images.as_rgb``; if the model is a tree, its image
                or None.
            image_format: order of the channels of an array.

        Raises:
            InputError: an array whose meaning is ambiguous, another format, or another size than the tree's.
            ImageError: the file cannot be read.
        """
        check_image_format(image_format)
        if not isinstance(self.model, (MaskTree, PartitionTree)):
            self._prompter = None  # also if the image cannot be read
        rgb = None if image is None else as_rgb(image, image_format)
        if isinstance(self.model, (MaskTree, PartitionTree)):
            if rgb is not None and rgb.shape[:2] != self.model.size:
                raise InputError(
                    f"expected the image of the tree, of size {self.model.size}; got one of size {rgb.shape[:2]}"
                )
            return
        if rgb is None:
            raise InputError("expected an image; got None, which only trees accept; give a path or an RGB array")
        self._prompter = _prompter_for(self.model, rgb)

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        *,
        granularity: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict masks for a prompt.

        Args:
            point_coords: (N, 2) clicks as x, y in pixels of the image. Clicks up to a pixel outside it, as from
                rounding, count as on its border.
            point_labels: (N,) 1: inside the entity, 0: outside it, -1: no click (padding).
            box: (4,) or (1, 4) left, top, right, bottom in pixels; clipped to the image if at least half of it is
                inside. Several boxes: ``predict_torch``.
            mask_input: (1, 256, 256) logits that an earlier call returned.
            multimask_output: ``num_multimask_outputs`` masks of different sizes, of which the last is repeated where
                there are fewer; False: one mask.
            return_logits: masks as float32 logits; of trees these are 10 inside and -10 outside.
            granularity: in [0.1, 1], finest to coarsest of the entities at the prompt: returns one mask. With trees
                granularity is linear in sqrt(area) between the smallest and the largest candidate.

        Returns:
            masks (C, H, W) bool, best first, C = ``num_multimask_outputs`` or 1 (empty, with score 0, where a tree has
            none for the clicks);
            scores (C,) float32 in [0, 1], expected IoU; logits (C, 256, 256) float32 for ``mask_input``, which cover a
            square with the image's longer side.

        Raises:
            InputError: no image is set; no prompt; only clicks outside the entity, without a box or mask; clicks or a
                box outside the image; one pixel clicked with both labels; wrong shapes or labels; a granularity out of
                range.
        """
        if self._prompter is None:
            raise InputError("expected an image before prompts; got none; call set_image first")
        prompt = Prompt.read(self._prompter.size, point_coords, point_labels, box, mask_input, granularity)
        multimask = multimask_output and granularity is None
        num_masks = self.num_multimask_outputs if multimask else 1
        masks, scores, logits = self._prompter.predict(prompt, num_masks)
        if len(masks) < num_masks:
            index = np.minimum(np.arange(num_masks), len(masks) - 1)
            masks, scores, logits = masks[index], scores[index], logits[index]
        is_binary = masks.dtype == np.bool_
        if return_logits and is_binary:
            masks = np.where(masks, MASK_LOGIT, -MASK_LOGIT).astype(np.float32)
        elif not return_logits and not is_binary:
            masks = masks > 0
        return masks, scores, logits

    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict masks for B prompts, as segment-anything's method of that name. Takes as long as B calls of
        ``predict``; its memory is that of B * C masks of the image's size.

        Clicks and boxes are in a frame whose longer side has 1024 pixels, as segment-anything's are:
        ``predictor.transform.apply_boxes_torch(boxes, image.shape[:2])`` maps boxes in pixels of the image to it, and
        ``apply_coords_torch`` clicks.

        Args:
            point_coords: (B, N, 2) clicks as x, y.
            point_labels: (B, N) 1: inside the entity, 0: outside it, -1: no click, so that prompts may have different
                numbers of clicks.
            boxes: (B, 4) left, top, right, bottom.
            mask_input: (B, 1, 256, 256) logits that an earlier call returned.
            multimask_output: as in ``predict``.
            return_logits: as in ``predict``.

        Returns:
            masks (B, C, H, W) bool or float32; scores (B, C) float32; logits (B, C, 256, 256) float32, which are
            ``mask_input`` of a next call as ``logits[:, [best]]``. All on ``device``.

        Raises:
            InputError: different numbers of prompts, wrong shapes, or as ``predict``.
        """
        import torch  # takes seconds to import; scripts without tensors do without

        height, width = self.original_size
        prompts = split_prompts((height, width), self.transform, point_coords, point_labels, boxes, mask_input)
        answers = [
            self.predict(
                prompt.get("point_coords"),
                prompt.get("point_labels"),
                prompt.get("box"),
                prompt.get("mask_input"),
                multimask_output,
                return_logits,
            )
            for prompt in prompts
        ]
        if answers:
            masks, scores, logits = (np.stack(parts) for parts in zip(*answers, strict=True))
        else:
            count = self.num_multimask_outputs if multimask_output else 1
            masks = np.zeros((0, count, height, width), np.float32 if return_logits else np.bool_)
            scores = np.zeros((0, count), np.float32)
            logits = np.zeros((0, count, LOW_RES_SIZE, LOW_RES_SIZE), np.float32)
        mask_tensor, score_tensor, logit_tensor = (
            torch.from_numpy(array).to(self.device) for array in (masks, scores, logits)
        )
        return mask_tensor, score_tensor, logit_tensor

    def reset_image(self) -> None:
        """Forget the image; the image of a tree stays."""
        if isinstance(self.model, MaskTree):
            self._prompter = TreePrompter(self.model)
        elif isinstance(self.model, PartitionTree):
            self._prompter = DendrogramPrompter(self.model)
        else:
            self._prompter = None

    @property
    def is_image_set(self) -> bool:
        return self._prompter is not None

    @property
    def original_size(self) -> tuple[int, int]:
        """(height, width) of the image that is set.

        Raises:
            InputError: no image is set.
        """
        if self._prompter is None:
            raise InputError("expected an image that is set; got none; call set_image first")
        return self._prompter.size

    @property
    def device(self) -> str:
        """Device type that images are encoded on; cpu for trees."""
        return str(getattr(self.model, "device", "cpu"))


def is_promptable(source: object) -> TypeGuard[ModelSegmenter]:
    """Whether a source is a segmenter with a model of kind promptable."""
    model = getattr(source, "model", None)
    return getattr(getattr(model, "config", None), "kind", None) == "promptable"


def _prompter_for(segmenter: Segmenter, image: RGB) -> Prompter:
    if is_promptable(segmenter):
        from masktree.prompt.model_prompter import ModelPrompter  # torch takes seconds to import; trees do without

        return ModelPrompter(segmenter, image)
    tree = segmenter(image)
    if not isinstance(tree, MaskTree):
        raise InputError(f"expected a callable from an image to its MaskTree; got one to {type(tree).__name__}")
    return TreePrompter(tree) if tree.dendrogram is None else DendrogramPrompter(tree.dendrogram)
