"""Model configurations: typed values, stored under ``model`` in the ``config.json`` of a run."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from masktree.errors import FormatError, InputError

# Largest sizes that are built (our choice): a network of them all has some billion parameters.
MAX_SIZE = 100_000
MAX_SIZES: Mapping[str, int] = {
    "image_size": 16_384,
    "short_side": 16_384,
    "hidden_dim": 1024,
    "feedforward_dim": 8192,
    "decoder_feedforward_dim": 8192,
    "box_head_dim": 4096,
    "pixel_decoder_layers": 32,
    "decoder_layers": 32,
    "prompt_decoder_layers": 32,
    "mask_head_layers": 32,
    "points_per_side": 1024,
    "prompts_per_image": 10_000,
    "max_correction_clicks": 1000,
}
MaskScore = Literal["published", "object", "expected_iou"]
_MAY_BE_ZERO = ("short_side", "decoder_feedforward_dim")
MIN_AREA = 32  # pixels of the original image, as for the masks of a dendrogram (our choice)
# What the config.json of runs of earlier versions does not name, at the values that they were trained with.
LATER_VALUES: Mapping[str, Any] = {
    "short_side": 0,
    "min_area": MIN_AREA,
    "decoder_feedforward_dim": 0,
    "score": "expected_iou",
    "norm": "frozen",
    "roi_sampling": "fixed",
    "roi_mean": "image",
    "roi_positive_fraction": 0.5,
    "drop_loss": True,
    "box_losses": False,
}
MIN_GRANULARITY, MAX_GRANULARITY = 0.1, 1.0  # finest and coarsest prompt (UnSAMv2, arXiv 2511.13714)


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Models of SOHES and UnSAM (arXiv 2404.12386, 2406.20081), based on Mask2Former (arXiv 2112.01527).

    Attributes:
        kind: ``sohes`` has an ancestor head, ``unsam`` does not.
        backbone: name of the backbone of the feature pyramid; see ``masktree.models.pyramid.build``.
        image_size: longer side of the network's input in pixels.
        short_side: its shorter side, as long as the longer one is at most ``image_size``; 0 for a longer side of
            ``image_size`` whatever the shorter one is.
        min_area: smallest mask at test in pixels of the image.
        hidden_dim: channels of pixel decoder and query decoder, a multiple of 32.
        num_heads: attention heads; divides ``hidden_dim``.
        feedforward_dim: inner width of the feed-forward layers of the pixel decoder.
        decoder_feedforward_dim: of those of the query decoder; 0 for that of the pixel decoder.
        pixel_decoder_layers: deformable encoder layers of the pixel decoder.
        decoder_layers: layers of the query decoder.
        num_queries: object queries, an upper bound on the masks of an image.
        max_detections: masks kept per image, highest scores first.
        score: of a mask. ``published``: object probability times mean probability inside the mask. ``object``: the
            object probability alone, by which UnSAM chooses the labels of a round. ``expected_iou``: our own, see
            ``masktree.models.mask2former.scores``.
    """

    kind: Literal["sohes", "unsam"] = "sohes"
    backbone: str = "embedded"
    image_size: int = 1024
    short_side: int = 0
    min_area: int = MIN_AREA
    hidden_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 1024
    decoder_feedforward_dim: int = 0
    pixel_decoder_layers: int = 6
    decoder_layers: int = 9
    num_queries: int = 1000
    max_detections: int = 1000
    score: MaskScore = "expected_iou"

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choices(self, score=get_args(MaskScore))
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
        image_size, short_side, min_area: as of ``Mask2FormerConfig``.
        hidden_dim: channels of the feature pyramid network.
        norm: batch norms. ``batch``: trained, in a ResNet and in the feature pyramid network, over all processes on
            GPUs. ``frozen``: those of the ResNet are as in pretraining, the feature pyramid network has none.
        box_head_dim: width of the fully connected layers of each cascade stage.
        mask_head_layers: convolutions of the mask head.
        train_proposals, test_proposals: proposals per image that the RPN passes on in training and in inference.
        roi_batch_size: RoIs sampled per image for the losses of the first stage.
        roi_positive_fraction: maximum fraction of positives among them.
        roi_sampling: points of RoIAlign in a cell. ``adaptive``: one per pixel of the map. ``fixed``: 2 x 2, and 4 x 4
            of masks.
        roi_mean: what the losses of RoIs are means over. ``batch``: all RoIs of a process's images. ``image``: those of
            an image, then images, so that a step does not depend on how its images are spread.
        drop_loss: no class loss for boxes that overlap no pseudo-label (DropLoss).
        max_detections: masks kept per image, highest scores first.
    """

    kind: Literal["hassod"] = "hassod"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    short_side: int = 0
    min_area: int = MIN_AREA
    hidden_dim: int = 256
    norm: Literal["batch", "frozen"] = "frozen"
    box_head_dim: int = 1024
    mask_head_layers: int = 4
    train_proposals: int = 4000
    test_proposals: int = 1000
    roi_batch_size: int = 512
    roi_positive_fraction: float = 0.5
    roi_sampling: Literal["adaptive", "fixed"] = "fixed"
    roi_mean: Literal["batch", "image"] = "image"
    drop_loss: bool = True
    max_detections: int = 1000

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choices(self, norm=("batch", "frozen"), roi_sampling=("adaptive", "fixed"), roi_mean=("batch", "image"))
        if not 0 < self.roi_positive_fraction <= 1:
            raise InputError(f"expected roi_positive_fraction in (0, 1]; got {self.roi_positive_fraction}")


@dataclass(frozen=True)
class PromptableConfig:
    """Model prompted with clicks, boxes and granularities, after UnSAM, UnSAMv2 and SAM (arXiv 2406.20081, 2511.13714,
    2304.02643).

    Attributes:
        kind: ``promptable``.
        backbone: name of the backbone of the feature pyramid; see ``masktree.models.pyramid.build``.
        image_size, min_area: as of ``Mask2FormerConfig``.
        hidden_dim: channels of pixel decoder and prompt decoder, a multiple of 32 and of 2 x ``num_heads``.
        num_heads: attention heads.
        feedforward_dim: inner width of the feed-forward layers of the pixel decoder.
        pixel_decoder_layers: deformable encoder layers of the pixel decoder.
        decoder_feedforward_dim: of those of the two-way decoder; 0 for that of the pixel decoder.
        prompt_decoder_layers: layers of the two-way decoder.
        box_losses: predict a box beside every mask, and learn it (Semantic-SAM's code).
        embedding_stride: pixels per cell of the image embedding that prompt tokens attend to: 8, 16 or 32.
        prompts_per_image: training prompts per image with a granularity; as many again have none.
        max_correction_clicks: largest number of simulated correction clicks that follow a training prompt.
        points_per_side: points of the grid along the longer side when all masks are generated.
        max_detections: masks then kept per image, highest scores first.
    """

    kind: Literal["promptable"] = "promptable"
    backbone: str = "dino-resnet50"
    image_size: int = 1024
    min_area: int = MIN_AREA
    hidden_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 1024
    decoder_feedforward_dim: int = 0
    pixel_decoder_layers: int = 6
    prompt_decoder_layers: int = 2
    box_losses: bool = False
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

    @property
    def short_side(self) -> int:
        """0: prompts are in units of the longer side, which is ``image_size``."""
        return 0


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
    """The configuration stored by ``to_json``, of this version or an earlier one.

    Raises:
        FormatError: unknown kind, unknown or missing keys, or values of another type.
    """
    kind = values.get("kind")
    config_class = CONFIG_CLASSES.get(kind) if isinstance(kind, str) else None
    if config_class is None:
        raise FormatError(f"expected kind {', '.join(CONFIG_CLASSES)}; got {reprlib.repr(kind)}")
    types = {field.name: type(field.default) for field in fields(config_class)}
    values = {name: value for name, value in LATER_VALUES.items() if name in types} | dict(values)
    if set(values) != set(types):
        raise FormatError(f"expected the keys {', '.join(types)}; got {', '.join(values)}")
    wrong = [name for name, value in values.items() if type(value) is not types[name]]
    if wrong:
        raise FormatError(f"expected {wrong[0]} as {types[wrong[0]].__name__}; got {reprlib.repr(values[wrong[0]])}")
    try:
        return config_class(**values)
    except InputError as error:
        raise FormatError(str(error)) from error


def _check_sizes(config: ModelConfig) -> None:
    for name, value in asdict(config).items():
        if type(value) is int and value < (0 if name in _MAY_BE_ZERO else 1):
            raise InputError(f"expected {name} of at least {0 if name in _MAY_BE_ZERO else 1}; got {value}")
        if type(value) is int and value > MAX_SIZES.get(name, MAX_SIZE):
            raise InputError(
                f"expected {name} of at most {MAX_SIZES.get(name, MAX_SIZE):,}; got {reprlib.repr(value)}; "
                "a damaged file could ask for any amount of memory"
            )


def _check_choices(config: ModelConfig, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise InputError(f"expected {name} to be one of {', '.join(allowed)}; got {getattr(config, name)!r}")
