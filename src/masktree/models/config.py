"""Model configurations: typed values, stored under ``model`` in the ``config.json`` of a run."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from masktree.errors import FormatError, InputError

# Largest sizes that are built (our choice): a network of them all has some billion parameters.
MAX_SIZE = 100_000
MAX_SIZES: Mapping[str, int] = {
    "image_size": 16_384,
    "hidden_dim": 1024,
    "feedforward_dim": 8192,
    "box_head_dim": 4096,
    "pixel_decoder_layers": 32,
    "decoder_layers": 32,
    "prompt_decoder_layers": 32,
    "mask_head_layers": 32,
    "points_per_side": 1024,
    "prompts_per_image": 10_000,
    "max_correction_clicks": 1000,
}
MIN_GRANULARITY, MAX_GRANULARITY = 0.1, 1.0  # finest and coarsest prompt (UnSAMv2, arXiv 2511.13714)


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Models of SOHES and UnSAM (arXiv 2404.12386, 2406.20081), based on Mask2Former (arXiv 2112.01527).

    Attributes:
        kind: ``sohes`` has an ancestor head, ``unsam`` does not.
        backbone: name of the backbone of the feature pyramid; see ``masktree.models.pyramid.build``.
        image_size: longer side of the network's input in pixels.
        hidden_dim: channels of pixel decoder and query decoder, a multiple of 32.
        num_heads: attention heads; divides ``hidden_dim``.
        feedforward_dim: inner width of the feed-forward layers.
        pixel_decoder_layers: deformable encoder layers of the pixel decoder.
        decoder_layers: layers of the query decoder.
        num_queries: object queries, an upper bound on the masks of an image.
        max_detections: masks kept per image, highest scores first.
    """

    kind: Literal["sohes", "unsam"] = "sohes"
    backbone: str = "embedded"
    image_size: int = 1024
    hidden_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 1024
    pixel_decoder_layers: int = 6
    decoder_layers: int = 9
    num_queries: int = 1000
    max_detections: int = 1000

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.hidden_dim % self.num_heads:
            raise InputError(
                f"expected hidden_dim to be a multiple of num_heads; got {self.hidden_dim} and {self.num_heads}"
            )


@dataclass(frozen=True)
class CascadeConfig:
    """Model of HASSOD: Cascade Mask R-CNN with a level head (Cao et al. 2023, arXiv 2402.03311).

    Attributes:
        kind: ``hassod``.
        backbone: name of the backbone of the feature pyramid; see ``masktree.models.pyramid.build``.
        image_size: longer side of the network's input in pixels.
        hidden_dim: channels of the feature pyramid network.
        box_head_dim: width of the fully connected layers of each cascade stage.
        mask_head_layers: convolutions of the mask head.
        train_proposals, test_proposals: proposals per image that the RPN passes on in training and in inference.
        roi_batch_size: RoIs sampled per image for the losses of the first stage.
        max_detections: masks kept per image, highest scores first.
    """

    kind: Literal["hassod"] = "hassod"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    hidden_dim: int = 256
    box_head_dim: int = 1024
    mask_head_layers: int = 4
    train_proposals: int = 4000
    test_proposals: int = 1000
    roi_batch_size: int = 512
    max_detections: int = 1000

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True)
class PromptableConfig:
    """Model prompted with clicks, boxes and granularities, after UnSAM, UnSAMv2 and SAM (arXiv 2406.20081, 2511.13714,
    2304.02643).

    Attributes:
        kind: ``promptable``.
        backbone: name of the backbone of the feature pyramid; see ``masktree.models.pyramid.build``.
        image_size: longer side of the network's input in pixels.
        hidden_dim: channels of pixel decoder and prompt decoder, a multiple of 32 and of 2 x ``num_heads``.
        num_heads: attention heads.
        feedforward_dim: inner width of the feed-forward layers.
        pixel_decoder_layers: deformable encoder layers of the pixel decoder.
        prompt_decoder_layers: layers of the two-way decoder.
        embedding_stride: pixels per cell of the image embedding that prompt tokens attend to: 8, 16 or 32.
        prompts_per_image: training prompts per image with a granularity; as many again have none.
        max_correction_clicks: largest number of simulated correction clicks that follow a training prompt.
        points_per_side: points of the grid along the longer side when all masks are generated.
        max_detections: masks then kept per image, highest scores first.
    """

    kind: Literal["promptable"] = "promptable"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    hidden_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 1024
    pixel_decoder_layers: int = 6
    prompt_decoder_layers: int = 2
    embedding_stride: int = 16
    prompts_per_image: int = 60
    max_correction_clicks: int = 6
    points_per_side: int = 32
    max_detections: int = 1000

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.hidden_dim % (2 * self.num_heads):
            raise InputError(
                f"expected hidden_dim to be a multiple of 2 x num_heads; got {self.hidden_dim} and {self.num_heads}"
            )
        if self.embedding_stride not in (8, 16, 32):
            raise InputError(f"expected an embedding_stride of 8, 16 or 32 pixels; got {self.embedding_stride}")


ModelConfig = Mask2FormerConfig | CascadeConfig | PromptableConfig
CONFIG_CLASSES: Mapping[str, type[Mask2FormerConfig] | type[CascadeConfig] | type[PromptableConfig]] = {
    "sohes": Mask2FormerConfig,
    "unsam": Mask2FormerConfig,
    "hassod": CascadeConfig,
    "promptable": PromptableConfig,
}


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The configuration as plain values, including ``kind``."""
    return asdict(config)


def from_json(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration stored by ``to_json``.

    Raises:
        FormatError: unknown kind, unknown or missing keys, or values of another type.
    """
    kind = values.get("kind")
    config_class = CONFIG_CLASSES.get(kind) if isinstance(kind, str) else None
    if config_class is None:
        raise FormatError(f"expected kind {', '.join(CONFIG_CLASSES)}; got {reprlib.repr(kind)}")
    types = {field.name: type(field.default) for field in fields(config_class)}
    if set(values) != set(types):
        raise FormatError(f"expected the keys {', '.join(types)}; got {', '.join(values)}")
    wrong = [name for name, expected in types.items() if type(values[name]) is not expected]
    if wrong:
        raise FormatError(f"expected {wrong[0]} as {types[wrong[0]].__name__}; got {reprlib.repr(values[wrong[0]])}")
    try:
        return config_class(**values)
    except InputError as error:
        raise FormatError(str(error)) from error


def _check_sizes(config: ModelConfig) -> None:
    for name, value in asdict(config).items():
        if isinstance(value, int) and value < 1:
            raise InputError(f"expected {name} of at least 1; got {value}")
        if isinstance(value, int) and value > MAX_SIZES.get(name, MAX_SIZE):
            raise InputError(
                f"expected {name} of at most {MAX_SIZES.get(name, MAX_SIZE):,}; got {reprlib.repr(value)}; "
                "a damaged file could ask for any amount of memory"
            )
