"""Options that several verbs share, and what verbs print at their end."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from masktree.discover.methods import METHODS
from masktree.errors import InputError

if TYPE_CHECKING:
    from masktree.io.read_options import ReadOptions
    from masktree.jobs.batch import Engine
    from masktree.jobs.recorded_batch import BatchOutcome
    from masktree.predict import SegmenterConfig
    from masktree.stages.pictures import Pictures

    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]

_METHOD_HELP = "What finds the masks. " + " ".join(f"{name}: {method.summary}." for name, method in METHODS.items())

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


@dataclass(frozen=True)
class SegmenterOptions:
    """What segments the photographs.

    Attributes:
        model: Folder of masktree train, or owner/name on the hub.
        backbone: Feature extractor; see `masktree info backbone`. Default: embedded, which needs no download.
        positions: Resize a ViT's positions as timm or DINO.
        quality: best is slower and finer. Default: fast.
        detail: Size of the analysis by the method masktree: at most so many pixels (auto: 640 or 1280), or fine, for
            small things: up to three times the size, 14 times the time. auto is fine where it sees them.
        min_area: Smallest mask in pixels. Default: that of the method.
        min_score: Lowest score of a mask: its agreement, from 0 to 1, when the photograph changes a little.
        max_masks: Most masks of a photograph: the best.
        masks: Nodes of the dendrogram, or all: unions of them too (masktree). Default: all; for discover nodes.
        crops: Segment crops of large masks too; ten times the time.
        snap: Replace masks by regions of the method masktree.
        image_size: Longer side of the model's input in pixels.
        short_side: Shorter side, as far as the longer one allows it.
        pool: Add the masks of the method masktree to them.
        regroup: And merge its regions anew by the model's masks.
        device: Device: auto, cpu, cuda, cuda:N or mps.
        dtype: Precision of the network.
        seed: Seed of all random choices.
    """

    model: str | None = None
    method: Annotated[MethodName | None, tyro.conf.arg(help=_METHOD_HELP)] = None
    backbone: str | None = None
    positions: Literal["timm", "dino"] = "timm"
    quality: Literal["fast", "best"] | None = None
    detail: Annotated[str, tyro.conf.arg(metavar="{auto,fine,PIXELS}")] = "auto"
    min_area: int | None = None
    min_score: float = 0.0
    max_masks: int = 1000
    masks: Literal["nodes", "all"] | None = None
    crops: bool = False
    snap: bool = False
    image_size: int | None = None
    short_side: int | None = None
    pool: bool = False
    regroup: bool = False
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def config(self, default_method: str) -> SegmenterConfig:
        """The configuration that these options describe.

        Raises:
            InputError: options of a model without one, or options that do not go together.
        """
        from masktree.discover.detail import parse_detail
        from masktree.predict import SegmenterConfig

        if self.crops and self.model is None:
            raise InputError("expected --crops with --model; got a method, which has crops of its own (sohes, unsam)")
        if self.snap and self.model is None:
            raise InputError("expected --snap with --model; got a method, whose masks follow regions already")
        if (self.image_size, self.short_side) != (None, None) and self.model is None:
            raise InputError(
                "expected --image-size and --short-side with --model; got a method; the method masktree has --detail"
            )
        if self.pool and self.model is None:
            raise InputError("expected --pool with --model; got a method, which has no masks to pool with; omit it")
        if self.regroup and not self.pool:
            raise InputError("expected --regroup with --model and --pool, whose regions it merges anew; got it alone")
        method = default_method if self.method is None and self.model is None else self.method
        if self.detail != "auto" and method != "masktree":
            raise InputError(
                f"expected --detail with the method masktree; got {method or 'a model'}, which has a size of its own"
            )
        if self.masks is not None and method != "masktree":
            raise InputError(
                f"expected --masks with the method masktree; got {method or 'a model'}, which combines no nodes"
            )
        given: dict[str, Any] = {
            "detail": parse_detail(self.detail),
            "min_score": self.min_score,
            "max_masks": self.max_masks,
            "masks": self.masks,
            "crops": self.crops,
            "snap": self.snap,
            "image_size": self.image_size,
            "short_side": self.short_side,
            "pool": self.pool,
            "regroup": self.regroup,
        }
        defaults = {
            "detail": "auto",
            "min_score": 0.0,
            "max_masks": 1000,
            "masks": None,
            "crops": False,
            "snap": False,
            "image_size": None,
            "short_side": None,
            "pool": False,
            "regroup": False,
        }
        return SegmenterConfig(
            backbone=self.backbone,
            positions=self.positions,
            method=method,
            quality=self.quality,
            model=self.model,
            min_area=self.min_area,
            device=self.device,
            dtype=self.dtype,
            seed=self.seed,
            options={name: value for name, value in given.items() if value != defaults[name]},
        )


@dataclass(frozen=True)
class ReadingOptions:
    """How photographs are read, where there is a choice.

    Attributes:
        channels: One to three channels or bands, as numbers from 0 or names. Default: the colours, or the first three.
        page: Page of a file with several, or plane of a stack.
        nodata: Value without data. Default: what the file names.
        range: Percentiles of the values shown as black and white, such as 1,99. Default: 0,100 without hot pixels.
    """

    channels: Annotated[str | None, tyro.conf.arg(metavar="A,B,C", aliases=["--bands"])] = None
    page: int = 0
    nodata: float | None = None
    range: Annotated[str | None, tyro.conf.arg(metavar="LOW,HIGH")] = None

    def options(self) -> ReadOptions:
        """What these options describe.

        Raises:
            InputError: a value out of range.
        """
        from masktree.io.read_options import ReadOptions

        channels = None
        if self.channels is not None:
            names = [name.strip() for name in self.channels.split(",")]
            channels = tuple(int(name) if name.isdecimal() and len(name) < 9 else name for name in names)
        percentiles = None
        if self.range is not None:
            try:
                low, high = (float(value) for value in self.range.split(","))
            except ValueError as error:
                raise InputError(f"expected two percentiles after --range, such as 1,99; got {self.range}") from error
            percentiles = (low, high)
        return ReadOptions(channels, self.page, self.nodata, percentiles)


@dataclass(frozen=True)
class BatchOptions:
    """How the batch is run.

    Attributes:
        workers: Number of processes; 0 means one per core, or one on an accelerator and for a few images.
        overwrite: Replace earlier results.
    """

    workers: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """Where the batch is run.

    Attributes:
        engine: Where processes run: on this machine, or on those of a Ray cluster.
        address: Address of the Ray cluster, or auto. Default: one that is started on this machine.
        tries: An image that has failed so often, over all runs, is not tried again.
    """

    engine: Literal["local", "ray"] = "local"
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    tries: int = 3

    def load(self) -> Engine | None:
        """The engine; None stands for processes of this machine.

        Raises:
            InputError: an address without Ray, no Ray installed, or no tries.
        """
        if self.tries < 1:
            raise InputError(f"expected --tries of at least 1; got {self.tries}")
        if self.engine == "local":
            if self.address is not None:
                raise InputError(f"expected --address with --engine ray; got {self.address} alone; add --engine ray")
            return None
        from masktree.engine.ray_engine import RayEngine

        return RayEngine(self.address)


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn.

    Attributes:
        picture: Show the masks of the tree, or the regions of a cut, which need not be masks.
        granularity: Granularity of the entities in the picture, from 0 (finest) to 1 (coarsest).
        instances: Also write a label map of objects that do not overlap, NAME.instances.png, where 0 is background.
        instance_min_score: Lowest score of an instance, from 0 to 1.
        instance_max_area: Largest instance as a share of the image.
    """

    picture: Literal["masks", "cut", "none"] = "masks"
    granularity: Annotated[float, tyro.conf.arg(aliases=["-g"])] = 0.5
    instances: bool = False
    instance_min_score: float = 0.8
    instance_max_area: float = 1.0

    def pictures(self) -> Pictures:
        """What these options describe.

        Raises:
            InputError: a value out of range, or one of instances that are not drawn.
        """
        from masktree.stages.pictures import InstanceMap, Picture, Pictures

        defaults = PictureOptions.instance_min_score, PictureOptions.instance_max_area
        if not self.instances and (self.instance_min_score, self.instance_max_area) != defaults:
            raise InputError(
                "expected --instance-min-score and --instance-max-area with --instances; got no --instances; add it"
            )
        return Pictures(
            overlay=None if self.picture == "none" else Picture(self.picture, self.granularity),
            instances=InstanceMap(self.instance_min_score, self.instance_max_area) if self.instances else None,
        )


