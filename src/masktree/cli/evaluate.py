"""The verb that measures: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from masktree.cli.options import print_error

Protocols = Literal["ar", "points", "bsds", "hierarchy", "consistency"]


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
            hierarchy: parents and children. consistency: stability and structure, without any ground truth.
        pred: Folder of masktree segment, label set of masktree discover, COCO results or COCO document, or a folder of
            ucm2 .mat files (bsds).
        gt: COCO json, or the folder of a data set (see --dataset).
        dataset: auto: json for a file, bsds500 for its folder. Or coco, lvis, coco_lvis, ade20k, entityseg, sa1b,
            partimagenet, paco, objects365, coco_panoptic, bsds500: read from the original download.
        split: Of the data set; the one that papers report if not given (bsds500: the one there is).
        kind: What ar compares.
        no_boundaries: bsds without boundary F, which takes most of its time.
        only: Text file with the names of the images to evaluate, one a line; both sides are restricted to them.
        images: Folder of the photographs, for consistency and for the pictures in the report; guessed if not given.
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
            return print_error(
                "expected --compare with two results alone; got --protocol, --pred, --gt or --html as well"
            )
        return _compare(compare, resamples, seed, json)
    if protocol is None or pred is None:
        return print_error("expected --protocol and --pred, or --compare with two results; got neither")
    from masktree.evaluate.datasets import read_list
    from masktree.evaluate.harness import Evaluation

    for path in (json, html):
        if path is not None and path.is_dir():
            return print_error(f"expected the name of a file to write; got the folder {path}")
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
        from masktree.evaluate.report import write_page

        write_page(html, result, evaluation.cases)
        print(f"written: {html}")
    return 0


def _compare(paths: tuple[Path, Path], resamples: int, seed: int, json: Path | None) -> int:
    from masktree.evaluate.compare import compare
    from masktree.evaluate.result import EvaluationResult

    first, second = (EvaluationResult.read(path) for path in paths)
    comparison = compare(first, second, resamples=resamples, seed=seed)
    if json is not None:
        comparison.write(json)
    print(comparison.table())
    return 0
