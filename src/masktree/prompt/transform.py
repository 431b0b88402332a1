"""Coordinates in segment-anything's input frame, in which ``Predictor.predict_torch`` takes its prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

INPUT_SIZE = 1024  # longer side of the frame, as of segment-anything's networks
_DECIMALS = 2  # float32 keeps this many of a pixel on the way to the frame and back, up to images of 16,000 pixels


class ResizeLongestSide:
    """Maps coordinates of an image to a frame whose longer side is ``target_length``, as segment-anything's class of
    that name. Masktree scales no image to that frame: scripts that scale their prompts give what they always gave.

    Args:
        target_length: longer side of the frame in pixels, at least 1.
    """

    def __init__(self, target_length: int = INPUT_SIZE) -> None:
        self.target_length = target_length

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """(..., 2) float64 x and y in the frame, of (..., 2) ones in an image of ``original_size`` (height, width)."""
        return np.asarray(coords, np.float64) * self._scale(original_size)

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """(B, 4) float64 left, top, right, bottom in the frame, of (B, 4) ones in an image."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """``apply_coords`` of a tensor: float32, on its device."""
        coords = coords.float()
        return coords * coords.new_tensor(self._scale(original_size))

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """``apply_boxes`` of a tensor: float32, on its device."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def invert_coords(self, coords: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """The inverse of ``apply_coords``, to a hundredth of a pixel: a whole number stays in its pixel."""
        return np.round(np.asarray(coords, np.float64) / self._scale(original_size), _DECIMALS)

    def invert_boxes(self, boxes: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """The inverse of ``apply_boxes``, to a hundredth of a pixel."""
        return self.invert_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(old_height: int, old_width: int, long_side_length: int) -> tuple[int, int]:
        """(height, width) of an image in a frame of ``long_side_length``, rounded to pixels."""
        scale = long_side_length / max(old_height, old_width)
        return int(old_height * scale + 0.5), int(old_width * scale + 0.5)

    def _scale(self, original_size: tuple[int, int]) -> tuple[float, float]:
        """Factors of x and of y."""
        height, width = original_size
        new_height, new_width = self.get_preprocess_shape(height, width, self.target_length)
        return max(new_width, 1) / width, max(new_height, 1) / height
