"""Registry of published self-supervised weights; only weights that were trained without any human label."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from masktree.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Origin, licence and properties of a backbone's weights.

    Attributes:
        name: stable short name.
        source: repository on the Hugging Face hub, https address of a file, local path, or a phrase for what is part of
            the package.
        licence: SPDX identifier, or a sentence where there is none.
        patch: pixels per feature cell.
        dim: channels of the feature grid.
        mean, std: RGB normalisation, for values in [0, 1].
        url: page that states licence and origin; "" if there is none.
        trained_on: training images.
        label_free: True if no human label was used at any stage, False if one was, None if that is unknown.
        architecture: timm's name of the network; "" where timm is not used.
        sha256: of the weight file, lower-case hexadecimal. In ``PUBLISHED_WEIGHTS`` None means that no hash is pinned;
            the record of a loaded network always has the hash of its file.
        revision: commit of the repository on the hub that a downloaded file is from; else None.
    """

    name: str
    source: str
    licence: str
    patch: int
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    url: str
    trained_on: str
    label_free: bool | None
    architecture: str = ""
    sha256: str | None = None
    revision: str | None = None

    def of_local_file(self, path: str, sha256: str) -> Weights:
        """The record of a file that claims to be of this network: what is not known of it is said to be unknown."""
        return replace(
            self,
            name=f"{self.name}@{Path(path).name}",
            source=path,
            licence=UNKNOWN,
            url="",
            trained_on=UNKNOWN,
            label_free=None,
            sha256=sha256,
            revision=None,
        )


def _published(name: str, source: str, patch: int, dim: int, family: dict[str, str], architecture: str = "") -> Weights:
    return Weights(
        name=name,
        source=source,
        licence=family["licence"],
        patch=patch,
        dim=dim,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        url=family["url"],
        trained_on=family["trained_on"],
        label_free=True,
        architecture=architecture or source.removeprefix("timm/").split(".")[0],
    )


# DINO: Caron et al., ICCV 2021, arXiv 2104.14294.
_DINO = {
    "licence": "Apache-2.0",
    "url": "https://github.com/facebookresearch/dino",
    "trained_on": "ImageNet-1k training images (1.28 M) without their labels",
}
# DINOv2: Oquab et al., TMLR 2024, arXiv 2304.07193; registers: Darcet et al., ICLR 2024, arXiv 2309.16588.
_DINOV2 = {
    "licence": "Apache-2.0",
    "url": "https://github.com/facebookresearch/dinov2/blob/main/LICENSE",
    "trained_on": "LVD-142M: web images picked by self-supervised similarity to the images (not the labels) "
    "of curated data sets; distilled from a ViT-g/14 trained in the same way",
}
# DINOv3: Siméoni et al., 2025, arXiv 2508.10104.
_DINOV3 = {
    "licence": "DINOv3 License (not open source: Meta's own terms, which restrict use and bind copies; read "
    "and accept them before use)",
    "url": "https://github.com/facebookresearch/dinov3/blob/main/LICENSE.md",
    "trained_on": "LVD-1689M: web images selected by self-supervised clustering and retrieval, no labels; "
    "distilled from a ViT-7B trained in the same way",
}

# timm hosts DINO's ViTs, DINOv2 and DINOv3 on the hub in its own layout (DINOv3 under Meta's licence), but not DINO's
# ResNet-50, which comes from the authors' server.
PUBLISHED_WEIGHTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        _published("dino-vits8", "timm/vit_small_patch8_224.dino", 8, 384, _DINO),
        _published("dino-vits16", "timm/vit_small_patch16_224.dino", 16, 384, _DINO),
        _published("dino-vitb8", "timm/vit_base_patch8_224.dino", 8, 768, _DINO),
        _published("dino-vitb16", "timm/vit_base_patch16_224.dino", 16, 768, _DINO),
        _published(
            "dino-resnet50",
            "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
            16,
            1024,
            _DINO,
            architecture="resnet50",
        ),
        _published("dinov2-vits14", "timm/vit_small_patch14_dinov2.lvd142m", 14, 384, _DINOV2),
        _published("dinov2-vits14-reg", "timm/vit_small_patch14_reg4_dinov2.lvd142m", 14, 384, _DINOV2),
        _published("dinov2-vitb14", "timm/vit_base_patch14_dinov2.lvd142m", 14, 768, _DINOV2),
        _published("dinov2-vitb14-reg", "timm/vit_base_patch14_reg4_dinov2.lvd142m", 14, 768, _DINOV2),
        _published("dinov3-vits16", "timm/vit_small_patch16_dinov3.lvd1689m", 16, 384, _DINOV3),
        _published("dinov3-vits16plus", "timm/vit_small_plus_patch16_dinov3.lvd1689m", 16, 384, _DINOV3),
        _published("dinov3-vitb16", "timm/vit_base_patch16_dinov3.lvd1689m", 16, 768, _DINOV3),
    )
}
BUILT_IN = ("embedded", "texture")


def find_weights(name: str) -> Weights:
    """Record of a published network by name.

    Raises:
        WeightsError: unknown name; the message has the closest ones and the full list.
    """
    if name in PUBLISHED_WEIGHTS:
        return PUBLISHED_WEIGHTS[name]
    names = [*BUILT_IN, *PUBLISHED_WEIGHTS]
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(close)}? " if close else ""
    raise WeightsError(
        f"expected the name of a backbone ({', '.join(names)}), a local file as NAME@PATH, or a folder with "
        f"config.json and model.safetensors; got {name!r}; {suggestion}give one of these"
    )
