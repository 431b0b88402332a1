"""Published self-supervised weights: a typed record of each, and reading them from cache, network or disk.

Only weights that were trained without any human label are listed. Nothing here imports torch until a file is
read.
"""

from __future__ import annotations

import difflib
import socket
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktree.errors import WeightsError

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a backbone's weights come from and what they may be used for.

    Attributes
    ----------
    name: stable short name.
    source: repository on the Hugging Face hub, https address of a file, local path, or a word for what is
        part of the package.
    licence: SPDX identifier, or a sentence where there is none.
    patch: pixels per feature cell.
    dim: channels of the network's feature grid.
    mean, std: RGB normalisation, for values in [0, 1].
    url: page that states licence and origin.
    trained_on: the images that the weights were trained on.
    label_free: True if no human label was used anywhere in their making; False if one was, or if not known.
    architecture: timm's name for the network; "" where timm is not used.
    sha256: of the weight file, lower-case hexadecimal. In the list below None means that no hash is pinned; a
        loaded network's record always has the hash of the file that was read.
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
    label_free: bool
    architecture: str = ""
    sha256: str | None = None


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

# timm hosts DINO's ViTs, DINOv2 and DINOv3 on the hub in its own layout (DINOv3 there under the same licence
# as at Meta). It does not host DINO's ResNet-50: that one is read from the authors' own server.
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
    """Record of a listed name.

    Raises
    ------
    WeightsError: unknown name; the message has the closest ones and the full list.
    """
    if name in PUBLISHED_WEIGHTS:
        return PUBLISHED_WEIGHTS[name]
    names = [*BUILT_IN, *PUBLISHED_WEIGHTS]
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise WeightsError(
        f"expected the name of a backbone ({', '.join(names)}), a local file as NAME@PATH, or a folder with "
        f"config.json and model.safetensors; got {name!r}; {meant}give one of these"
    )


def fetch(weights: Weights) -> Path:
    """Local path of a listed weight file: from the cache without asking the network, else downloaded once.

    Hub files lie in the Hugging Face cache (``HF_HOME``), files from an https address in torch's
    (``TORCH_HOME``). ``HF_HUB_OFFLINE=1`` forbids downloads of both kinds.

    Raises
    ------
    WeightsError: not cached and not downloadable.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if (path := cached(weights)) is not None:
        return path
    if constants.HF_HUB_OFFLINE:
        raise _unavailable(weights, "no cached file while HF_HUB_OFFLINE is set")
    if weights.source.startswith("https://"):
        return _fetch_url(weights)
    _require_host(weights, constants.ENDPOINT)
    try:
        return Path(huggingface_hub.hf_hub_download(weights.source, "model.safetensors"))
    except Exception as error:  # the hub's client lets its HTTP library's many error types through
        raise _unavailable(weights, f"{type(error).__name__}: {_first_line(error)}") from error


def cached(weights: Weights) -> Path | None:
    """Local path of a listed weight file that was downloaded before, None where it was not. Asks no network."""
    import huggingface_hub

    if weights.source.startswith("https://"):
        path = _url_path(weights)
        return path if path.is_file() else None
    try:
        return Path(huggingface_hub.hf_hub_download(weights.source, "model.safetensors", local_files_only=True))
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return None


def _url_path(weights: Weights) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / weights.source.rsplit("/", 1)[-1]


def _fetch_url(weights: Weights) -> Path:
    import torch

    path = _url_path(weights)
    _require_host(weights, weights.source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.source, str(path), progress=sys.stderr.isatty())
    except OSError as error:  # urllib's errors are OSErrors; a broken download leaves no file behind
        raise _unavailable(weights, f"{type(error).__name__}: {_first_line(error)}") from error
    return path


def _require_host(weights: Weights, url: str) -> None:
    """Fail at once where the host's name cannot be resolved: the hub's client would retry for half a minute first.

    Behind a proxy names are resolved elsewhere, so nothing is asked here.
    """
    host = urllib.parse.urlsplit(url).hostname
    if host is None or urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise _unavailable(weights, f"no network: the name {host} cannot be resolved") from error


def _unavailable(weights: Weights, reason: str) -> WeightsError:
    cache = "TORCH_HOME" if weights.source.startswith("https://") else "HF_HOME"
    return WeightsError(
        f"expected the weights of {weights.name!r} ({weights.source}) in the local cache or on the network; "
        f"got {reason}; ways out: connect once without HF_HUB_OFFLINE (they stay cached), or set {cache} to "
        f"a cache that holds them, or give a local file as '{weights.name}@/path/to/file.safetensors' (or "
        ".pth), or use the backbone 'embedded', which needs no download"
    )


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a weight file by name, without running any code that the file may hold.

    ``.safetensors``, or ``.pth`` / ``.pt`` with nothing but tensors, plain containers and
    ``argparse.Namespace`` (which DINO's full checkpoints carry). A checkpoint's network is found under
    ``teacher``, ``state_dict`` or ``model`` (the teacher first, as the authors of DINO evaluate it); the
    prefixes ``module.``, ``teacher.`` and ``backbone.`` are removed, and where one is found, what lies
    outside it (projection heads) is left out.

    Raises
    ------
    WeightsError: no such file, another file type, damaged, or holding other Python objects or no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"expected a weight file; got {str(path)!r}, which is not a file; check the path")
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"expected a weight file ending in {', '.join(SUFFIXES)}; got {path.name!r}; convert or rename it"
        )
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except Exception as error:  # damaged files raise nearly anything: RuntimeError, EOFError, KeyError ...
        raise WeightsError(
            f"expected tensors in a {path.suffix} file; got {str(path)!r}, which is damaged, of another "
            "type, or holds Python objects that could run code and are refused "
            f"({type(error).__name__}); download the file again, or save its state dict alone as .safetensors"
        ) from error
    return _without_prefixes(_network_part(content, path))


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    import argparse

    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _network_part(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    while isinstance(content, dict):
        inner = [content[k] for k in ("teacher", "state_dict", "model") if isinstance(content.get(k), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"expected a state dict (tensor by name); got {type(content).__name__} in {str(path)!r}; "
            "save the network's state_dict() alone"
        )
    foreign = [str(k) for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if foreign:
        raise WeightsError(
            f"expected only tensors in the state dict; got {len(foreign)} other values in {str(path)!r}, "
            f"first {foreign[:3]}; save the network's state_dict() alone"
        )
    return content


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in ("module.", "teacher.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
