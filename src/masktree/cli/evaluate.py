"""The verb that measures: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from masktree.cli.options import print_error
from masktree.errors import InputError
from masktree.evaluate.options import EvaluationOptions, ProtocolName
from masktree.io.files import check_writable, refuse_inputs
from masktree.jobs.progress import notify


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
        protocol: What is measured. ar: average recall and precision of masks or boxes. points: clicks. bsds: regions
            and boundaries of BSDS500. hierarchy: parents and children. consistency: stability, without ground truth.
            Default: ar, bsds for that data set, consistency without --gt.
        pred: Folder of masktree segment, label set, COCO file, or folder of ucm2 .mat files (bsds).
        gt: COCO file, or folder of a data set (see --dataset).
        options: Data set and how it is read.
        json: Write metrics, the share of each image, and the provenance to this file.
        html: Write a report with pictures to this file.
        compare: Print paired differences of two files of --json, with 95 % intervals.
        resamples: Number of bootstrap resamples of the intervals.
        seed: Seed of the bootstrap.
        workers: Number of processes; 0 means one per core, or one on an accelerator and for a few images.
    """
    if compare is not None:
        if protocol or pred or gt or html:
            return print_error(
                "expected --compare with two results alone; got --protocol, --pred, --gt or --html as well; omit these"
            )
        _refuse_foreign(json, None)
        refuse_inputs([json] if json else [], compare)
        return _compare(compare, resamples, seed, json)
    if pred is None:
        return print_error(
            "expected --pred with what is to be evaluated, or --compare with two results; got neither; add --pred OUT, "
            "where OUT is the output folder of masktree segment"
        )
    from masktree.evaluate.find_cases import guess_protocol
    from masktree.evaluate.harness import Evaluation

    if protocol is None:
        protocol = guess_protocol(gt, options.dataset)
        reason = "as there is no --gt" if gt is None else "by --gt"
        notify(f"protocol {protocol}, chosen {reason}; --protocol chooses another", show=True)
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
    """Raise InputError if a file cannot be written, or exists and masktree has not written it."""
    from masktree.evaluate.report import is_report
    from masktree.evaluate.result import is_evaluation

    for path, is_own in ((json, is_evaluation), (html, is_report)):
        if path is None:
            continue
        check_writable(path)
        if path.exists() and not is_own(path):
            raise InputError(
                f"expected the name of a new file, or of an earlier result; got {path} of something else; "
                "choose another"
            )


def _compare(paths: tuple[Path, Path], resamples: int, seed: int, json: Path | None) -> int:
    from masktree.evaluate.compare import compare
    from masktree.evaluate.result import EvaluationResult

    first, second = (EvaluationResult.read(path) for path in paths)
    comparison = compare(first, second, resamples=resamples, seed=seed)
    if json is not None:
        comparison.write(json)
    print(comparison.table())
    return 0
