"""What training and self-training add to discovery: the phases side by side on sets that none of them has seen.

    python benchmarks/phases.py WORK --sets /data/car_parts /data/msrc --bsds /data/BSDS500 --no-boundaries \\
        --protocols ar bsds --phase labels LABELS --phase train RUN_0 RUN_1 --phase self-train SELF_0 SELF_1

A phase has a name and folders: label sets, which stand for the rule that made them (its thresholds, on the photographs
of the sets), or runs, one for each seed. A row shows the mean over a phase's folders and, of several, their standard
deviation. Trees and results stay in WORK, so that a second call goes on where the first one stopped: other options need
another name or another WORK.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from masktree.evaluate.metrics import number
from masktree.stages.segment import Config
from methods import COLUMNS, make_parser, scored, sources


def row(metrics: list[dict[str, float | None]], keys: tuple[str, ...]) -> list[str]:
    """Mean, and standard deviation of several."""
    cells = []
    for key in keys:
        values = [value for m in metrics if (value := m[key]) is not None]
        if len(values) < len(metrics):
            cells.append("-")
        else:
            cells.append(number(mean(values)) + (f" ± {number(stdev(values))}" if len(values) > 1 else ""))
    return cells


def outliner(folder: Path, options: dict[str, object]) -> Config:
    """The rule of a label set, or a run with these options."""
    config = Config.of(folder)
    return config if config.model is None else replace(config, options=options)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--min-score", type=float, default=0.0, help="of the masks of runs")
    parser.add_argument("--crops", action="store_true", help="of runs, as segment --crops")
    parser.add_argument("--snap", action="store_true", help="of runs, as segment --snap")
    parser.add_argument("--phase", nargs="+", action="append", required=True, metavar="NAME FOLDER")
    args = parser.parse_args()
    for data, images, truth, protocol in sources(args):
        print(f"\n{data.name}, {protocol}\n\n| | " + " | ".join(COLUMNS[protocol]) + " |")
        print("|---" * (len(COLUMNS[protocol]) + 1) + "|")
        for phase, *folders in args.phase:
            metrics = []
            for i, folder in enumerate(folders):
                options = {"min_score": args.min_score, "crops": args.crops, "snap": args.snap}
                config, name = outliner(Path(folder), options), f"{phase}-{i}".replace(" ", "_")
                metrics.append(scored(args.work, data, images, truth, name, config, protocol, args).metrics)
            print(f"| {phase} | " + " | ".join(row(metrics, COLUMNS[protocol])) + " |", flush=True)


if __name__ == "__main__":
    main()
