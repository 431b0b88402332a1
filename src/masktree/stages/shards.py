"""A label set that several machines make: each its share of the COCO files, which one of them gathers.

The machine with shard i of n makes every n-th COCO file, from the i-th on, in OUT/parts/i-of-n. As image ids and the
borders of the files are those of the whole collection, the gathered files are those of one machine to the byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from masktree.errors import InputError
from masktree.io.files import read_json, write_atomically
from masktree.jobs.record import RECORD, RunRecord, read_run, run_identity

_PARTS = "parts"
_PLAN = "plan.json"
THRESHOLDS = "thresholds.json"


@dataclass(frozen=True)
class Shard:
    """Share ``number`` of ``count``, from 1.

    Raises:
        InputError: numbers out of range.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"expected a shard from 1/N to N/N; got {self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From text such as 3/8.

        Raises:
            InputError: other text, or numbers out of range.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None:
            raise InputError(f"expected a shard such as 3/8, the third of eight; got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def folder(self, output: Path) -> Path:
        """Where the machine writes."""
        return output / _PARTS / f"{self.number}-of-{self.count}"

    def split(self, count: int) -> list[Shard]:
        """Shares of this share that have its COCO files between them."""
        return [Shard(self.number + self.count * part, self.count * count) for part in range(count)]

    def files(self, count: int) -> range:
        """Which of ``count`` COCO files are made, from 0."""
        return range(self.number - 1, count, self.count)


def gather(output: Path, record: RunRecord) -> int:
    """Copy the COCO files of all shards in OUT/parts to OUT/annotations, where they are not there; their number.

    Args:
        output: folder of the label set, with plan.json.
        record: of the whole; takes over the seconds of each image.

    Raises:
        InputError: a shard of another collection or configuration.
        FormatError: damaged files.
    """
    plan, copied = _read_plan(output), 0
    for part in sorted((output / _PARTS).glob("*-of-*")):
        if not (part / RECORD).exists():
            continue
        run = read_run(part / RECORD)
        theirs = run_identity(run["config"], run["weights"], run["versions"].get("masktree"))
        ours = run_identity(record.config, record.weights, run["versions"].get("masktree"))
        changed = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
        changed += [name for name in ("images", "shard_size") if _read_plan(part)[name] != plan[name]]
        if changed:
            raise InputError(
                f"expected in {part} a shard of this collection and configuration; got other values for "
                f"{', '.join(changed)}; make it again, or remove it"
            )
        for path in sorted((part / "annotations").glob("*.json")):
            target = output / "annotations" / path.name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                content = path.read_bytes()
                write_atomically(target, lambda handle, content=content: handle.write(content))  # type: ignore[misc]
                copied += 1
        record.seconds |= {name: seconds for name, seconds in run["seconds"].items() if name not in record.seconds}
    return copied


def take_thresholds(part: Path, output: Path) -> None:
    """Copy the thresholds that a shard has chosen for a number of labels, so that they are not chosen once more."""
    source, target = part / THRESHOLDS, output / THRESHOLDS
    if source.exists() and not target.exists():
        write_atomically(target, lambda handle: handle.write(source.read_bytes()))


def _read_plan(folder: Path) -> dict[str, object]:
    plan: dict[str, object] = read_json(folder / _PLAN, {"root": str, "shard_size": int, "images": list})
    return plan
