"""The result of an evaluation: metrics, what each image added, and where it all came from.

Layout of the file (version 1)::

    {"format": "masktree-evaluation", "version": 1,
     "protocol": .., "dataset": .., "settings": {..}, "metrics": {"ar1000": .., ..},
     "provenance": {"masktree", "commit", "date", "predictions", "kind", "configuration", "weights", "images",
                    "empty", "list_sha256", "ground_truth", "ground_truth_sha256", "licence"},
     "images": [{"name": .., "stats": {..}}, ..]}
"""

from __future__ import annotations

import reprlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from masktree import __version__
from masktree.errors import FormatError, InputError
from masktree.evaluate.ground_truth import hash_names
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.evaluate.metrics import format_value, metric_title
from masktree.io.contents import describe_contents
from masktree.io.files import is_number, read_json, write_json

VERSION = 1

_SHAPE: dict[str, type] = {
    "protocol": str,
    "dataset": str,
    "settings": dict,
    "metrics": dict,
    "provenance": dict,
    "images": list,
}


def is_evaluation(path: Path) -> bool:
    """Whether masktree wrote this file as the result of an evaluation, or as a comparison of two."""
    with path.open("rb") as handle:
        head = handle.read(64)
    return any(f'"format": "masktree-{kind}"'.encode() in head for kind in ("evaluation", "comparison"))


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores of one set of predictions.

    Attributes:
        protocol: ar, points, bsds, hierarchy or consistency.
        dataset: name of the ground truth's data set; "no ground truth" for consistency.
        settings: what else decides the numbers.
        metrics: by name; None where undefined, as the recall of small ground truths where there are none.
        names: the images, in the order of the ground truth.
        stats: what each image added; ``masktree.evaluate.compare`` resamples these.
        provenance: see the layout of the file.
    """

    protocol: str
    dataset: str
    settings: dict[str, Any]
    metrics: Metrics
    names: tuple[str, ...]
    stats: tuple[ImageStats, ...]
    provenance: dict[str, Any]

    @classmethod
    def from_stats(
        cls,
        protocol: str,
        dataset: str,
        settings: dict[str, Any],
        metrics: Metrics,
        names: Sequence[str],
        stats: Sequence[ImageStats],
        origin: dict[str, Any],
    ) -> EvaluationResult:
        """The result of an evaluation that is done now by this version; ``origin`` becomes part of its provenance."""
        provenance = {
            "masktree": __version__,
            "commit": source_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": len(names),
            "list_sha256": hash_names(names),
        }
        return cls(protocol, dataset, settings, metrics, tuple(names), tuple(stats), provenance | origin)

    def subject(self) -> str:
        """What was evaluated, in a line: images, ground truth, settings, and how many images are empty."""
        ground_truth = (
            f"{self.dataset} ({self.provenance['ground_truth']})"
            if self.provenance.get("ground_truth")
            else self.dataset
        )
        chosen = [
            key if value is True else f"no {key}" if value is False else f"{key} {value}"
            for key, value in self.settings.items()
        ]
        empty = [f"nothing found in {self.provenance['empty']}"] if self.provenance.get("empty") else []
        images = f"{len(self.names)} image{'' if len(self.names) == 1 else 's'}"
        return ", ".join([images, ground_truth, *chosen, *empty])

    def table(self) -> str:
        """The metrics for a terminal: name, value, meaning; and what they are of, in two lines above."""
        made = self.provenance
        lines = [f"{self.protocol}: {made.get('predictions')} ({made.get('kind')})", self.subject(), ""]
        width = max(len(name) for name in self.metrics)
        lines += [
            f"{name.ljust(width)}  {format_value(value):>8}  {metric_title(name)}"
            for name, value in self.metrics.items()
        ]
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(
            Path(path),
            {
                "format": "masktree-evaluation",
                "version": VERSION,
                "protocol": self.protocol,
                "dataset": self.dataset,
                "settings": self.settings,
                "metrics": self.metrics,
                "provenance": self.provenance,
                "images": [{"name": name, "stats": stats} for name, stats in zip(self.names, self.stats, strict=True)],
            },
        )

    @classmethod
    def read(cls, path: str | Path) -> EvaluationResult:
        """Read a file written by ``write``.

        Raises:
            FormatError: no result of an evaluation, an unknown version, or damaged.
            InputError: no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"expected a file that masktree evaluate --json has written; got {describe_contents(path)}; check the "
                "path"
            )
        document = read_json(path, {"format": str, "version": int})
        if document["format"] != "masktree-evaluation":
            raise FormatError(f"{path}: expected a result of masktree evaluate; got {reprlib.repr(document['format'])}")
        if document["version"] != VERSION:
            got = reprlib.repr(document["version"])
            raise FormatError(f"{path}: expected version {VERSION}; got {got}; update masktree")
        document = read_json(path, _SHAPE)
        images, metrics = document["images"], document["metrics"]
        damaged = not images or not all(
            isinstance(image, dict) and isinstance(image.get("name"), str) and isinstance(image.get("stats"), dict)
            for image in images
        )
        if damaged or len({image["name"] for image in images}) < len(images):
            raise FormatError(f"{path}: expected images with a name, each once, and stats; got others; evaluate again")
        wrong = [name for name, value in metrics.items() if not (value is None or is_number(value))]
        if wrong or not metrics:
            got = f"{reprlib.repr(metrics[wrong[0]])} for {wrong[0]}" if wrong else "none"
            raise FormatError(f"{path}: expected finite metrics; got {got}; evaluate again")
        if not isinstance(document["provenance"].get("configuration", {}), dict | None):
            raise FormatError(f"{path}: expected a configuration in the provenance; got another; evaluate again")
        return cls(
            protocol=document["protocol"],
            dataset=document["dataset"],
            settings=document["settings"],
            metrics=metrics,
            names=tuple(image["name"] for image in images),
            stats=tuple(image["stats"] for image in images),
            provenance=document["provenance"],
        )


def source_commit() -> str | None:
    """Commit of this package's source, "-dirty" after it if files were changed; None if it is no checkout."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie inside somebody else's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
