"""Merge stage: label sets, COCO files and SA-1B folders into one label set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.coco.annotations import MAX_MASKS
from masktree.errors import InputError
from masktree.io.contents import check_photo_folder
from masktree.io.files import lock_folder, refuse_inputs, write_json
from masktree.io.packs import find_in_folder
from masktree.io.photos import Photo
from masktree.jobs import batch
from masktree.jobs.record import RunRecord, run_fingerprint
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.labels import LabelSet, LabelSetWriter
from masktree.labels.merge import MaskPool, MergeRule
from masktree.labels.sources import LabelSource, match_images, open_source
from masktree.labels.writer import pending_folder
from masktree.trees import file as treefile

MISSING_FILE = "missing.json"  # names of images without a photograph, by source
_MAX_IMAGES_SINGLE = 500  # up to which one process is faster than starting others (our choice)


@dataclass(frozen=True)
class MergeResult:
    """Outcome of the batch; and for each source its description and the counts of its images and masks."""

    outcome: BatchOutcome
    sources: list[dict[str, Any]]


def merge(
    sources: Sequence[str | Path],
    output: Path,
    rule: MergeRule | None = None,
    *,
    images: Path | None = None,
    shard_size: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> MergeResult:
    """Merge the masks of each image; the same command resumes an interrupted merge.

    The result has the images of all sources. An image fails, and the others go on, if it is damaged or its sources
    disagree on its size. Trees are rebuilt: parents by coverage, levels by depth.

    Args:
        sources: label sets, COCO files, SA-1B folders; see ``masktree.labels.sources``. The rule fill trusts the
            first; otherwise their order does not matter.
        output: folder of the label set.
        rule: default: union at IoU 0.9.
        images: folder of the photographs; default: that of the label sets, or of the photographs beside SA-1B files.
        shard_size: as for ``discover``.
        workers: processes; 0: one per core, or one for a few images.

    Raises:
        InputError: a source is missing or given twice, no common folder of photographs, image names that match
            several photographs or none, or ``output`` has another merge or unrelated files.
        FormatError: a source is damaged.
    """
    rule = rule or MergeRule()
    if not sources:
        raise InputError("expected at least one source to merge; got none")
    refuse_inputs([output], map(Path, sources))
    opened = _canonical_order([open_source(path) for path in sources], rule)
    identity, weights = _identity(opened, rule), _weights(opened)
    fingerprint = run_fingerprint(identity, weights)
    root = _photo_folder(opened, images)
    photos, matches, missing = _match_photos(opened, root)
    job = MergeJob(opened, rule, matches, pending_folder(output), fingerprint)
    with lock_folder(output):
        record = RunRecord.open(output, identity, weights, overwrite=overwrite)
        writer = LabelSetWriter.open(output, root, photos, shard_size=shard_size, overwrite=overwrite)
        todo = [photo for photo in photos if not writer.has(photo) and not job.finished(photo)]
        workers = batch.resolve_workers(workers, single=len(todo) <= _MAX_IMAGES_SINGLE)
        outcome = run_recorded_batch(
            photos,
            todo,
            job,
            record,
            unlisted=[],
            workers=workers,
            description="merge",
            show_progress=show_progress,
            on_result=writer.add,
        )
        missing_names = {str(source.path): names for source, names in zip(opened, missing, strict=True) if names}
        if missing_names:
            write_json(output / MISSING_FILE, missing_names)
        else:
            (output / MISSING_FILE).unlink(missing_ok=True)
        counts = [{"images": len(match), "missing": len(names)} for match, names in zip(matches, missing, strict=True)]
        writer.close(record, [s.record() | count for s, count in zip(opened, counts, strict=True)])
    return MergeResult(outcome, LabelSet.open(output).index["sources"])


def describe(result: MergeResult) -> str:
    """Format the counts of each source, one line per source."""
    lines = []
    for source in result.sources:
        counts = {key: value for key, value in source.items() if isinstance(value, int) and key != "label_free"}
        labels = {
            "missing": "images without a photograph",
            "kept": "masks kept",
            "rejected": "masks rejected",
            "crowd": "crowds left out",
            "empty": "empty masks left out",
        }
        parts = [f"{counts['images']} images"]
        parts += [f"{counts[key]} {text}" for key, text in labels.items() if counts.get(key)]
        lines.append(f"{source['path']}: {', '.join(parts)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class MergeJob:
    """Merges the masks of one photograph and writes the tree for ``LabelSetWriter``.

    Attributes:
        sources: in canonical order.
        matches: for each source, its image names by path of the photograph.
        output: folder of the trees.
        run: fingerprint of the merge, written into every tree.
    """

    sources: Sequence[LabelSource]
    rule: MergeRule
    matches: Sequence[Mapping[Path, str]]
    output: Path
    run: str

    def path(self, photo: Photo) -> Path:
        return self.output / f"{photo.name}.json"

    def finished(self, photo: Photo) -> bool:
        path = self.path(photo)
        return path.exists() and (treefile.read_header(path) or {}).get("run") == self.run

    def __call__(self, photo: Photo) -> None:
        by_source = {
            i: source.read(names[photo.path], i)
            for i, (source, names) in enumerate(zip(self.sources, self.matches, strict=True))
            if photo.path in names
        }
        sizes = {i: masks.size for i, masks in by_source.items()}
        if len(set(sizes.values())) > 1:
            text = ", ".join(f"{h} x {w} in {self.sources[i].path}" for i, (h, w) in sizes.items())
            raise InputError(f"expected one size (height x width) in all sources; got {text}; scale the masks to it")
        size = next(iter(sizes.values()))
        pools = [by_source[i].pool if i in by_source else MaskPool.joined([]) for i in range(len(self.sources))]
        merged = self.rule.merge(pools, size)
        if len(merged) > MAX_MASKS:
            raise InputError(f"expected at most {MAX_MASKS} masks; got {len(merged)}; merge fewer sources")
        left_out = Counter(
            {f"{i} {reason}": count for i, masks in by_source.items() for reason, count in masks.left_out.items()}
        )
        rejected = Counter({f"{i} rejected": len(pool) for i, pool in enumerate(pools)})
        rejected -= Counter(f"{i} rejected" for i in merged.sources.tolist())
        origin = {"sources": merged.sources.tolist(), "left_out": dict(left_out + rejected)}
        merged.tree(size).save(self.path(photo), image={"file_name": os.fspath(photo.path), "run": self.run} | origin)


def _canonical_order(sources: list[LabelSource], rule: MergeRule) -> list[LabelSource]:
    """Sort by content, so that the order of the arguments does not matter; the trusted source of fill stays first."""
    first = 1 if rule.name == "fill" else 0
    ordered = sources[:first] + sorted(sources[first:], key=lambda source: (source.sha256, str(source.path)))
    seen: dict[str, Path] = {}
    for source in ordered:
        if source.sha256 in seen:
            raise InputError(
                f"expected each source once; got {seen[source.sha256]} and {source.path} with the same content; "
                "leave one out"
            )
        seen[source.sha256] = source.path
    return ordered


def _identity(sources: Sequence[LabelSource], rule: MergeRule) -> dict[str, Any]:
    """The configuration that determines the result."""
    return {
        "method": f"merge ({rule.name})",
        "iou": rule.bound,
        "strict": rule.strict,
        "sources": [source.sha256 for source in sources],
    }


def _weights(sources: Sequence[LabelSource]) -> dict[str, Any]:
    """Takes the place of model weights in the record of the run."""
    digest = hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()
    return {"name": "merge", "sha256": digest, "label_free": all(source.label_free for source in sources)}


def _photo_folder(sources: Sequence[LabelSource], images: Path | None) -> Path:
    """Folder of the photographs."""
    if images is not None:
        check_photo_folder(images)
        return images
    roots = {source.root.resolve() for source in sources if source.root is not None}
    existing = [root for root in roots if root.is_dir()]
    if len(roots) == 1 and existing:
        return existing[0]
    got = ", ".join(map(str, sorted(roots))) or "none"
    raise InputError(f"expected the folder of the photographs, one for all sources; got {got}; give --images FOLDER")


def _match_photos(
    sources: Sequence[LabelSource], root: Path
) -> tuple[list[Photo], list[dict[Path, str]], list[list[str]]]:
    """Photographs that a source has, its image names by photograph, and its images without a photograph."""
    photos, _ = find_in_folder(root)
    paths = {photo.path.relative_to(root).as_posix(): photo.path for photo in photos}
    matches, missing = [], []
    for source in sources:
        matched, unmatched = match_images(source.images, paths, str(source.path))
        if not matched:
            raise InputError(
                f"{source.path}: expected images of the photographs in {root}; got {len(unmatched)} others, the first "
                f"{unmatched[0] if unmatched else '(none)'}; give their folder with --images"
            )
        matches.append({paths[name]: image for name, image in matched.items()})
        missing.append(unmatched)
    used = set().union(*matches)
    return [photo for photo in photos if photo.path in used], matches, missing
