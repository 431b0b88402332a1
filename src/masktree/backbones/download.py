"""Weight files of published networks, in the local caches or downloaded."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from masktree.backbones.weights import PUBLISHED_WEIGHTS, Weights
from masktree.errors import WeightsError
from masktree.io.download import DownloadError, from_cache_or_network
from masktree.io.files import sha256_of


def download_weights(weights: Weights) -> Path:
    """Local path of a published weight file: from the cache without asking the network, else downloaded once.

    Files of the hub lie in the Hugging Face cache (``HF_HOME``), files from an https address in torch's
    (``TORCH_HOME``). ``HF_HUB_OFFLINE=1`` forbids downloads of both kinds.

    Raises:
        WeightsError: not cached and not downloadable.
    """
    from huggingface_hub import constants

    is_url = weights.source.startswith("https://")
    try:
        return from_cache_or_network(
            lambda: cached_weights(weights),
            lambda: _download_url(weights.source) if is_url else _hub_file(weights.source),
            weights.source if is_url else constants.ENDPOINT,
            f"the weights of {weights.name}",
        )
    except DownloadError as error:
        raise WeightsError(
            f"expected the weights of {weights.name!r} ({weights.source}) in the local cache or on the network; got "
            f"{error}; ways out: connect once without HF_HUB_OFFLINE (they stay cached), or set "
            f"{'TORCH_HOME' if is_url else 'HF_HOME'} to a cache that holds them, or give a local file as "
            f"'{weights.name}@/path/to/file.safetensors' (or .pth), or use the backbone 'embedded', which needs no "
            "download"
        ) from error


def cached_weights(weights: Weights) -> Path | None:
    """Local path of a published weight file that was downloaded before, else None. Does not use the network."""
    if weights.source.startswith("https://"):
        path = _url_path(weights.source)
        return path if path.is_file() else None
    try:
        return _hub_file(weights.source, local_files_only=True)
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return None


def recognise_weights(path: Path, sha256: str, architecture: str) -> Weights | None:
    """Record of the published file that a local one is a copy of, by its hash; None if it is none that is known.

    Compared are the pinned hashes, and the files that were downloaded by name before.

    Args:
        path: the local file.
        sha256: its hash.
        architecture: timm's name of its network.
    """
    for weights in PUBLISHED_WEIGHTS.values():
        if weights.architecture != architecture:
            continue
        if weights.sha256 == sha256:
            return weights
        cached = cached_weights(weights)
        if cached is not None and cached.stat().st_size == path.stat().st_size and sha256_of(cached) == sha256:
            return replace(weights, sha256=sha256, revision=hub_revision(cached))
    return None


def hub_revision(path: Path) -> str | None:
    """Commit of the hub's repository that a file in the hub's cache is from; None of other files."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def _hub_file(repository: str, *, local_files_only: bool = False) -> Path:
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors", local_files_only=local_files_only))


def _url_path(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _download_url(url: str) -> Path:
    import torch

    path = _url_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())  # a broken download leaves no file
    return path
