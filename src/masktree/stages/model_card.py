"""The card of a trained model on the Hugging Face hub: what it is, what it was made of, how to use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktree.evaluate.metrics import format_value, metric_title
from masktree.evaluate.result import EvaluationResult
from masktree.jobs.progress import one_line
from masktree.models import saved
from masktree.models.config import from_json

TAGS = ("masktree", "unsupervised", "self-supervised", "hierarchical-segmentation")
_KINDS = {
    "sohes": "Mask2Former with an ancestor head (SOHES, arXiv 2404.12386)",
    "unsam": "Mask2Former (UnSAM, arXiv 2406.20081)",
    "hassod": "Cascade Mask R-CNN with a level head (HASSOD, arXiv 2402.03311)",
    "promptable": "prompt encoder and two-way mask decoder (after UnSAMv2, arXiv 2511.13714)",
}


def model_card(
    run: Path, header: dict[str, Any], repo_id: str, licence: str, evaluations: Sequence[EvaluationResult]
) -> str:
    """The README.md of a model's repository, with the metadata that the hub reads at its top.

    Args:
        run: folder of the model.
        header: what its ``config.json`` will be on the hub.
        repo_id: owner/name.
        licence: SPDX identifier in lower case, or ``unknown``.
        evaluations: results of ``masktree evaluate`` to list.
    """
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        license=licence, library_name="masktree", pipeline_tag="mask-generation", tags=list(TAGS), language=None
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {repo_id.partition('/')[2]}",
        "Outlines every entity in an image, its parts and their parts, and returns one tree of masks. Masks have no "
        f"class names. Made with masktree.\n\n{_labels(header)}",
        f"## Use\n\n```python\nimport masktree\n\nsegmenter = masktree.load({json.dumps(repo_id)})\n"
        'tree = segmenter("photo.jpg")  # a masktree.MaskTree\n```\n\nOn the command line: `masktree segment '
        f"--model {repo_id} photos/ -o out/`.",
        "## Training\n\n" + _table(_training(run, header)),
        "## Numbers\n\n" + _numbers(run, header, evaluations),
        "## Recipe\n\nSettings of the run, which decide the result together with the label set:\n\n```json\n"
        + json.dumps(header.get("training", {}), indent=1)
        + "\n```",
        "## Licence\n\n" + _licence(header, licence),
    ]
    return "\n\n".join(sections) + "\n"


def _labels(header: dict[str, Any]) -> str:
    if saved.is_label_free(header) is True:
        return (
            "**No human label was used**, neither for the masks that it was trained on nor for the backbone's weights."
        )
    return "**It may depend on human labels**: its training labels, or the weights that made them, may."


def _training(run: Path, header: dict[str, Any]) -> dict[str, Any]:
    config, training, record = from_json(header["model"]), _dict(header, "training"), _dict(header, "record")
    labels, made_by, versions = _dict(training, "labels"), _dict(record, "label_weights"), _dict(record, "versions")
    optimisation = _dict(training, "optimisation")
    rows = {
        "architecture": _KINDS[config.kind],
        "backbone": config.backbone,
        "longer side of the network's input, pixels": config.image_size,
        "parameters": f"{saved.count_parameters(run):,}",
        "steps": header.get("step"),
        "images per step": optimisation.get("batch_size"),
        "training images": labels.get("images"),
        "pseudo-labels": labels.get("masks"),
        "label set": record.get("labels"),
        "pseudo-labels made with": made_by.get("name"),
        "which was trained on": made_by.get("trained_on"),
        "seed": training.get("seed"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("masktree", "torch")),
        "sha256 of the weights": saved.provenance(run, str(run)).sha256,
    }
    return {name: value for name, value in rows.items() if value not in (None, "")}


def _numbers(run: Path, header: dict[str, Any], evaluations: Sequence[EvaluationResult]) -> str:
    parts = []
    if losses := _last_loss(run):
        parts.append(f"Training loss at step {losses[0]}: {losses[1]:.4g}.")
    if saved.CALIBRATION in header:
        parts.append(
            "Scores are calibrated, without labels: the score of a mask is the mean IoU to expect with the best mask "
            "that the model finds in a mirrored, cropped or noisy view of the image."
        )
    for result in evaluations:
        rows = {metric_title(name): format_value(value) for name, value in result.metrics.items()}
        parts.append(
            f"`masktree evaluate`, protocol {result.protocol}: {len(result.names)} images, "
            f"{one_line(result.dataset)}.\n\n{_table(rows)}"
        )
    if not evaluations:
        parts.append("It has not been compared with human annotations here.")
    return "\n\n".join(parts)


def _dict(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at a key, empty where there is none."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _last_loss(run: Path) -> tuple[int, float] | None:
    """Step and loss of the last line of the run's metrics, which a folder of a model alone does not have."""
    try:
        line = json.loads((run / "metrics.jsonl").read_bytes().splitlines()[-1])
        return int(line["step"]), float(line["loss"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return None


def _licence(header: dict[str, Any], licence: str) -> str:
    stated = "not stated" if licence == "unknown" else licence
    text = f"Of this model: {stated}."
    made_by = _dict(_dict(header, "record"), "label_weights")
    if made_by.get("licence"):
        text += (
            f" The weights that made its pseudo-labels, `{made_by.get('name')}`: {one_line(str(made_by['licence']))}."
        )
    return text


def _table(rows: dict[str, Any]) -> str:
    cells = ((one_line(str(value)).replace("|", "\\|") for value in row) for row in rows.items())
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in cells)
