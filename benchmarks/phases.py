"""What training and self-training add to discovery: the phases side by side on sets that none was trained on.

    python benchmarks/phases.py WORK --sets car_parts msrc --bsds BSDS500 --no-boundaries --protocols ar bsds \\
        --phase labels LABELS --phase train RUN_0 RUN_1 --phase self-train SELF_0 SELF_1

Cost: 0.5 to 2 s per image and folder on one core. Expected: table "Training" in docs/benchmarks.md. A phase has a name
and folders: a label set, which stands for the discovery method that made it, or the runs of several seeds. A cell is
the mean over a phase's folders ± standard deviation. Trees and results stay in WORK and are reused by name: use another
WORK for other options.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arguments import make_parser
from masktree.predict import SegmenterConfig
from table import Table, mean_and_deviation
from tasks import METRICS, add_task_arguments, cached_evaluation, tasks


def config_of(folder: Path, options: dict[str, object]) -> SegmenterConfig:
    """The discovery method of a label set, or a run with these options."""
    config = SegmenterConfig.from_folder(folder)
    return config if config.model is None else replace(config, options=options)


def main() -> None:
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    parser.add_argument("--min-score", type=float, default=0.0, help="lowest score of a mask, of runs")
    parser.add_argument("--crops", action="store_true", help="masktree segment --crops, of runs")
    parser.add_argument("--snap", action="store_true", help="masktree segment --snap, of runs")
    parser.add_argument("--phase", nargs="+", action="append", required=True, metavar="NAME FOLDER")
    args = parser.parse_args()
    options = {"min_score": args.min_score, "crops": args.crops, "snap": args.snap}
    for task in tasks(args):
        keys = METRICS[task.protocol]
        table = Table(f"{task.name}, {task.protocol}", {"phase": "", **dict.fromkeys(keys, ".3f")})
        for phase, *folders in args.phase:
            metrics = []
            for i, folder in enumerate(folders):
                name = f"{phase}-{i}".replace(" ", "_")
                metrics.append(cached_evaluation(task, name, config_of(Path(folder), options), args).metrics)
            table.add(phase, *(mean_and_deviation([values[key] for values in metrics]) for key in keys))


if __name__ == "__main__":
    main()
