"""Discovery methods side by side: every metric of ``masktree evaluate`` on BSDS500 and on COCO-style sets.

    python benchmarks/methods.py WORK --bsds BSDS500 --sets car_parts clothing --workers 2

Cost: 1 to 6 s per image and method on one core; boundary F adds as much again. Expected: tables "Methods" in
docs/benchmarks.md. A set is a folder with ``images`` and ``annotations.json``. Trees and results (JSON) stay in WORK: a
second call resumes, and ``masktree evaluate --compare`` compares the results.
"""

from __future__ import annotations

from arguments import make_parser
from masktree.discover.methods import METHODS
from masktree.predict import SegmenterConfig
from table import Table
from tasks import METRICS, add_task_arguments, cached_evaluation, tasks


def main() -> None:
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--quality", choices=("fast", "best"), default="fast")
    args = parser.parse_args()
    for task in tasks(args):
        keys = METRICS[task.protocol]
        table = Table(f"{task.name}, {task.protocol}", {"method": "", **dict.fromkeys(keys, ".3f")})
        for method in args.methods:
            config = SegmenterConfig(method=method, backbone=args.backbone, quality=args.quality)
            name = f"{method}-{args.backbone.replace('/', '_')}-{args.quality}"
            metrics = cached_evaluation(task, name, config, args).metrics
            table.add(method, *(metrics[key] for key in keys))


if __name__ == "__main__":
    main()
