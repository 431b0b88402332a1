"""Segmenters by name."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from masktree.arguments import check_path, check_type
from masktree.backbones import load_backbone
from masktree.backbones.device import resolve_device
from masktree.discover.methods import Quality
from masktree.errors import InputError
from masktree.models import saved
from masktree.models.config import MAX_SIZES, Mask2FormerConfig, MaskScore, ModelConfig, PromptableConfig
from masktree.predict.detector import ModelDetector
from masktree.predict.discovery import DiscoverySegmenter
from masktree.predict.model import ModelSegmenter
from masktree.trees.masktree import MAX_MASKS


def load(
    model: str | Path = "embedded",
    *,
    device: str = "auto",
    dtype: str = "float32",
    method: str | None = None,
    quality: Quality | None = None,
    positions: Literal["timm", "dino"] = "timm",
    min_area: int | None = None,
    min_score: float = 0.0,
    max_masks: int | None = MAX_MASKS,
    **options: Any,
) -> DiscoverySegmenter | ModelSegmenter:
    """Load a segmenter: a discovery method on a backbone, or a trained model.

    Args:
        model: a backbone: ``embedded`` (works offline), ``texture``, a published one such as ``dino-vitb8``, or a local
            file or folder, see ``masktree info backbone``. Or a trained model: the folder of a run of ``masktree
            train``, or ``owner/name`` on the Hugging Face hub. A folder's ``config.json`` says which of the two it is.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: precision of the network: float32, bfloat16 or, on GPUs, float16.
        method, quality: see ``DiscoverySegmenter``; default masktree and fast. Not for a trained model.
        positions: how a ViT's position embeddings are resized, see ``load_backbone``. Not for a trained model.
        min_area, min_score, max_masks, options: see ``DiscoverySegmenter``. The ``detector`` of the method unsam may be
            the folder of a trained model, with a ``detector_score``, the lowest score of its masks (.3). Options of a
            trained model: ``crops``, see ``ModelSegmenter``, ``snap``: whether to snap its masks to the regions of the
            default method, ``pool`` and ``regroup``, see ``ModelSegmenter``, and ``calibrated``, ``score``,
            ``image_size`` and ``short_side``, see ``load_model``.

    Raises:
        WeightsError: unknown name, or weights that cannot be loaded; other weights are never used instead.
        FormatError: the folder of a trained model is damaged or holds something else.
        InputError: unknown method, quality or option, or a value out of range.
    """
    if not isinstance(model, (str, Path)):
        raise InputError(
            f"expected the name of a backbone, a file or a folder as text; got {model!r}; see masktree info"
        )
    for name, value in (("method", method), ("quality", quality)):
        if value is not None:
            check_type(value, str, name)
    model = str(model)
    if saved.is_model(Path(model).expanduser()) or saved.is_hub_id(model):
        given = {name: value for name, value in (("method", method), ("quality", quality)) if value is not None}
        given |= {} if positions == "timm" else {"positions": positions}
        if given:
            raise InputError(
                f"expected a trained model without {' and '.join(given)}; got {model!r} with "
                f"{', '.join(map(repr, given.values()))}; leave these out, or give a backbone"
            )
        limits: dict[str, Any] = {"min_area": min_area, "min_score": min_score, "max_masks": max_masks}
        return load_model(model, device=device, dtype=dtype, **limits, **options)
    if isinstance(options.get("detector"), (str, Path)):
        options["detector"] = _load_detector(options["detector"], device, dtype, options.pop("detector_score", 0.3))
    return DiscoverySegmenter(
        load_backbone(model, device, dtype, positions=positions),
        method or "masktree",
        quality or "fast",
        min_area,
        min_score,
        max_masks,
        options,
    )


def _load_detector(model: str | Path, device: str, dtype: str, min_score: float) -> ModelDetector:
    """The masks of a model whose own score is at least ``min_score`` (UnSAM: .3 in its paper, .1 in its code)."""
    return ModelDetector(load_model(model, device=device, dtype=dtype, calibrated=False), min_score)


def load_model(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    min_area: int | None = None,
    min_score: float = 0.0,
    max_masks: int | None = MAX_MASKS,
    crops: bool = False,
    snap: bool = False,
    pool: bool = False,
    regroup: bool = False,
    calibrated: bool = True,
    score: MaskScore | None = None,
    image_size: int | None = None,
    short_side: int | None = None,
    **options: Any,
) -> ModelSegmenter:
    """Load a trained model: the folder of a run, or ``owner/name`` on the hub; arguments as of ``load``.

    ``calibrated``: whether scores are the agreement to expect, if the model has been calibrated, or those of the model.
    ``score``: which scores a model of queries has, see ``masktree.models.config``; None for those of its training.
    Others are not calibrated. ``image_size``, ``short_side``: of the network's input in pixels, see ``size_at_test``;
    None for those of the model, at which its scores were calibrated.

    Raises:
        WeightsError: no such model, or weights that are damaged or of another architecture.
        FormatError: ``config.json`` is damaged or not that of a model.
        InputError: unknown option, or a value out of range.
    """
    check_path(model)
    from masktree.models.build import read_model  # imports torch's networks, which discovery methods do without

    if options:
        raise InputError(
            "expected options of a trained model: min_area, min_score, max_masks, crops, snap, pool, regroup, "
            f"calibrated, score, image_size, short_side; got {', '.join(options)}"
        )
    torch_device = resolve_device(device)  # first, so that a wrong device does not cost a download
    folder = saved.find_model(model)
    snap_backbone = load_backbone("embedded", str(torch_device)) if snap or pool else None
    network, origin = read_model(folder, torch_device), saved.provenance(folder, str(model))
    if score is not None:
        if not isinstance(network.config, Mask2FormerConfig):
            raise InputError(f"expected a score with a model of sohes or unsam; got {network.config.kind}; omit it")
        calibrated = calibrated and score == network.config.score
        network.config = replace(network.config, score=score)
    if image_size is not None or short_side is not None:
        network.config = size_at_test(network.config, image_size, short_side)
    calibration = saved.read_calibration(folder) if calibrated else None
    return ModelSegmenter(
        network, origin, dtype, min_area, min_score, max_masks, crops, snap_backbone, calibration, pool, regroup
    )


def size_at_test(config: ModelConfig, image_size: int | None, short_side: int | None) -> ModelConfig:
    """The configuration with another size of the network's input.

    Args:
        config: of a model.
        image_size: longer side in pixels; None for that of the model.
        short_side: shorter side in pixels, as long as the longer one is at most ``image_size``. None: without an
            ``image_size`` that of the model; with one the longer side is ``image_size``, whatever the shorter one is.

    Raises:
        InputError: a side that is no whole number in range, a shorter side above the longer one, or one of a promptable
            model.
    """
    for name, value in (("image_size", image_size), ("short_side", short_side)):
        if value is not None:
            check_type(value, Integral, name)
            if not 1 <= value <= MAX_SIZES[name]:
                raise InputError(f"expected {name} from 1 to {MAX_SIZES[name]} pixels; got {value}")
    longer = config.image_size if image_size is None else int(image_size)
    shorter = short_side
    if shorter is None:
        shorter = config.short_side if image_size is None else 0
    if shorter > longer:
        raise InputError(
            f"expected a short_side of at most the longer side, {longer} pixels; got {shorter}; give image_size as well"
        )
    if isinstance(config, PromptableConfig):
        if short_side is not None:
            raise InputError("expected image_size alone with a promptable model; got short_side; leave it out")
        return replace(config, image_size=longer)
    return replace(config, image_size=longer, short_side=int(shorter))
