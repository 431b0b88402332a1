"""What goes into a model and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from masktree.models.config import ModelConfig


@dataclass(frozen=True)
class Targets:
    """The pseudo-labels of one image, on the pixels that the network sees.

    ``masks`` (n, H, W) bool, each with at least one pixel; ``parents`` (n,) int64, -1 for roots; ``levels`` (n,)
    int64, 0 whole, 1 part, 2 subpart. n may be 0.
    """

    masks: Tensor
    parents: Tensor
    levels: Tensor

    def to(self, device: torch.device) -> Targets:
        return Targets(self.masks.to(device), self.parents.to(device), self.levels.to(device))


@dataclass(frozen=True)
class Batch:
    """b images of one size with their targets.

    ``images`` (b, 3, H, W) float32 RGB in [0, 1], H and W multiples of 32, 0 where there is no photograph; ``cues``
    (b, NUM_CUES, H/2, W/2) float32, the boundary cues, for pyramids that want them, else None. ``seeds`` (b,) int64: of
    every random choice made for an image, so that a step does not depend on how its images are spread over
    processes. ``names``: of the images, for messages. ``learn_from_empty``: whether an image without any target teaches
    that nothing is in it; else it has no loss, though means over images count it.
    """

    images: Tensor
    cues: Tensor | None
    targets: Sequence[Targets]
    seeds: Tensor
    names: Sequence[str]
    learn_from_empty: bool = True

    @property
    def loss_weights(self) -> Tensor:
        """(b,) float32, on the images' device: factor on the losses of each image, 0 for one that teaches nothing."""
        said = [float(self.learn_from_empty or len(targets.masks) > 0) for targets in self.targets]
        return torch.tensor(said, device=self.images.device)

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            images=self.images.to(device),
            cues=None if self.cues is None else self.cues.to(device),
            targets=[targets.to(device) for targets in self.targets],
        )


class ModelDetections(Protocol):
    """What a model finds in one image: n masks, best score first.

    ``scores`` (n,) float32 in [0, 1]. ``ancestors`` (n, n) float32: probability that mask j is an ancestor of mask i,
    or None. ``levels`` (n, 3) float32: probabilities of whole, part and subpart, or None.
    """

    # Properties: read-only to the type checker, as the fields of frozen classes are.
    @property
    def scores(self) -> Tensor: ...
    @property
    def ancestors(self) -> Tensor | None: ...
    @property
    def levels(self) -> Tensor | None: ...

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Masks ``start`` to ``stop`` at the image's own (height, width): (k, height, width) bool. Padding of the
        network's input is cut off first."""
        ...


class Model(Protocol):
    """A network that is trained on ``Batch`` and gives ``ModelDetections``; a ``torch.nn.Module`` besides.

    ``config`` decides its shape; ``wants_cues`` says whether its input has cues.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def wants_cues(self) -> bool: ...

    def losses(self, batch: Batch, masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted objectives by name; their sum is minimised. ``masks``: number of target masks by which mask losses
        are divided: the mean over processes; None takes that of the batch (at least 1)."""
        ...

    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[ModelDetections]:
        """``images`` and ``cues`` as in ``Batch``; ``content``: height and width of each image within its padding."""
        ...
