"""The verb that measures: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from masktree.cli.options import print_error
from masktree.errors import InputError
from masktree.evaluate.options import EvaluationOptions, ProtocolName
from masktree.io.files import refuse_inputs


def evaluate(
    *,
    protocol: ProtocolName | None = None,
    pred: Path | None = None,
    gt: Path | None = None,
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = EvaluationOptions(),  # noqa: B008
    json: Path | None = None,
    html: Path | None = None,
    compare: tuple[Path, Path] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    workers: int = 0,
) -> int:
    """Evaluate predictions against ground truth, or compare two evaluations. No image is skipped: what does not fit
    is an error.

    Args:
        protocol: ar: average recall and precision of masks or boxes. points: clicks. bsds: regions and boundaries of
            BSDS500. hierarchy: parents and children. consistency: stability and structure, without ground truth.
        pred: Folder of masktree segment, label set of masktree discover, COCO results or COCO document, or a folder of
            ucm2 .mat files (bsds).
        gt: COCO json, or the folder of a data set (see --dataset).
        options: Data set and how it is read.
        json: File to write: metrics, the share of each image, and the provenance.
        html: File to write: a report with pictures.
        compare: Two files of --json: paired differences with 95 % bootstrap intervals over the images.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        workers: Processes; 0 means one per core, or one for a few images and on an accelerator.
    """
    if compare is not None:
        if protocol or pred or gt or html:
            return print_error(
                "expected --compare with two results alone; got --protocol, --pred, --gt or --html as well"
            )
        _refuse_foreign(json, None)
        refuse_inputs([json] if json else [], compare)
        return _compare(compare, resamples, seed, json)
    if protocol is None or pred is None:
        return print_error("expected --protocol and --pred, or --compare with two results; got neither")
    from masktree.evaluate.harness import Evaluation

    inputs = [path for path in (pred, gt, options.only, options.images) if path is not None]
    _refuse_foreign(json, html)
    refuse_inputs([path for path in (json, html) if path is not None], inputs)
    evaluation = Evaluation.open(protocol, pred, gt, options)
    result = evaluation.run(workers=workers, show_progress=True)
    print(result.table(), flush=True)
    if json is not None:
        result.write(json)
        print(f"written: {json}")
    if html is not None:
        from masktree.evaluate.report import write_report

        write_report(html, result, evaluation.cases)
        print(f"written: {html}")
    return 0


def _refuse_foreign(json: Path | None, html: Path | None) -> None:
    """Raise InputError if a file to write is a folder, or exists and masktree has not written it."""
    from masktree.evaluate.report import is_report
    from masktree.evaluate.result import is_evaluation

    for path, is_own in ((json, is_evaluation), (html, is_report)):
        if path is None or not path.exists():
            continue
        if path.is_dir():
            raise InputError(f"expected the name of a file to write; got the folder {path}")
        if not is_own(path):
            raise InputError(f"expected the name of a new file, or of an earlier result; got {path} of something else")


def _compare(paths: tuple[Path, Path], resamples: int, seed: int, json: Path | None) -> int:
    from masktree.evaluate.compare import compare
    from masktree.evaluate.result import EvaluationResult

    first, second = (EvaluationResult.read(path) for path in paths)
    comparison = compare(first, second, resamples=resamples, seed=seed)
    if json is not None:
        comparison.write(json)
    print(comparison.table())
    return 0
