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
    model: str | None = None,
    method: Methods | None = None,
    backbone: str | None = None,
    quality: Literal["fast", "best"] | None = None,
    granularity: float = 0.5,
    min_area: int | None = None,
    min_score: float | None = None,
    crops: bool = False,
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
        crops: With a model: look at large masks a second time, closer. Finds more small parts; several times slower.
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
        backbone=backbone,
        method=method,
        quality=quality,
        model=model,
        min_area=min_area,
        device=device,
        dtype=dtype,
        seed=seed,
        options=_options(min_score, crops, model),
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
    model: str | None = None,
    method: Methods | None = None,
    backbone: str | None = None,
    quality: Literal["fast", "best"] | None = None,
    labels_per_image: float | None = None,
    min_area: int | None = None,
    min_score: float | None = None,
    crops: bool = False,
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
        crops: With a model: look at large masks a second time, closer. Finds more small parts; several times slower.
        shard_size: Images per COCO file; 1000 if not given.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the backbone.
        workers: Processes; 0 means one per core, or one on an accelerator and for a few images.
        seed: Makes a run repeatable.
        overwrite: Do everything anew; otherwise finished results are kept and the rest is done.
    """
    from masktree import pipeline

    config = pipeline.Config(
        backbone=backbone,
        method="sohes" if method is None and model is None else method,
        quality=quality,
        model=model,
        min_area=min_area,
        device=device,
        dtype=dtype,
        seed=seed,
        options=_options(min_score, crops, model),
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


def merge(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Output,
    rule: Literal["union", "add"] = "union",
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
    from masktree.labels.merge import Rule
    from masktree.merging import describe
    from masktree.merging import merge as run

    merged = run(
        sources,
        output,
        Rule(rule, iou),
        to=to,
        images=images,
        shard_size=shard_size,
        workers=workers,
        overwrite=overwrite,
        show_progress=True,
    )
    print(describe(merged))
    return _report(merged.outcome, output)


def train(
    labels: tyro.conf.Positional[Path],
    /,
    output: Output,
    preset: Literal["sohes", "unsam", "hassod", "promptable"] = "sohes",
    size: Literal["tiny", "small", "base"] = "small",
    backbone: str | None = None,
    image_size: int | None = None,
    queries: int | None = None,
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    steps: int | None = None,
    batch: int | None = None,
    parts: int | None = None,
    rate: float | None = None,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    workers: int = 0,
    seed: int = 0,
    root: Path | None = None,
    save_every: float = 600.0,
    sample_every: int = 500,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> int:
    """Train a segmenter on a label set. Stopped at any moment, the same command goes on from the last checkpoint.

    On many GPUs, or many processes: torchrun --nproc-per-node N -m masktree train ...; they share each step's images.

    Args:
        labels: Folder of a finished label set, from `masktree discover`.
        output: Folder of the run, which `masktree segment --model` takes.
        preset: sohes: Mask2Former with an ancestor head. unsam: without it. hassod: Cascade Mask R-CNN with levels.
            promptable: answers clicks, boxes and granularities.
        size: base: as published, for several large GPUs. small: for one GPU. tiny: for a try on a CPU.
        backbone: The preset's if not given; `masktree info backbone` lists them.
        image_size: Pixels of the longer side, a multiple of 32.
        queries: Masks that can be found in an image (sohes, unsam).
        from_: Earlier run (its folder, or owner/name on the hub) whose weights this one begins with: all of the same
            architecture, else those that fit, if the whole feature pyramid does.
        steps: Of the optimiser, in all. Warm-up stays as it is.
        batch: Images of one step, over all processes together. Rate and steps stay as they are: adapt them yourself.
        parts: Passes that a process spreads its images of a step over, to save memory; the result is the same.
        rate: Learning rate after the warm-up.
        device: auto, cpu, cuda, cuda:N or mps; with several processes a kind.
        precision: auto: bfloat16 on GPUs that have it, else float32. float16 on GPUs only.
        workers: Processes that load and augment photographs, for each process that trains; 0 does it in between.
        seed: Of new weights and of every random choice; makes a run repeatable.
        root: Folder of the photographs, if they were moved since the labels were made.
        save_every: Seconds between checkpoints.
        sample_every: Steps between pictures of what is found; 0 for none.
        skip_broken: Replace photographs that cannot be read by others, instead of ending.
        overwrite: Begin anew where another run is.
    """
    from masktree.train.presets import find_preset
    from masktree.train.train import Options
    from masktree.train.train import train as run

    chosen = find_preset(
        preset,
        size,
        backbone=backbone,
        image_size=image_size,
        queries=queries,
        steps=steps,
        batch=batch,
        parts=parts,
        rate=rate,
    )
    options = Options(device, precision, workers, save_every, sample_every, skip_broken, show_progress=True)
    start = None if from_ is None else Path(from_)
    done = run(labels, output, chosen, start=start, seed=seed, root=root, overwrite=overwrite, options=options)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{done} steps done, {chosen.optimisation.steps} in all; the run is in {output}", flush=True)
    return 0


def self_train(
    run: tyro.conf.Positional[str],
    labels: tyro.conf.Positional[Path],
    /,
    output: Output,
    method: Literal["sohes", "hassod", "rounds"] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    parts: int | None = None,
    rate: float | None = None,
    average: float | None = None,
    burn_in: int | None = None,
    label_weight: tuple[float, float] | None = None,
    teacher_weight: tuple[float, float] | None = None,
    teacher_score: float | None = None,
    no_teacher_mask_loss: bool = False,
    rounds: int | None = None,
    predictions_per_image: float | None = None,
    iou: float | None = None,
    crops: bool = False,
    fresh: bool = False,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    workers: int = 0,
    seed: int = 0,
    root: Path | None = None,
    save_every: float = 600.0,
    sample_every: int = 500,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> int:
    """Let a trained segmenter correct its own labels: a teacher, the average of what is trained, labels photographs
    anew at every step. Stopped at any moment, the same command goes on from the last checkpoint.

    On many GPUs, or many processes: as masktree train. What is not given is the run's own, or the method's.

    Args:
        run: Folder of masktree train, or owner/name on the hub: the model to go on from.
        labels: Folder of the label set that it was trained on, or of another finished one.
        output: Folder of the new run, which `masktree segment --model` takes.
        method: sohes: thresholds that keep small, medium and large masks in the labels' proportion. hassod: score above
            0.7, labels fade out. That of the run's model if not given. rounds: no teacher at every step; photographs
            are labelled anew, then the model is trained on that (UnSAM); OUTPUT/round-1/run is the new run.
        steps: Of the optimiser, in all; a quarter of the run's (rounds: the run's, in each) if not given.
        batch: Labelled images of one step, and as many for the teacher. The run's (hassod: half of it) if not given.
        parts: Passes that a process spreads its images of a step over, to save memory; the result is the same.
        rate: Learning rate after the warm-up, which falls to 0 (rounds: as in the run). A tenth of the run's (hassod,
            rounds: the run's) if not given.
        average: Decay of the average that is the teacher.
        burn_in: Steps in which only the labels are learned.
        label_weight: Of the labels' losses, at the first step and at the last. sohes: 1 1, hassod: 1 0.
        teacher_weight: Of the losses of the teacher's masks, likewise. sohes: 1 1, hassod: 2 3.
        teacher_score: Least score of a mask that is taught, the same for all sizes; the method's rule if not given.
        no_teacher_mask_loss: Learn no shapes from the teacher's masks, as the released code of HASSOD.
        rounds: With --method rounds: how many; 1 if not given.
        predictions_per_image: With --method rounds: choose the least score so that about this many masks are taught.
        iou: With --method rounds: old labels stay if their IoU with all predictions is below; 0.5 if not given.
        crops: With --method rounds: look at large masks a second time, closer.
        fresh: With --method rounds: begin training with the backbone's weights instead of the last model's.
        device: auto, cpu, cuda, cuda:N or mps; with several processes a kind.
        precision: auto: bfloat16 on GPUs that have it, else float32. float16 on GPUs only.
        workers: Processes that load and augment photographs, for each process that trains; 0 does it in between.
        seed: Of every random choice; makes a run repeatable.
        root: Folder of the photographs, if they were moved since the labels were made.
        save_every: Seconds between checkpoints.
        sample_every: Steps between pictures of what is found; 0 for none.
        skip_broken: Replace photographs that cannot be read by others, instead of ending.
        overwrite: Begin anew where another run is.
    """
    alien: dict[str, object]
    if method == "rounds":
        alien = {
            "--burn-in": burn_in,
            "--label-weight": label_weight,
            "--teacher-weight": teacher_weight,
            "--no-teacher-mask-loss": no_teacher_mask_loss or None,
        }
    else:
        alien = {
            "--rounds": rounds,
            "--predictions-per-image": predictions_per_image,
            "--iou": iou,
            "--crops": crops or None,
            "--fresh": fresh or None,
        }
    unfit = [name for name, value in alien.items() if value is not None]
    if unfit:
        return _refuse(f"expected options of the method {method or 'sohes or hassod'}; got {', '.join(unfit)}")
    from masktree.train.stage import Options

    options = Options(device, precision, workers, save_every, sample_every, skip_broken, show_progress=True)
    if method == "rounds":
        from masktree.rounds import Rounds, describe, run_rounds

        given = {
            "rounds": rounds,
            "min_score": teacher_score,
            "predictions_per_image": predictions_per_image,
            "iou": iou,
            "steps": steps,
            "batch": batch,
            "rate": rate,
            "average": average,
            "parts": parts,
        }
        wanted = Rounds(crops=crops, fresh=fresh, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
        done = run_rounds(Path(run), labels, output, wanted, seed=seed, root=root, overwrite=overwrite, options=options)
        print(f"{describe(output)}\n{done} steps done", flush=True)
        return 0
    from masktree.segmenter.saved import find_model, read_config
    from masktree.train.self_train import find_method
    from masktree.train.self_train import self_train as correct

    settings = find_method(
        method,
        read_config(find_model(run)).kind,
        steps=steps,
        batch=batch,
        parts=parts,
        rate=rate,
        average=average,
        burn_in=burn_in,
        label_weight=label_weight,
        teacher_weight=teacher_weight,
        score=teacher_score,
        mask_loss=False if no_teacher_mask_loss else None,
    )
    done = correct(Path(run), labels, output, settings, seed=seed, root=root, overwrite=overwrite, options=options)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{done} steps done; the run is in {output}", flush=True)
    return 0


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
    from masktree import report

    if rank is not None:
        if topic != "backbone" or name is not None:
            return _refuse("expected masktree info backbone --rank FOLDER; got another topic, or a name as well")
        text, failures = report.rank_backbones(rank, candidates, device=device, seed=seed, show_progress=True)
        print(text, flush=True)
        for failure in failures:
            _refuse(f"left out: {failure}")
        return 1 if failures else 0
    if candidates:
        return _refuse("expected --candidates with --rank FOLDER; got no folder of photographs")
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
        onnx: File to write for ONNX runtimes; a description of inputs and outputs is inside it.
        image_size: Side in pixels of the square input; the model's own if not given.
        overwrite: Replace a file that is there.
    """
    from masktree.errors import InputError
    from masktree.segmenter.build import read_model
    from masktree.segmenter.onnx import export_onnx
    from masktree.segmenter.saved import find_model

    if onnx.exists() and not overwrite:
        raise InputError(f"expected the name of a new file; got {onnx}, which exists; add --overwrite to replace it")
    export_onnx(read_model(find_model(model)), onnx, image_size)
    print(f"written: {onnx}")
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
    from masktree.errors import MasktreeError, TrainingError

    # A polite kill ends a run like Ctrl-C does: with its record written and no worker left behind. It does so too
    # where Ctrl-C itself is ignored, as in what a shell has put into the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {
                "segment": segment,
                "discover": discover,
                "merge": merge,
                "train": train,
                "self-train": self_train,
                "evaluate": evaluate,
                "export": export,
                "info": info,
            },
            prog="masktree",
            description="Every entity in an image, its parts and their parts, as one tree of masks. No human labels.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except MasktreeError as error:
        return _refuse(str(error), code=1 if isinstance(error, TrainingError) else 2)
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


def _options(min_score: float | None, crops: bool, model: str | None) -> dict[str, object]:
    from masktree.errors import InputError

    if crops and model is None:
        raise InputError("expected --crops with --model; got a method, which has crops of its own (sohes, unsam)")
    given: dict[str, object] = {"min_score": min_score, "crops": crops or None}
    return {name: value for name, value in given.items() if value is not None}


def _report(outcome: object, output: Path) -> int:
    from masktree.pipeline import Outcome

    assert isinstance(outcome, Outcome)
    kept = f", {outcome.kept} kept from before" if outcome.kept else ""
    failed = f", {len(outcome.failures)} failed (see {output / 'failures.json'})" if outcome.failures else ""
    print(f"{outcome.done} done{kept}{failed}; results in {output}", flush=True)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
