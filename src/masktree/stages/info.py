"""Text of ``masktree info``."""

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


def describe(topic: Literal["all", "backbone", "preset", "labels", "model"], name: str | None) -> str:
    """Describe the installation, the backbones or one of them, a label set, or a trained model."""
    if topic == "labels":
        if name is None:
            raise InputError("expected the folder of a label set; got none; write masktree info labels FOLDER")
        return _describe_labels(Path(name))
    if topic == "model":
        if name is None:
            raise InputError("expected the folder of a trained model; got none; write masktree info model FOLDER")
        return _describe_model(name)
    if topic == "preset":
        return _describe_preset(name)
    if topic == "backbone":
        return _list_backbones() if name is None else _describe_backbone(name)
    return "\n\n".join([_format_pairs(package_versions()), _list_devices(), _list_backbones()])


def _describe_preset(name: str | None) -> str:
    """The values of a preset, PRESET or PRESET-SIZE, as a settings file."""
    from masktree.train.presets import PRESETS, find_preset
    from masktree.train.settings_file import format_settings

    if name is None:
        raise InputError(f"expected a preset ({', '.join(PRESETS)}); got none; write masktree info preset hassod-base")
    kind, _, size = name.partition("-")
    preset = find_preset(kind, size or "small")  # type: ignore[arg-type]  # which names what is wrong
    return f"# masktree train --preset {kind} --size {size or 'small'}\n{format_settings(preset)}"


def rank_backbones(
    folder: Path, candidates: Sequence[str] = (), *, device: str = "auto", seed: int = 0, show_progress: bool = False
) -> tuple[str, list[str]]:
    """Rank backbones on unlabelled photographs: the ranking as text, and a line for each backbone or photo left out.

    Args:
        folder: photographs, searched recursively.
        candidates: names as for ``load_backbone``, ranked with the built-in and the cached backbones.
        device: of the networks; ``texture`` always runs on the CPU.

    Raises:
        InputError: no such folder, too few photographs, or no backbone to rank.
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
                origins[name] = (backbone.device, "yes" if backbone.provenance.label_free else "unknown")
            except MasktreeError as error:
                failures.append(f"{name}: {error}")
            progress.advance()
    if not results:
        raise InputError(f"expected at least one backbone to rank; got none: {'; '.join(failures)}")
    table = [("", "name", "score", "95 %", "views", "regions", "s/image", "device", "label-free")]
    for rank, row in enumerate(ranking.rank_scores(list(results), list(results.values()), seed=seed), 1):
        mark = f"{rank}" if rank == 1 or not row.tied else f"{rank} ="
        interval = f"{row.low:.3f} to {row.high:.3f}"
        numbers = (f"{row.score:.3f}", interval, f"{row.views:.3f}", f"{row.regions:.3f}", f"{row.seconds:.2f}")
        table.append((mark, row.name, *numbers, *origins[row.name]))
    return f"{_format_table(table)}\n\n{_legend(len(samples), folder)}", failures


def _legend(num_photos: int, folder: Path) -> str:
    from masktree.stages import backbone_ranking as ranking

    correlations = [
        f"{name} {all_:.2f} ({without_worst:.2f})" for name, (all_, without_worst) in ranking.RANK_CORRELATIONS.items()
    ]
    return "\n".join(
        (
            f"{num_photos} photographs of {folder}, without labels. =: not significantly worse than the first.",
            "Score: mean chance-corrected agreement of the feature regions with those of another view (views) and with",
            "regions from boundary cues (regions). s/image: feature extraction for one photograph.",
            f"Reliability: rank correlation with scores against human annotations over {ranking.NUM_EXTRACTORS}",
            "feature extractors (in parentheses without the five worst):",
            *(f"  {line}" for line in correlations),
            f"{ranking.CORRECT_PAIRS} of {ranking.SEPARATED_PAIRS} pairs of extractors with different scores have",
            "the same order by covering ODS. No published network was among them. The regions score cannot reward a",
            "network for being better than the boundary cues.",
        )
    )


def _format_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _describe_backbone(name: str) -> str:
    lines = _format_pairs(asdict(_weights_of(name)))
    return f"{lines}\n\n{MODEL_CARD.read_text(encoding='utf-8').rstrip()}" if name == "embedded" else lines


def _weights_of(name: str) -> Weights:
    """The record of a built-in or published backbone by name; a local file or folder is loaded."""
    if "@" in name or Path(name).is_dir():
        from masktree.backbones import load_backbone

        return load_backbone(name, "cpu").provenance
    return {"embedded": EMBEDDED_WEIGHTS, "texture": TextureBackbone.provenance}.get(name) or find_weights(name)


def _list_devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"devices: cpu, cuda ({names})"
    return "devices: cpu" + (", mps" if torch.backends.mps.is_available() else "")


def _list_backbones() -> str:
    rows = [("name", "patch", "dim", "licence", "source")]
    for name in [*BUILT_IN, *PUBLISHED_WEIGHTS]:
        weights = _weights_of(name)
        licence = weights.licence.partition(" (")[0]
        rows.append((name, str(weights.patch), str(weights.dim), licence, weights.source))
    return "backbones (default: embedded)\n" + _format_table(rows)


def _describe_labels(folder: Path) -> str:
    from masktree.labels import LabelSet

    index = LabelSet.open(folder).index
    config = {key: value for key, value in index["config"].items() if value not in (None, {})}
    return "\n\n".join([_format_pairs(index["summary"]), "configuration\n" + _format_pairs(config)])


def _describe_model(name: str) -> str:
    """Provenance, size, architecture and training of a model folder."""
    from masktree.models import saved

    folder = saved.find_model(name)
    header = saved.read_header(folder)
    origin = asdict(saved.provenance(folder, name))
    weights = {
        "parameters": f"{saved.count_parameters(folder):,}",
        "bytes": f"{saved.weight_file(folder).stat().st_size:,}",
    }
    training = {key: value for key, value in header.items() if key not in ("format", "version", "model")}
    parts = [_format_pairs(origin | weights), "model\n" + _format_pairs(header["model"])]
    return "\n\n".join([*parts, "training\n" + _format_pairs(_flatten(training))] if training else parts)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to dotted names and drop None."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat


def _format_pairs(values: dict[str, Any]) -> str:
    width = max((len(key) for key in values), default=0)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in values.items())
