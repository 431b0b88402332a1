"""All verbs, with the order of their options on the page of help."""

from __future__ import annotations

from masktree.cli.discover import discover
from masktree.cli.draw import draw
from masktree.cli.evaluate import evaluate
from masktree.cli.export import export
from masktree.cli.import_trees import import_trees
from masktree.cli.info import info
from masktree.cli.merge import merge
from masktree.cli.segment import segment
from masktree.cli.self_train import self_train
from masktree.cli.serve import serve
from masktree.cli.train import train
from masktree.cli.verb import Verb

_METHOD = ("method", "backbone", "positions", "quality", "detail", "min-area", "min-score", "max-masks", "masks")
_PICTURES = ("picture", "granularity", "instances", "instance-min-score", "instance-max-area")
_READING = ("channels", "page", "nodata", "range")
_MODEL = "model (instead of a method)"
_MODEL_OPTIONS = ("model", "crops", "snap", "pool", "regroup", "image-size", "short-side")
_RELABELLING = ("iou", "crops", "snap", "from-backbone")
_ENGINE = ("engine", "address", "tries")
_RUNNING = ("device", "dtype", "seed", "workers", "batch-size", *_ENGINE)
_TEACHER = ("label-weight", "teacher-weight", "no-teacher-mask-loss")
_OPTIMISATION = ("steps", "batch-size", "accumulation-steps", "lr", "ema-decay")
_TRAINING_OUTPUT = ("output", "save-every", "sample-every", "overwrite")
_TRAINING_RUN = ("device", "precision", "seed", "workers")

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "segment",
            segment,
            {
                "input": ("inputs",),
                "reading of images": _READING,
                "method": _METHOD,
                _MODEL: _MODEL_OPTIONS,
                "output": ("output", *_PICTURES, "overwrite"),
                "running": (*_RUNNING, "tile"),
            },
        ),
        Verb("draw", draw, {"input": ("folder", "images"), "output": _PICTURES}),
        Verb(
            "discover",
            discover,
            {
                "input": ("folders",),
                "reading of images": _READING,
                "method": (*_METHOD, "detector", "detector-score", "labels-per-image", "average-labels"),
                _MODEL: _MODEL_OPTIONS,
                "output": ("output", "shard-size", "overwrite"),
                "running": ("shard", "devices", *_RUNNING),
            },
        ),
        Verb(
            "merge",
            merge,
            {
                "input": ("sources", "images"),
                "method": ("rule", "iou"),
                "output": ("output", "shard-size", "overwrite"),
                "running": ("workers",),
            },
        ),
        Verb(
            "train",
            train,
            {
                "input": ("labels", "root", "skip-broken", "val", "val-every"),
                "model": ("preset", "size", "config", "backbone", "image-size", "num-queries", "from"),
                "method": (*_OPTIMISATION, "backbone-lr-factor", "schedule"),
                "output": _TRAINING_OUTPUT,
                "running": _TRAINING_RUN,
            },
        ),
        Verb(
            "self-train",
            self_train,
            {
                "input": ("earlier-run", "labels", "root", "skip-broken", "val", "val-every"),
                "method": ("method", "score-threshold", *_OPTIMISATION),
                "method sohes or hassod": ("setting", "burn-in", *_TEACHER),
                "method rounds": ("rounds", "cutler", "score", "average-predictions", *_RELABELLING),
                "output": _TRAINING_OUTPUT,
                "running": _TRAINING_RUN,
            },
        ),
        Verb(
            "evaluate",
            evaluate,
            {
                "input": ("pred", "gt", "dataset", "split", "only", "images", "allow-empty", "no-check-counts"),
                "method": ("protocol", "iou-type", "no-boundaries"),
                "output": ("json", "html"),
                "comparison of two results": ("compare", "resamples", "seed"),
                "running": ("workers",),
            },
        ),
        Verb(
            "export",
            export,
            {
                "input": ("source", "images"),
                "output": ("output", "to", "overwrite", "image-prefix", "flat", "compress", "image-size"),
                "masks": (
                    "masks",
                    "level",
                    "granularity-range",
                    "min-area",
                    "min-score",
                    "granularity",
                    "class-map",
                    "only",
                    "no-edits",
                ),
                "running": ("workers", *_ENGINE),
            },
        ),
        Verb("import", import_trees, {"input": ("source", "from", "images"), "output": ("output", "overwrite")}),
        Verb(
            "serve",
            serve,
            {
                "input": ("source", "images"),
                "output": ("output",),
                "address": ("port", "host", "no-browser", "token"),
                "running": ("max-upload", "workers"),
            },
        ),
        Verb(
            "info",
            info,
            {"input": ("topic", "name"), "ranking of backbones": ("rank", "candidates", "device", "seed")},
        ),
    )
}
