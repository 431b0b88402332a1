"""Verbs that make masks of photographs: segment, discover, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from masktree.cli.options import Output, refuse, report_outcome

Methods = Literal["masktree", "hassod", "sohes", "unsam"]


def segment(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    /,
    output: Output,
    model: str | None = None,
    method: Methods | None = None,
    backbone: str | None = None,
    quality: Literal["fast", "best"] | None = None,
    granularity: float = 0.5,
    min_area: int | None = None,
    min_score: float | None = None,
    crops: bool = False,
    snap: bool = False,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    no_overlay: bool = False,
) -> int:
    """Outline everything in photographs: a tree of masks (JSON) and a picture (PNG) for each.

    Args:
        inputs: Image files, folders (searched recursively) or quoted globs.
        output: Folder for the results; mirrors the input folders.
        model: Trained model, instead of a method and a backbone: folder of masktree train, or owner/name on the hub.
        method: masktree (if not given): one dendrogram whose cuts cover every pixel; hassod, sohes, unsam: the
            published methods.
        backbone: embedded (if not given) works offline; `masktree info backbone` lists the others.
        quality: fast (if not given), or best: slower and finer (hassod has one quality).
        granularity: Cut drawn in the picture as entities: 0 finest, 1 coarsest.
        min_area: Smallest mask in pixels; the method's own default if not given.
        min_score: Least score of a mask, of a model or of the method masktree; 0 if not given.
        crops: With a model: look at large masks a second time, closer. Finds more small parts; some ten times slower.
        snap: With a model: draw its masks along the regions of the default method. Much finer, for a small model; 0.4
            seconds more a photograph.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the backbone.
        workers: Processes; 0 means one per core, or one on an accelerator and for a few images.
        seed: Makes a run repeatable.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
        no_overlay: Write no pictures.
    """
    from masktree.predict import SegmenterConfig
    from masktree.stages.segment import segment as run

    if not inputs:
        return refuse("expected at least one image, folder or glob; got none")
    config = SegmenterConfig(
        backbone=backbone,
        method=method,
        quality=quality,
        model=model,
        min_area=min_area,
        device=device,
        dtype=dtype,
        seed=seed,
        options=_options(min_score, crops, snap, model),
    )
    outcome = run(
        inputs,
        output,
        config,
        granularity=granularity,
        overlay=not no_overlay,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    return report_outcome(outcome, output)


def discover(
    folder: tyro.conf.Positional[Path],
    /,
    output: Output,
    model: str | None = None,
    method: Methods | None = None,
    backbone: str | None = None,
    quality: Literal["fast", "best"] | None = None,
    labels_per_image: float | None = None,
    min_area: int | None = None,
    min_score: float | None = None,
    crops: bool = False,
    snap: bool = False,
    shard_size: int | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Make a pseudo-label data set (COCO shards with a tree in them) of a folder of photographs.

    Args:
        folder: Photographs, searched recursively.
        output: Folder of the label set.
        model: Trained model, instead of a method and a backbone: folder of masktree train, or owner/name on the hub.
        method: sohes (if not given), hassod, unsam or masktree.
        backbone: embedded (if not given) works offline; `masktree info backbone` lists the others.
        quality: fast (if not given), or best: slower and finer (hassod has one quality).
        labels_per_image: Choose the thresholds so that images have about this many labels.
        min_area: Smallest mask in pixels; the method's own default if not given.
        min_score: Least score of a mask, of a model or of the method masktree; 0 if not given.
        crops: With a model: look at large masks a second time, closer. Finds more small parts; some ten times slower.
        snap: With a model: draw its masks along the regions of the default method. Much finer, for a small model; 0.4
            seconds more a photograph.
        shard_size: Images per COCO file; 1000 if not given.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the backbone.
        workers: Processes; 0 means one per core, or one on an accelerator and for a few images.
        seed: Makes a run repeatable.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
    """
    from masktree.predict import SegmenterConfig
    from masktree.stages.discover import discover as run

    config = SegmenterConfig(
        backbone=backbone,
        method="sohes" if method is None and model is None else method,
        quality=quality,
        model=model,
        min_area=min_area,
        device=device,
        dtype=dtype,
        seed=seed,
        options=_options(min_score, crops, snap, model),
    )
    outcome = run(
        folder,
        output,
        config,
        labels_per_image=labels_per_image,
        shard_size=shard_size,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    return report_outcome(outcome, output)


def merge(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Output,
    rule: Literal["union", "fill"] = "union",
    iou: float | None = None,
    to: Literal["labels", "coco", "sa1b"] = "labels",
    images: Path | None = None,
    shard_size: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
) -> int:
    """Merge label sets and people's masks into one data set; each mask in it says which source it comes from.

    Stopped at any moment, the same command goes on.

    Args:
        sources: Label sets of masktree, COCO files, folders with the files of SA-1B; for add the trusted one first.
        output: Folder of the new label set or of SA-1B files, or COCO file.
        rule: union: masks of all sources, near-copies once, the higher score stays. add: all masks of the first source,
            and of the others those that overlap with none of these (UnSAM+).
        iou: Bound of the rule: near-copies are above it (union: 0.9), and masks that are added are not (add: 0.02).
        to: labels: a label set for masktree train. coco: one COCO file. sa1b: one file per image, as SA-1B has them.
        images: Folder of the photographs; that of the label sets if not given.
        shard_size: Images per COCO file of a label set; 1000 if not given.
        workers: Processes; 0 means one per core, or one for a few images.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
    """
    from masktree.labels.merge import MergeRule
    from masktree.stages.merge import describe
    from masktree.stages.merge import merge as run

    merged = run(
        sources,
        output,
        MergeRule(rule, iou),
        to=to,
        images=images,
        shard_size=shard_size,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    print(describe(merged))
    return report_outcome(merged.outcome, output)


def _options(min_score: float | None, crops: bool, snap: bool, model: str | None) -> dict[str, object]:
    from masktree.errors import InputError

    if crops and model is None:
        raise InputError("expected --crops with --model; got a method, which has crops of its own (sohes, unsam)")
    if snap and model is None:
        raise InputError("expected --snap with --model; got a method, which draws along regions of its own")
    given: dict[str, object] = {"min_score": min_score, "crops": crops or None, "snap": snap or None}
    return {name: value for name, value in given.items() if value is not None}
