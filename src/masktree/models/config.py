"""What decides the shape of a model: typed values, written to and read from ``config.json`` of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from masktree.errors import FormatError, InputError


@dataclass(frozen=True)
class Mask2FormerConfig:
    """The models of SOHES and UnSAM (arXiv 2404.12386, 2406.20081), on Mask2Former (arXiv 2112.01527).

    Attributes:
        kind: ``sohes`` has an ancestor head, ``unsam`` has none.
        backbone: what makes the feature pyramid; see ``masktree.models.pyramid.pyramid``.
        image_size: longer side in pixels at which images are seen.
        hidden, heads, feedforward: width, attention heads and inner width of decoders.
        pixel_layers, decoder_layers: deformable encoder layers of the pixel decoder; layers of the query decoder.
        queries: masks that can be found in one image.
        detections: masks that are kept, best first.
    """

    kind: Literal["sohes", "unsam"] = "sohes"
    backbone: str = "embedded"
    image_size: int = 1024
    hidden: int = 256
    heads: int = 8
    feedforward: int = 1024
    pixel_layers: int = 6
    decoder_layers: int = 9
    queries: int = 1000
    detections: int = 1000

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.hidden % self.heads:
            raise InputError(f"expected hidden as a multiple of heads; got {self.hidden} and {self.heads}")


@dataclass(frozen=True)
class CascadeConfig:
    """The model of HASSOD: Cascade Mask R-CNN with a level head (Cao et al. 2023, arXiv 2402.03311).

    Attributes:
        kind: ``hassod``.
        backbone: what makes the feature pyramid; see ``masktree.models.pyramid.pyramid``.
        image_size: longer side in pixels at which images are seen.
        hidden: channels of the feature pyramid network.
        box_width: of the fully connected layers of each cascade stage.
        mask_layers: convolutions of the mask head.
        train_proposals, test_proposals: boxes that pass from the proposal network to the stages.
        roi_batch: boxes per image that a stage learns from.
        detections: masks that are kept, best first.
    """

    kind: Literal["hassod"] = "hassod"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    hidden: int = 256
    box_width: int = 1024
    mask_layers: int = 4
    train_proposals: int = 4000
    test_proposals: int = 1000
    roi_batch: int = 512
    detections: int = 1000

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True)
class PromptableConfig:
    """The model that answers clicks, boxes and granularities, after UnSAM, UnSAMv2 and SAM (arXiv 2406.20081,
    2511.13714, 2304.02643).

    Attributes:
        kind: ``promptable``.
        backbone: what makes the feature pyramid; see ``masktree.models.pyramid.pyramid``.
        image_size: longer side in pixels at which images are seen.
        hidden, heads, feedforward: width, attention heads and inner width of decoders.
        pixel_layers, prompt_layers: deformable encoder layers of the pixel decoder; layers of the prompt decoder.
        cell: pixels per cell of the map that prompts and image exchange what they know on: 8, 16 or 32.
        clicks: questions about each image in a training step, each asked with and without a granularity.
        corrections: most clicks that follow on each of them, where the answer is wrong.
        grid: points along the longer side at which all masks of an image are sought.
        detections: masks that are then kept, best first.
    """

    kind: Literal["promptable"] = "promptable"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    hidden: int = 256
    heads: int = 8
    feedforward: int = 1024
    pixel_layers: int = 6
    prompt_layers: int = 2
    cell: int = 16
    clicks: int = 60
    corrections: int = 6
    grid: int = 32
    detections: int = 1000

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.hidden % (2 * self.heads):
            raise InputError(f"expected hidden as a multiple of 2 x heads; got {self.hidden} and {self.heads}")
        if self.cell not in (8, 16, 32):
            raise InputError(f"expected a cell of 8, 16 or 32 pixels; got {self.cell}")


ModelConfig = Mask2FormerConfig | CascadeConfig | PromptableConfig
_KINDS: dict[str, type[Mask2FormerConfig] | type[CascadeConfig] | type[PromptableConfig]] = {
    "sohes": Mask2FormerConfig,
    "unsam": Mask2FormerConfig,
    "hassod": CascadeConfig,
    "promptable": PromptableConfig,
}


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Plain values, ``kind`` among them."""
    return asdict(config)


def from_json(values: dict[str, Any]) -> ModelConfig:
    """The configuration of plain values.

    Raises:
        FormatError: unknown kind, unknown or missing keys, values of another type.
    """
    kind = _KINDS.get(values.get("kind", ""))
    if kind is None:
        raise FormatError(f"expected kind {', '.join(_KINDS)}; got {values.get('kind')!r}")
    known = {item.name: type(item.default) for item in fields(kind)}
    if set(values) != set(known):
        raise FormatError(f"expected the keys {', '.join(known)}; got {', '.join(values)}")
    wrong = [name for name, wanted in known.items() if type(values[name]) is not wanted]
    if wrong:
        raise FormatError(f"expected {wrong[0]} as {known[wrong[0]].__name__}; got {values[wrong[0]]!r}")
    try:
        return kind(**values)
    except InputError as error:
        raise FormatError(str(error)) from error


def _check_positive(config: ModelConfig) -> None:
    for name, value in asdict(config).items():
        if isinstance(value, int) and value < 1:
            raise InputError(f"expected {name} of at least 1; got {value}")
