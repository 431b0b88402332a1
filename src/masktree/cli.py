"""Command line: each verb is a typed function. torch and the numeric rooms are imported inside the verbs only."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

Methods = Literal["masktree", "hassod", "sohes", "unsam"]
Protocols = Literal["ar", "points", "bsds", "hierarchy", "self"]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def segment(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    /,
    output: Output,
    method: Methods = "masktree",
    backbone: str = "embedded",
    quality: Literal["fast", "best"] = "fast",
    granularity: float = 0.5,
    min_area: int | None = None,
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
        method: masktree: one dendrogram whose cuts cover every pixel; hassod, sohes, unsam: the published methods.
        backbone: embedded works offline; `masktree info backbone` lists the others.
        quality: best is slower and finer (hassod has one quality).
        granularity: Cut drawn in the picture as entities: 0 finest, 1 coarsest.
        min_area: Smallest mask in pixels; the method's own default if not given.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the backbone.
        workers: Processes; 0 means one per core, or one on an accelerator and for a few images.
        seed: Makes a run repeatable.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
        no_overlay: Write no pictures.
    """
    from masktree import pipeline

    if not inputs:
        return _refuse("expected at least one image, folder or glob; got none")
    config = pipeline.Config(
        backbone=backbone, method=method, quality=quality, min_area=min_area, device=device, dtype=dtype, seed=seed
    )
    outcome = pipeline.segment(
        inputs,
        output,
        config,
        granularity=granularity,
        overlay=not no_overlay,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    return _report(outcome, output)


def discover(
    folder: tyro.conf.Positional[Path],
    /,
    output: Output,
    method: Methods = "sohes",
    backbone: str = "embedded",
    quality: Literal["fast", "best"] = "fast",
    labels_per_image: float | None = None,
    min_area: int | None = None,
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
        method: hassod, sohes, unsam or masktree.
        backbone: embedded works offline; `masktree info backbone` lists the others.
        quality: best is slower and finer (hassod has one quality).
        labels_per_image: Choose the thresholds so that images have about this many labels.
        min_area: Smallest mask in pixels; the method's own default if not given.
        shard_size: Images per COCO file; 1000 if not given.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the backbone.
        workers: Processes; 0 means one per core, or one on an accelerator and for a few images.
        seed: Makes a run repeatable.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
    """
    from masktree import pipeline

    config = pipeline.Config(
        backbone=backbone, method=method, quality=quality, min_area=min_area, device=device, dtype=dtype, seed=seed
    )
    outcome = pipeline.discover(
        folder,
        output,
        config,
        labels_per_image=labels_per_image,
        shard_size=shard_size,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    return _report(outcome, output)


def info(
    topic: tyro.conf.Positional[Literal["all", "backbone", "labels"]] = "all",
    name: tyro.conf.Positional[str | None] = None,
    /,
) -> int:
    """Show what is installed, which backbones there are with licence and provenance, or what a label set holds.

    Args:
        topic: backbone, labels, or all.
        name: A backbone's name, or a label set's folder.
    """
    from masktree import report

    print(report.describe(topic, name))
    return 0


def evaluate(
    *,
    protocol: Protocols | None = None,
    pred: Path | None = None,
    gt: Path | None = None,
    dataset: str = "auto",
    split: str | None = None,
    kind: Literal["masks", "boxes"] = "masks",
    no_boundaries: bool = False,
    only: Path | None = None,
    images: Path | None = None,
    allow_empty: bool = False,
    any_counts: bool = False,
    json: Path | None = None,
    html: Path | None = None,
    compare: tuple[Path, Path] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    workers: int = 0,
) -> int:
    """Measure results as the field does, or compare two measurements. No image is skipped: what does not fit, fails.

    Args:
        protocol: ar: recall and precision of masks or boxes. points: clicks. bsds: regions and boundaries of BSDS500.
            hierarchy: parents and children. self: stability and structure, without any truth.
        pred: Folder of masktree segment, label set of masktree discover, COCO results or COCO document, or a folder of
            ucm2 .mat files (bsds).
        gt: COCO json, or the folder of a data set (see --dataset).
        dataset: auto: json for a file, bsds500 for its folder. Or coco, lvis, coco_lvis, ade20k, entityseg, sa1b,
            partimagenet, paco, objects365, coco_panoptic, bsds500: read from the original download.
        split: Of the data set; the one that papers report if not given (bsds500: the one there is).
        kind: What ar compares.
        no_boundaries: bsds without boundary F, which takes most of its time.
        only: Text file with the names of the images to evaluate, one a line; both sides are restricted to them.
        images: Folder of the photographs, for self and for the pictures in the report; guessed if not given.
        allow_empty: Count images without predictions as images in which nothing was found.
        any_counts: Accept a data set with other counts of images and annotations than published.
        json: Write metrics, the share of each image and where everything came from.
        html: Write a report with pictures.
        compare: Two files of --json: paired differences with 95 % bootstrap intervals over the images.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        workers: Processes; 0 means one per core.
    """
    if compare is not None:
        if protocol or pred or gt or html:
            return _refuse("expected --compare with two results alone; got --protocol, --pred, --gt or --html as well")
        return _compare(compare, resamples, seed, json)
    if protocol is None or pred is None:
        return _refuse("expected --protocol and --pred, or --compare with two results; got neither")
    from masktree.evaluate.datasets import read_list
    from masktree.evaluate.harness import Evaluation

    for path in (json, html):
        if path is not None and path.is_dir():
            return _refuse(f"expected the name of a file to write; got the folder {path}")
    evaluation = Evaluation.open(
        protocol,
        pred,
        gt,
        dataset=dataset,
        split=split,
        kind=kind,
        boundaries=not no_boundaries,
        only=None if only is None else read_list(only),
        images=images,
        allow_empty=allow_empty,
        check_counts=not any_counts,
    )
    result = evaluation.run(workers=workers, show_progress=True)
    print(result.table(), flush=True)
    if json is not None:
        result.write(json)
        print(f"written: {json}")
    if html is not None:
        from masktree.evaluate.page import write_page

        write_page(html, result, evaluation.cases)
        print(f"written: {html}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Exit codes: 0 all done, 1 something failed, 2 wrong arguments or input, 130 interrupted."""
    from masktree.errors import MasktreeError

    # A polite kill ends a run like Ctrl-C does: with its record written and no worker left behind. It does so too
    # where Ctrl-C itself is ignored, as in what a shell has put into the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {"segment": segment, "discover": discover, "evaluate": evaluate, "info": info},
            prog="masktree",
            description="Every entity in an image, its parts and their parts, as one tree of masks. No human labels.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except MasktreeError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone; what was written to files is whole
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(f"{type(error).__name__}: {error}", code=1)


def _refuse(message: str, code: int = 2) -> int:
    from masktree.progress import one_line

    print(f"masktree: {one_line(message)}", file=sys.stderr)
    return code


def _compare(paths: tuple[Path, Path], resamples: int, seed: int, json: Path | None) -> int:
    from masktree.evaluate.compare import compare
    from masktree.evaluate.result import Result

    first, second = (Result.read(path) for path in paths)
    comparison = compare(first, second, resamples=resamples, seed=seed)
    if json is not None:
        comparison.write(json)
    print(comparison.table())
    return 0


def _report(outcome: object, output: Path) -> int:
    from masktree.pipeline import Outcome

    assert isinstance(outcome, Outcome)
    kept = f", {outcome.kept} kept from before" if outcome.kept else ""
    failed = f", {len(outcome.failures)} failed (see {output / 'failures.json'})" if outcome.failures else ""
    print(f"{outcome.done} done{kept}{failed}; results in {output}", flush=True)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
