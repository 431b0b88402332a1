"""Text for ``masktree info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from masktree.backbones.embedded import EMBEDDED_WEIGHTS, MODEL_CARD
from masktree.backbones.texture import TextureBackbone
from masktree.backbones.weights import BUILT_IN, PUBLISHED_WEIGHTS, Weights, find_weights
from masktree.errors import InputError, MasktreeError
from masktree.jobs.record import package_versions


def describe(topic: Literal["all", "backbone", "labels", "model"], name: str | None) -> str:
    """What is installed; the backbones, or one of them; a label set; a trained model."""
    if topic == "labels":
        if name is None:
            raise InputError("expected the folder of a label set: masktree info labels FOLDER")
        return _labels(Path(name))
    if topic == "model":
        if name is None:
            raise InputError("expected the folder of a trained model: masktree info model FOLDER")
        return _model(name)
    if topic == "backbone":
        return _backbones() if name is None else _backbone(name)
    return "\n\n".join([_lines(package_versions()), _devices(), _backbones()])


def rank_backbones(
    folder: Path, candidates: Sequence[str] = (), *, device: str = "auto", seed: int = 0, show_progress: bool = False
) -> tuple[str, list[str]]:
    """Backbones ranked on unlabelled photographs: the text, and a line for each backbone or photograph left out.

    Args:
        folder: photographs, searched recursively.
        candidates: names as for ``load_backbone``, ranked beside the built-in backbones and those in the cache.
        device: of the networks; ``texture`` is always computed on the CPU.

    Raises:
        InputError: no such folder, too few photographs, or no backbone left to rank.
    """
    from masktree.backbones import load_backbone
    from masktree.jobs.progress import progress_bar
    from masktree.stages import backbone_ranking as ranking

    names = list(dict.fromkeys([*ranking.available_backbones(), *candidates]))
    samples, failures = ranking.read_samples(folder, seed=seed)
    results, origins = {}, {}
    with progress_bar("rank", len(names), 0, show=show_progress, unit="backbone") as progress:
        for name in names:
            try:
                backbone = load_backbone(name, "auto" if name == "texture" else device)
                results[name] = ranking.score_backbone(backbone, samples)
                origins[name] = (backbone.device, "yes" if backbone.provenance.label_free else "not known")
            except MasktreeError as error:
                failures.append(f"{name}: {error}")
            progress.advance()
    if not results:
        raise InputError(f"expected at least one backbone to rank; got none: {'; '.join(failures)}")
    table = [("", "name", "score", "95 %", "views", "regions", "s/image", "device", "label-free")]
    for place, row in enumerate(ranking.rank_scores(list(results), list(results.values()), seed=seed), 1):
        mark = f"{place}" if place == 1 or not row.tied else f"{place} ="
        interval = f"{row.low:.3f} to {row.high:.3f}"
        numbers = (f"{row.score:.3f}", interval, f"{row.views:.3f}", f"{row.regions:.3f}", f"{row.seconds:.2f}")
        table.append((mark, row.name, *numbers, *origins[row.name]))
    return f"{_table(table)}\n\n{_explained(len(samples), folder)}", failures


def _explained(photographs: int, folder: Path) -> str:
    from masktree.stages import backbone_ranking as ranking

    correlations = [f"{name} {all_:.2f} ({better:.2f})" for name, (all_, better) in ranking.RANK_CORRELATIONS.items()]
    return "\n".join(
        (
            f"{photographs} photographs of {folder}, without labels. =: not significantly worse than the first.",
            "Score: agreement above chance of the regions of the features with those of another view (views) and with",
            "those of the boundary cues (regions); mean of both. s/image: features of one photograph.",
            f"Reliability: rank correlation with scores against human annotations over {ranking.NUM_EXTRACTORS}",
            "feature extractors (without the five worst):",
            *(f"  {line}" for line in correlations),
            f"{ranking.CORRECT_PAIRS} of {ranking.SEPARATED_PAIRS} pairs of extractors that it separates have the",
            "same order by covering ODS. No published network was among them. The part regions cannot reward a network",
            "for being better than the boundary cues.",
        )
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _backbone(name: str) -> str:
    lines = _lines(asdict(_record(name)))
    return f"{lines}\n\n{MODEL_CARD.read_text(encoding='utf-8').rstrip()}" if name == "embedded" else lines


def _record(name: str) -> Weights:
    return {"embedded": EMBEDDED_WEIGHTS, "texture": TextureBackbone.provenance}.get(name) or find_weights(name)


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"devices: cpu, cuda ({names})"
    return "devices: cpu" + (", mps" if torch.backends.mps.is_available() else "")


def _backbones() -> str:
    rows = [("name", "patch", "dim", "licence", "source")]
    for name in [*BUILT_IN, *PUBLISHED_WEIGHTS]:
        weights = _record(name)
        licence = weights.licence.partition(" (")[0]
        rows.append((name, str(weights.patch), str(weights.dim), licence, weights.source))
    return "backbones (default: embedded)\n" + _table(rows)


def _labels(folder: Path) -> str:
    from masktree.labels import LabelSet

    index = LabelSet.open(folder).index
    config = {key: value for key, value in index["config"].items() if value not in (None, {})}
    return "\n\n".join([_lines(index["summary"]), "configuration\n" + _lines(config)])


def _model(name: str) -> str:
    """What the folder says: who it is, what it was trained on, and how it is built."""
    from masktree.models import saved

    folder = saved.find_model(name)
    header = saved.read_header(folder)
    origin = asdict(saved.provenance(folder, name))
    weights = {
        "parameters": f"{saved.count_parameters(folder):,}",
        "bytes": f"{saved.weight_file(folder).stat().st_size:,}",
    }
    training = {key: value for key, value in header.items() if key not in ("format", "version", "model")}
    parts = [_lines(origin | weights), "model\n" + _lines(header["model"])]
    return "\n\n".join([*parts, "training\n" + _lines(_flat(training))] if training else parts)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names; what has no value is left out."""
    lines: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            lines |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            lines[prefix + key] = value
    return lines


def _lines(values: dict[str, Any]) -> str:
    width = max(len(key) for key in values)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in values.items())
