"""Training settings of the published systems, and smaller versions of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from masktree.errors import InputError
from masktree.models.config import CascadeConfig, Mask2FormerConfig, ModelConfig, PromptableConfig
from masktree.train.augmentation import Augmentation
from masktree.train.optimiser import Optimisation

Kind = Literal["sohes", "unsam", "hassod", "promptable"]
Size = Literal["tiny", "small", "base"]


@dataclass(frozen=True)
class Preset:
    """Model, optimisation and augmentation of a run.

    Raises:
        InputError: model and augmentation have different image sizes.
    """

    model: ModelConfig
    optimisation: Optimisation
    augmentation: Augmentation

    def __post_init__(self) -> None:
        if self.model.image_size != self.augmentation.crop_size:
            raise InputError(
                f"expected crops of the model's image size, {self.model.image_size}; got {self.augmentation.crop_size}"
            )


# Mask2Former (arXiv 2112.01527 and its code): AdamW, weight decay 0.05, backbone x 0.1, batch 16, gradient norm of the
# whole model clipped at 0.01, learning rate x 0.1 after 0.889 and 0.963 of the steps. UnSAM's code: the same at 5e-5.
_MASK2FORMER = Optimisation(
    optimiser="adamw",
    lr=5e-5,
    backbone_lr_factor=0.1,
    weight_decay=0.05,
    steps=50_000,  # UnSAM (arXiv 2406.20081): 8 epochs, here of 100,000 images
    warmup_steps=10,
    schedule="step",
    milestones=(0.8889, 0.963),
    batch_size=16,
    clip_norm=0.01,
    ema_decay=0.9996,  # the papers keep the last weights; the decay of HASSOD's teacher (our choice)
)
_MASK2FORMER_JITTER = Augmentation(crop_size=1024, scale=(0.1, 2.0), max_masks=200)

PRESETS: Mapping[Kind, Preset] = {
    # SOHES (arXiv 2404.12386): DINO ViT-B/8 with ViT-Adapter, Mask2Former and ancestor head. The paper does not state
    # its optimisation: UnSAM's, for 8 epochs of its 200,000 images (our choice).
    "sohes": Preset(
        Mask2FormerConfig(kind="sohes", backbone="dino-vitb8", image_size=1024, num_queries=1000, max_detections=1000),
        replace(_MASK2FORMER, steps=100_000),
        _MASK2FORMER_JITTER,
    ),
    # UnSAM (arXiv 2406.20081): ResNet-50 of DINO, 2000 queries, crops of 1024, large-scale jitter of Mask2Former.
    "unsam": Preset(
        Mask2FormerConfig(
            kind="unsam", backbone="dino-resnet50", image_size=1024, num_queries=2000, max_detections=1000
        ),
        _MASK2FORMER,
        _MASK2FORMER_JITTER,
    ),
    # HASSOD (arXiv 2402.03311 and its code): SGD 0.01 constant, weight decay 5e-5, 1000 steps of warm-up, batch 16,
    # 40,000 steps, gradient of each parameter clipped at 1, short side 240 to 1024, objects pasted at 0.3 to 1 of their
    # size.
    "hassod": Preset(
        CascadeConfig(backbone="dino-resnet50", image_size=1024),
        Optimisation(
            optimiser="sgd",
            lr=0.01,
            weight_decay=5e-5,
            steps=40_000,
            warmup_steps=1000,
            schedule="constant",
            batch_size=16,
            clip_norm=1.0,
            clip_per_parameter=True,
            ema_decay=0.9996,
        ),
        Augmentation(crop_size=1024, short_side=(240, 1024), paste_prob=1.0, paste_scale=(0.3, 1.0), max_masks=200),
    ),
    # UnSAM's promptable model (arXiv 2406.20081): Semantic-SAM's training (arXiv 2307.04767) with 60 clicks per image
    # and AdamW at 1e-4. Encoder, steps, weight decay and jitter are those of the preset unsam (our choice; the paper:
    # Swin-Tiny, trained with labels), so that it can start from a run of that preset.
    "promptable": Preset(
        PromptableConfig(backbone="dino-resnet50", image_size=1024),
        replace(_MASK2FORMER, lr=1e-4),
        _MASK2FORMER_JITTER,
    ),
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
        "augmentation": {"scale": (0.5, 2.0), "short_side": None, "max_masks": 100},
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
        "augmentation": {"scale": (0.8, 1.6), "short_side": None, "max_masks": 50},
    },
}


def find_preset(
    kind: Kind,
    size: Size,
    *,
    backbone: str | None = None,
    image_size: int | None = None,
    num_queries: int | None = None,
    **optimisation: float | str | None,
) -> Preset:
    """A preset with some values replaced; None keeps a value.

    Args:
        kind: key of ``PRESETS``.
        size: base is as published.
        backbone, image_size, num_queries: of the model.
        optimisation: values of ``Optimisation``. None is rescaled: another batch size keeps learning rate and steps.

    Raises:
        InputError: unknown names, queries for a model without queries, or values out of range.
    """
    if kind not in PRESETS or size not in get_args(Size):
        raise InputError(
            f"expected a preset {', '.join(PRESETS)} of size {', '.join(get_args(Size))}; got {kind!r}, {size!r}"
        )
    preset = PRESETS[kind] if size == "base" else _resized(PRESETS[kind], _SIZE_OVERRIDES[size])
    model, augmentation = preset.model, preset.augmentation
    if backbone is not None:
        model = replace(model, backbone=backbone)
    if num_queries is not None:
        if not isinstance(model, Mask2FormerConfig):
            raise InputError(f"expected no number of queries for {kind}, which has none; got {num_queries}; omit it")
        model = replace(model, num_queries=num_queries, max_detections=min(model.max_detections, num_queries))
    if image_size is not None:
        model, augmentation = replace(model, image_size=image_size), replace(augmentation, crop_size=image_size)
    values: dict[str, Any] = {name: value for name, value in optimisation.items() if value is not None}
    return Preset(model, replace(preset.optimisation, **values), augmentation)


def _resized(preset: Preset, overrides: Mapping[str, Mapping[str, Any]]) -> Preset:
    architectures = {Mask2FormerConfig: "mask2former", CascadeConfig: "cascade", PromptableConfig: "promptable"}
    model = replace(preset.model, backbone="embedded", **overrides[architectures[type(preset.model)]])
    optimisation = replace(preset.optimisation, **overrides[preset.optimisation.optimiser])
    augmentation = replace(preset.augmentation, crop_size=model.image_size, **overrides["augmentation"])
    return Preset(model, optimisation, augmentation)
