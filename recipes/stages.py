"""What the recipes of the published systems have in common: steps that print what is expected and what was found.

A step is a command of masktree, or a check in Python. Finished steps are noted in OUT/recipe.json and not repeated; a
step that was stopped goes on where it stood, as its command does. With several GPUs, training runs under torchrun.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from masktree import cli
from masktree.errors import InputError
from masktree.evaluate.result import EvaluationResult
from masktree.io.files import read_json, write_json
from masktree.io.packs import find_in_folder
from masktree.labels import LabelSet

GPU_TFLOPS = 100  # 10^12 operations a second of a GPU: a third of an A100's peak in bfloat16 (our assumption)
FORWARD_TFLOPS = {"hassod": 1.33, "unsam": 1.21, "sohes": 27.9}  # an image at the size at test: benchmarks/flops.py
BACKWARD = 3  # a step of training in forward passes
TOY_DISCOVER = ("--backbone", "embedded", "--device", "cpu", "--workers", "1")
TOY_TRAIN = ("--steps", "2", "--batch-size", "1", "--device", "cpu", "--sample-every", "0")
TOY_MODEL = ("--size", "tiny", "--image-size", "64")
DINO = ("--backbone", "dino-vitb8", "--positions", "dino")


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Attributes:
        title: what it does.
        command: arguments of masktree; empty for a check.
        expected: what the source states, with the source.
        find: what came out here, as text; called after the command.
        tflops: estimated 10^12 operations on GPUs.
        trains: whether several processes share the work.
    """

    title: str
    command: tuple[str, ...] = ()
    expected: str = ""
    find: Callable[[], str] = lambda: ""
    tflops: float = 0.0
    trains: bool = False


