"""Inputs and outputs of models, and the interface of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from masktree.models.config import ModelConfig


@dataclass(frozen=True)
class Targets:
    """Pseudo-labels of one image at the resolution of the network's input; n may be 0.

    Attributes:
        masks: (n, H, W) bool, none empty.
        parents: (n,) int64 index of the parent, -1 for roots.
        levels: (n,) int64: 0 whole, 1 part, 2 subpart.
    """

    masks: Tensor
    parents: Tensor
    levels: Tensor

    def to(self, device: torch.device) -> Targets:
        """The targets on a device."""
        return Targets(self.masks.to(device), self.parents.to(device), self.levels.to(device))


@dataclass(frozen=True)
class Batch:
    """b images of one size with their targets.

    Attributes:
        images: (b, 3, H, W) float32 RGB in [0, 1], H and W multiples of 32, 0 in the padding.
        cues: (b, NUM_CUES, H/2, W/2) float32 boundary cues for pyramids that want them, else None.
        targets: of each image.
        seeds: (b,) int64 seed of every random choice for an image, so that a step does not depend on how its images are
            spread over processes.
        names: of the images, for messages.
        learn_from_empty: whether an image without targets is trained as background; else it has no loss, although means
            over images count it.
    """

    images: Tensor
    cues: Tensor | None
    targets: Sequence[Targets]
    seeds: Tensor
    names: Sequence[str]
    learn_from_empty: bool = True

    @property
    def loss_weights(self) -> Tensor:
        """(b,) float32 factor on the losses of each image, on the images' device: 1, or 0 if nothing is learned."""
        weights = [float(self.learn_from_empty or len(targets.masks) > 0) for targets in self.targets]
        return torch.tensor(weights, device=self.images.device)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return replace(
            self,
            images=self.images.to(device),
            cues=None if self.cues is None else self.cues.to(device),
            targets=[targets.to(device) for targets in self.targets],
        )


def interleave(first: Batch, second: Batch) -> Batch:
    """One batch of the images of two equally large ones in turn, so that any division of it has as many of each."""

    def merge(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a, b], dim=1).flatten(0, 1)

    pairs = zip(first.targets, second.targets, strict=True)
    return replace(
        first,
        images=merge(first.images, second.images),
        cues=None if first.cues is None or second.cues is None else merge(first.cues, second.cues),
        targets=[targets for pair in pairs for targets in pair],
        seeds=merge(first.seeds, second.seeds),
        names=[name for pair in zip(first.names, second.names, strict=True) for name in pair],
    )


class ModelDetections(Protocol):
    """n masks that a model detects in one image, highest score first; rendered on demand.

    Attributes:
        scores: (n,) float32 in [0, 1].
        ancestors: (n, n) float32 probability that mask j is an ancestor of mask i at [i, j], or None.
        levels: (n, 3) float32 probabilities of whole, part and subpart, or None.
    """

    # Properties are read-only to the type checker, as the fields of frozen dataclasses are.
    @property
    def scores(self) -> Tensor: ...
    @property
    def ancestors(self) -> Tensor | None: ...
    @property
    def levels(self) -> Tensor | None: ...

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """(k, height, width) bool masks ``start`` to ``stop`` at the image's own (height, width), without padding."""
        ...


class Model(Protocol):
    """A network that is trained on ``Batch`` and returns ``ModelDetections``; implementations are ``torch.nn.Module``s.

    Attributes:
        config: its configuration.
        wants_cues: whether boundary cues are an input beside the image.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def wants_cues(self) -> bool: ...

    def losses(self, batch: Batch, num_masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted losses by name; their sum is minimised.

        Args:
            batch: images with targets.
            num_masks: number of target masks that mask losses are divided by. With the mean over processes of equally
                many images, the mean of their losses is the loss of all their images together. None: that of the batch.
        """
        ...

    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[ModelDetections]:
        """The detections of each image.

        Args:
            images, cues: as in ``Batch``.
            valid_sizes: height and width of each image within the padding.
        """
        ...