Reading = Annotated[ReadingOptions, tyro.conf.arg(name="")]
Segmenter = Annotated[SegmenterOptions, tyro.conf.arg(name="")]
Batch = Annotated[BatchOptions, tyro.conf.arg(name="")]
Running = Annotated[EngineOptions, tyro.conf.arg(name="")]
Drawing = Annotated[PictureOptions, tyro.conf.arg(name="")]
DEFAULT_SEGMENTER, DEFAULT_BATCH, DEFAULT_PICTURES = SegmenterOptions(), BatchOptions(), PictureOptions()
DEFAULT_READING, DEFAULT_RUNNING = ReadingOptions(), EngineOptions()


def print_error(message: str, code: int = 2) -> int:
    """Print a message on standard error; returns the exit code."""
    from masktree.jobs.progress import one_line

    print(f"masktree: {one_line(message)}", file=sys.stderr)
    return code


def print_outcome(outcome: BatchOutcome, output: Path) -> int:
    """Print the counts of a batch; returns the exit code."""
    skipped = f", {outcome.skipped} skipped (done before)" if outcome.skipped else ""
    listed = f" (see {output / 'failures.json'})" if (output / "failures.json").exists() else ""
    failed = f", {len(outcome.failures)} failed{listed}" if outcome.failures else ""
    redrawn = f", {outcome.redrawn} pictures drawn again" if outcome.redrawn else ""
    left_out = ""
    if outcome.left_out:
        names = ", ".join(path.name for path in outcome.left_out[:3]) + (", ..." if len(outcome.left_out) > 3 else "")
        left_out = f", {len(outcome.left_out)} left out, in formats that are not read ({names}); convert them to PNG"
    print(f"{outcome.completed} done{skipped}{redrawn}{failed}{left_out}; results in {output}", flush=True)
    for note in outcome.notes:
        print(note, flush=True)
    return 1 if outcome.failures else 0
