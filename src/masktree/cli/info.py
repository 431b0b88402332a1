"""Verbs that tell and convert: info, export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from masktree.cli.options import refuse


def info(
    topic: tyro.conf.Positional[Literal["all", "backbone", "labels", "model"]] = "all",
    name: tyro.conf.Positional[str | None] = None,
    /,
    rank: Path | None = None,
    candidates: tuple[str, ...] = (),
    device: str = "auto",
    seed: int = 0,
) -> int:
    """Show what is installed, which backbones there are with licence and provenance, or what a label set or model is.

    Args:
        topic: backbone, labels, model, or all.
        name: A backbone's name, or the folder of a label set or of a trained model.
        rank: Folder of your photographs, without labels: rank the backbones on them.
        candidates: Backbones to rank beside those that need no download: names, NAME@PATH or folders.
        device: Of the ranking: auto, cpu, cuda, cuda:N or mps.
        seed: Of the ranking.
    """
    from masktree.stages import info as report

    if rank is not None:
        if topic != "backbone" or name is not None:
            return refuse("expected masktree info backbone --rank FOLDER; got another topic, or a name as well")
        text, failures = report.rank_backbones(rank, candidates, device=device, seed=seed, show_progress=True)
        print(text, flush=True)
        for failure in failures:
            refuse(f"left out: {failure}")
        return 1 if failures else 0
    if candidates:
        return refuse("expected --candidates with --rank FOLDER; got no folder of photographs")
    print(report.describe(topic, name))
    return 0


def export(
    model: tyro.conf.Positional[str],
    /,
    onnx: Path,
    image_size: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write a trained model in a format of other programs.

    Args:
        model: Folder of masktree train, or owner/name on the hub.
        onnx: File to write for ONNX runtimes; a description of inputs and outputs is inside it. Of a promptable model
            NAME.encoder.onnx and NAME.decoder.onnx are written, and NAME.yaml for annotation tools where these can feed
            it.
        image_size: Side in pixels of the square input; the model's own if not given.
        overwrite: Replace files that are there.
    """
    from masktree.errors import InputError
    from masktree.models.build import read_model
    from masktree.models.onnx.export import export_onnx, files_of
    from masktree.models.saved import find_model, read_config

    folder = find_model(model)
    there = [str(file) for file in files_of(read_config(folder), onnx) if file.exists()]
    if there and not overwrite:
        raise InputError(
            f"expected the name of a new file; got {', '.join(there)}, which exists; add --overwrite to replace it"
        )
    for file in export_onnx(read_model(folder), onnx, image_size):
        print(f"written: {file}")
    return 0
