"""Training settings of the published systems, and smaller versions of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from masktree.errors import InputError
from masktree.models.config import MIN_AREA, CascadeConfig, Mask2FormerConfig, ModelConfig, PromptableConfig
from masktree.models.pyramid.base import SIZE_DIVISOR
from masktree.train.augmentation import Augmentation
from masktree.train.optimiser import Optimisation
from masktree.train.settings_file import Settings, with_settings

Kind = Literal["sohes", "unsam", "hassod", "cutler", "promptable"]
Size = Literal["tiny", "small", "base"]


@dataclass(frozen=True)
class Preset:
    """Model, optimisation and augmentation of a run.

    Raises:
        InputError: crops larger than the model's images.
    """

    model: ModelConfig
    optimisation: Optimisation
    augmentation: Augmentation

    def __post_init__(self) -> None:
        largest = -(-self.model.image_size // SIZE_DIVISOR) * SIZE_DIVISOR
        if self.augmentation.crop_size > largest:
            raise InputError(
                f"expected crops of at most the model's image size, {self.model.image_size}; got "
                f"{self.augmentation.crop_size}"
            )


# Mask2Former (arXiv 2112.01527 and its code): AdamW, weight decay 0.05, backbone x 0.1, batch 16, gradient norm of the
# whole model clipped at 0.01, learning rate x 0.1 after 0.889 and 0.963 of the steps, no warm-up. UnSAM's code: the
# same at 5e-5. The last weights are kept.
_MASK2FORMER = Optimisation(
    optimiser="adamw",
    lr=5e-5,
    backbone_lr_factor=0.1,
    weight_decay=0.05,
    decay_biases=True,
    steps=50_000,  # UnSAM (arXiv 2406.20081): 8 epochs, here of 100,000 images
    schedule="step",
    milestones=(0.8889, 0.963),
    batch_size=16,
    clip_norm=0.01,
    ema_decay=0.9996,  # (HASSOD's teacher; of pictures and of self-training alone)
    result="last",
)
_MASK2FORMER_JITTER = Augmentation(crop_size=1024, scale=(0.1, 2.0), max_masks=500)  # (500: UnSAM's code)
_UNSAM = Mask2FormerConfig(
    kind="unsam",
    backbone="dino-resnet50",
    image_size=2048,
    short_side=1024,
    min_area=1,
    decoder_feedforward_dim=2048,
    num_queries=2000,
    max_detections=1000,
    score="published",
)
# The released detector of HASSOD (arXiv 2402.03311), CutLER's (arXiv 2301.11320) but for the level head and the share
# of positives: SGD 0.01, weight decay 5e-5, 1000 steps of warm-up, batch 16, gradient of each parameter clipped at 1.
_CASCADE = CascadeConfig(
    backbone="dino-resnet50",
    image_size=1333,
    short_side=800,
    min_area=1,
    norm="batch",
    roi_sampling="adaptive",
    roi_mean="batch",
)
_CASCADE_OPTIMISATION = Optimisation(
    optimiser="sgd",
    lr=0.01,
    weight_decay=5e-5,
    decay_biases=True,
    steps=40_000,
    warmup_steps=1000,
    schedule="constant",
    batch_size=16,
    clip_norm=1.0,
    clip_per_parameter=True,
    ema_decay=0.9996,
    result="last",
)
_CASCADE_AUGMENTATION = Augmentation(
    crop_size=1344,  # nothing is cut off
    padding="batch",
    short_sides=(240, 320, 480, 640, 672, 704, 736, 768, 800, 1024),
    max_side=1333,
    paste_prob=1.0,
    paste_scale=(0.3, 1.0),
    paste_rule="released",
    max_masks=1000,  # the released code has no limit
    min_area=1,
)

PRESETS: Mapping[Kind, Preset] = {
    # SOHES (arXiv 2404.12386): DINO ViT-B/8 with ViT-Adapter, Mask2Former and ancestor head. The paper does not state
    # its optimisation: UnSAM's, for 8 epochs of its 200,000 images (our choice).
    "sohes": Preset(
        replace(_UNSAM, kind="sohes", backbone="dino-vitb8", num_queries=1000),
        replace(_MASK2FORMER, steps=100_000),
        _MASK2FORMER_JITTER,
    ),
    # UnSAM (arXiv 2406.20081): ResNet-50 of DINO, 2000 queries, crops of 1024, large-scale jitter of Mask2Former.
    "unsam": Preset(_UNSAM, _MASK2FORMER, _MASK2FORMER_JITTER),
    "hassod": Preset(_CASCADE, _CASCADE_OPTIMISATION, _CASCADE_AUGMENTATION),
    # The first round; labels of the method maskcut. The code lowers the rate to 0.02 of it after half of the steps.
    "cutler": Preset(
        replace(_CASCADE, roi_positive_fraction=0.25, max_detections=100),
        replace(_CASCADE_OPTIMISATION, steps=160_000, schedule="step", milestones=(0.5,), gamma=0.02),
        _CASCADE_AUGMENTATION,
    ),
    # UnSAM's promptable model (arXiv 2406.20081): Semantic-SAM's training (arXiv 2307.04767) with 60 clicks per image
    # and AdamW at 1e-4, nine decoder layers, boxes. Encoder, steps, weight decay and jitter are those of the preset
    # unsam, so that it can start from a run of that preset (our choice; the code: Swin-Tiny of MoBY).
    "promptable": Preset(
        PromptableConfig(
            backbone="dino-resnet50",
            image_size=1024,
            min_area=1,
            decoder_feedforward_dim=2048,
            prompt_decoder_layers=9,
            box_losses=True,
        ),
        replace(_MASK2FORMER, lr=1e-4),
        _MASK2FORMER_JITTER,
    ),
}

# What the smaller sizes have in common (our choice): the whole image at one size, batch norms and losses that do not
# depend on how a batch is spread, and scores and pasted objects of our own.
_OURS: Mapping[str, Mapping[str, Any]] = {
    "mask2former": {"short_side": 0, "min_area": MIN_AREA, "decoder_feedforward_dim": 0, "score": "expected_iou"},
    "cascade": {
        "short_side": 0,
        "min_area": MIN_AREA,
        "norm": "frozen",
        "roi_sampling": "fixed",
        "roi_mean": "image",
    },
    "promptable": {
        "min_area": MIN_AREA,
        "decoder_feedforward_dim": 0,
        "prompt_decoder_layers": 2,
        "box_losses": False,
    },
    "optimisation": {"decay_biases": False, "result": "average"},
    "augmentation": {"padding": "crop", "short_sides": (), "max_side": 0, "paste_rule": "objects", "min_area": 16},
}
# Overrides of the smaller sizes, by architecture and optimiser (our choice). small: hours on one GPU, a day or two on a
# CPU with many cores. tiny: minutes on two cores. Both start from the embedded backbone, which needs no download.
_SIZE_OVERRIDES: Mapping[Literal["tiny", "small"], Mapping[str, Mapping[str, Any]]] = {
    "small": {
        "mask2former": {
            "image_size": 512,
            "hidden_dim": 128,
            "feedforward_dim": 512,
            "pixel_decoder_layers": 3,
            "decoder_layers": 6,
            "num_queries": 300,
            "max_detections": 300,
        },
        "promptable": {
            "image_size": 512,
            "hidden_dim": 128,
            "feedforward_dim": 512,
            "pixel_decoder_layers": 3,
            "prompts_per_image": 30,
            "max_detections": 300,
        },
        "cascade": {
            "image_size": 512,
            "hidden_dim": 128,
            "box_head_dim": 512,
            "train_proposals": 2000,
            "test_proposals": 600,
            "roi_batch_size": 256,
            "max_detections": 300,
        },
        "adamw": {
            "lr": 2e-4,
            "backbone_lr_factor": 0.3,
            "steps": 20_000,
            "warmup_steps": 200,
            "batch_size": 8,
            "ema_decay": 0.999,
        },
        "sgd": {"lr": 0.01, "steps": 20_000, "warmup_steps": 500, "batch_size": 8, "ema_decay": 0.999},
        "augmentation": {"scale": (0.5, 2.0), "max_masks": 100},
    },
    "tiny": {
        "mask2former": {
            "image_size": 192,
            "hidden_dim": 64,
            "num_heads": 4,
            "feedforward_dim": 128,
            "pixel_decoder_layers": 1,
            "decoder_layers": 3,
            "num_queries": 200,
            "max_detections": 200,
        },
        "promptable": {
            "image_size": 192,
            "hidden_dim": 64,  # as wide as the other kinds, so that it can start from a run of theirs
            "num_heads": 4,
            "feedforward_dim": 128,
            "pixel_decoder_layers": 1,
            "embedding_stride": 16,  # 8 doubles the time per step for the same result per time
            "prompts_per_image": 12,
            "points_per_side": 16,
            "max_detections": 100,
        },
        "cascade": {
            "image_size": 256,
            "hidden_dim": 64,
            "box_head_dim": 128,
            "mask_head_layers": 2,
            "train_proposals": 500,
            "test_proposals": 300,
            "roi_batch_size": 64,
            "max_detections": 100,
        },
        # Chosen by average recall on the labels of held-out photographs (docs/log.md). A frozen backbone gains more per
        # training time than any other change. Learning rates 5e-4, 1e-3, 2e-3: recall .16, .19, .18 after 300 steps.
        # Clipping at norm 1 makes no difference.
        "adamw": {
            "lr": 1e-3,
            "backbone_lr_factor": 0.0,
            "steps": 1000,
            "warmup_steps": 50,
            "schedule": "cosine",
            "milestones": (),
            "batch_size": 4,
            "ema_decay": 0.998,
        },
        "sgd": {"lr": 0.01, "steps": 1000, "warmup_steps": 100, "batch_size": 4, "ema_decay": 0.99},
        "augmentation": {"scale": (0.8, 1.6), "max_masks": 50},
    },
}


def find_preset(
    kind: Kind,
    size: Size,
    *,
    backbone: str | None = None,
    image_size: int | None = None,
    num_queries: int | None = None,
    settings: Settings | None = None,
    **optimisation: float | str | None,
) -> Preset:
    """A preset with some values replaced; None keeps a value.

    Args:
        kind: key of ``PRESETS``.
        size: base is as published.
        backbone, image_size, num_queries: of the model. With an image size, crops and the longer side of all images
            have it.
        settings: values of a file, see ``masktree.train.settings_file``, which the others override.
        optimisation: values of ``Optimisation``. None is rescaled: another batch size keeps learning rate and steps.

    Raises:
        InputError: unknown names, queries for a model without queries, or values out of range.
    """
    if kind not in PRESETS or size not in get_args(Size):
        raise InputError(
            f"expected a preset {', '.join(PRESETS)} of size {', '.join(get_args(Size))}; got {kind!r}, {size!r}"
        )
    preset = PRESETS[kind] if size == "base" else _resized(PRESETS[kind], _SIZE_OVERRIDES[size])
    preset = preset if settings is None else with_settings(preset, settings)
    model, augmentation = preset.model, preset.augmentation
    if backbone is not None:
        model = replace(model, backbone=backbone)
    if num_queries is not None:
        if not isinstance(model, Mask2FormerConfig):
            raise InputError(f"expected no number of queries for {kind}, which has none; got {num_queries}; omit it")
        model = replace(model, num_queries=num_queries, max_detections=min(model.max_detections, num_queries))
    if image_size is not None:
        one_size: dict[str, Any] = {} if isinstance(model, PromptableConfig) else {"short_side": 0}
        model = replace(model, image_size=image_size, **one_size)
        augmentation = replace(augmentation, crop_size=image_size)
    values: dict[str, Any] = {name: value for name, value in optimisation.items() if value is not None}
    return Preset(model, replace(preset.optimisation, **values), augmentation)


def _resized(preset: Preset, overrides: Mapping[str, Mapping[str, Any]]) -> Preset:
    architectures = {Mask2FormerConfig: "mask2former", CascadeConfig: "cascade", PromptableConfig: "promptable"}
    architecture = architectures[type(preset.model)]
    model = replace(preset.model, backbone="embedded", **{**_OURS.get(architecture, {}), **overrides[architecture]})
    values = {**_OURS["optimisation"], **overrides[preset.optimisation.optimiser]}
    optimisation = replace(preset.optimisation, **values)
    values = {**_OURS["augmentation"], **overrides["augmentation"]}
    augmentation = replace(preset.augmentation, crop_size=model.image_size, **values)
    return Preset(model, optimisation, augmentation)