def parse(description: str, *, human: bool = False) -> argparse.Namespace:
    """The options that all recipes have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="folders of photographs to learn from")
    parser.add_argument("-o", "--output", type=Path, required=True)
    if human:
        parser.add_argument("--human", type=Path, required=True, help="COCO file or SA-1B folder of human masks")
    parser.add_argument("--test", type=Path, help="folder of photographs to report on")
    parser.add_argument("--gt", type=Path, help="their annotations, which only the report sees")
    parser.add_argument("--dataset", default="coco", help="layout of --gt, see masktree evaluate")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8, help="processes that load data, for each GPU")
    parser.add_argument("--plan", action="store_true", help="print the steps and their cost, and do nothing")
    parser.add_argument("--toy", action="store_true", help="sizes for a test: embedded backbone, two steps")
    options = parser.parse_args()
    if (options.test is None) != (options.gt is None):
        parser.error("expected --test and --gt together")
    return options


def run(steps: Sequence[Step], options: argparse.Namespace) -> int:
    """Take all steps that are not done; returns the exit status of the one that failed, or 0."""
    path: Path = options.output / "recipe.json"
    done = read_json(path, {"done": dict})["done"] if path.exists() else {}
    hours = sum(step.tflops for step in steps) / GPU_TFLOPS / 3600
    if hours:
        print(f"{len(steps)} steps, about {hours:.1f} GPU-hours in all: an estimate from operations at {GPU_TFLOPS}")
        print("TFLOP/s, without refinement and clustering, which are CPU work, and without reading images", flush=True)
    for number, step in enumerate(steps, 1):
        hours = step.tflops / GPU_TFLOPS / 3600
        print(f"\n[{number}/{len(steps)}] {step.title}" + (f" (about {hours:.1f} GPU-hours)" if step.tflops else ""))
        if step.command:
            print(f"  $ {shlex.join(_launched(step, options))}", flush=True)
        if not options.plan and done.get(step.title, {}).get("command") != list(step.command):
            status = _call(step, options)
            if status:
                print(f"  stopped with status {status}; the same command goes on here")
                return status
            done[step.title] = {"command": list(step.command), "found": step.find()}
            write_json(path, {"done": done}, indent=1)
        if step.expected:
            print(f"  expected: {step.expected}")
        if not options.plan and done[step.title]["found"]:
            print(f"  found:    {done[step.title]['found']}", flush=True)
    return 0


def _launched(step: Step, options: argparse.Namespace) -> list[str]:
    if step.trains and options.gpus > 1:
        return ["torchrun", "--nproc-per-node", str(options.gpus), "-m", "masktree", *step.command]
    return ["masktree", *step.command]


def _call(step: Step, options: argparse.Namespace) -> int:
    if not step.command:
        return 0
    if step.trains and options.gpus > 1:
        return subprocess.run([sys.executable, "-m", "torch.distributed.run", *_launched(step, options)[1:]]).returncode
    return cli.main(list(step.command))


def vit_tflops(side: int, patch: int = 8, width: int = 768, layers: int = 12) -> float:
    """10^12 operations of a ViT on a square image: 24 n d^2 + 4 n^2 d for each layer of n tokens of width d."""
    tokens = (side // patch) ** 2 + 1
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width) / 1e12


def train_tflops(kind: str, images: float) -> float:
    """10^12 operations of training steps on so many images in all."""
    return BACKWARD * FORWARD_TFLOPS[kind] * images


def count_photos(options: argparse.Namespace) -> int:
    """Number of photographs to learn from."""
    return sum(len(find_in_folder(folder)[0]) for folder in options.photos)


def labels_step(options: argparse.Namespace, method: str, expected: str, tflops: float, *further: str) -> Step:
    """Pseudo-labels of all photographs, in OUT/labels; ``tflops`` of one photograph."""
    folder = options.output / "labels"
    devices = ("--devices", str(options.gpus)) if options.gpus > 1 else ()
    network = TOY_DISCOVER if options.toy else (*DINO, *further, *devices)
    photos = [str(path) for path in options.photos]
    return Step(
        f"pseudo-labels of the method {method}",
        ("discover", *photos, "-o", str(folder), "--method", method, *network),
        expected,
        lambda: f"{labels_per_image(folder):.2f} labels per image",
        tflops * count_photos(options),
    )


def labels_per_image(folder: Path) -> float:
    """Mean number of masks over all images of a label set."""
    shards = LabelSet.open(folder).index["shards"]
    images = sum(shard["images"] for shard in shards)
    if not images:
        raise InputError(f"expected a label set with images; got none in {folder}")
    return float(sum(shard["masks"] for shard in shards) / images)


def training(options: argparse.Namespace, *settings: str, toy: tuple[str, ...] = TOY_TRAIN) -> tuple[str, ...]:
    """Options of a command that trains: its settings, or those of a toy run."""
    return toy if options.toy else (*settings, "--workers", str(options.workers))


def train_step(
    title: str,
    options: argparse.Namespace,
    preset: str,
    tflops: float,
    *settings: str,
    labels: Path | None = None,
    toy: tuple[str, ...] = (),
) -> Step:
    """A model of size base in OUT/run, on OUT/labels or others; ``toy``: further options of a toy run."""
    places = (str(labels or options.output / "labels"), "-o", str(options.output / "run"))
    further = training(options, "--size", "base", *settings, toy=(*TOY_MODEL, *TOY_TRAIN, *toy))
    return Step(title, ("train", *places, "--preset", preset, *further), tflops=tflops, trains=True)


def self_train_step(
    title: str,
    options: argparse.Namespace,
    method: str,
    tflops: float,
    *settings: str,
    toy: tuple[str, ...] = TOY_TRAIN,
) -> Step:
    """The model of OUT/run trained further on labels that it corrects, in OUT/corrected."""
    places = (str(options.output / "run"), str(options.output / "labels"), "-o", str(options.output / "corrected"))
    further = training(options, *settings, toy=toy)
    return Step(title, ("self-train", *places, "--method", method, *further), tflops=tflops, trains=True)


UNSAM_LABELS = (
    "AR1000, S, M, L 15.3, 2.3, 11.9, 27.7 with the CRF, 23.9, 7.9, 22.4, 34.0 with CascadePSP (paper, SA-1B)"
)


def unsam_labels(options: argparse.Namespace) -> Step:
    """The pseudo-labels of UnSAM and UnSAM+: MaskCut on the image, clustering in three crops."""
    tflops = vit_tflops(480) + 3 * vit_tflops(256)
    return labels_step(options, "unsam", "about 334 labels per image (paper)", tflops, "--quality", "best")


def unsam_model(options: argparse.Namespace, labels: Path) -> Step:
    """Mask2Former on a label set."""
    tflops = train_tflops("unsam", 50_000 * 16)
    return train_step("Mask2Former", options, "unsam", tflops, labels=labels, toy=("--num-queries", "12"))


def report_steps(
    options: argparse.Namespace, labels: Step, run_name: str, of_labels: str, of_model: str, *model_options: str
) -> list[Step]:
    """Recall of the pseudo-labels' method and of a run on annotated photographs, with ``--test`` and ``--gt``."""
    if options.test is None:
        return []
    places = {
        "labels": labels.command[len(options.photos) + 3 :],
        "model": ("--model", str(options.output / run_name), *model_options),
    }
    steps = []
    for what, arguments in places.items():
        folder, result = options.output / f"test-{what}", options.output / f"test-{what}.json"
        verb = "discover" if what == "labels" else "segment"
        device = ("--device", "cpu", "--workers", "1") if options.toy and what == "model" else ()
        pictures = () if what == "labels" else ("--picture", "none")
        command = (verb, str(options.test), "-o", str(folder), *arguments, *device, *pictures)
        steps.append(Step(f"masks of the {what} in the photographs of the report", command))
        evaluate = ("evaluate", "--pred", str(folder), "--gt", str(options.gt), "--dataset", options.dataset)
        steps.append(
            Step(
                f"recall of the {what}",
                (*evaluate, "--json", str(result)),
                of_labels if what == "labels" else of_model,
                lambda result=result: recall_of(result),  # type: ignore[misc]
            )
        )
    return steps


def recall_of(result: Path) -> str:
    """AR1000, and that of small, medium and large masks, in percent."""
    metrics = EvaluationResult.read(result).metrics
    values = [metrics[name] for name in ("ar1000", "ar_s", "ar_m", "ar_l")]
    return "AR1000, S, M, L " + ", ".join("-" if value is None else f"{100 * value:.1f}" for value in values)
