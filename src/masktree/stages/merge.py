"""The stage that merges label sets, people's COCO files and folders of SA-1B into one of these."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from masktree.coco.annotations import MAX_MASKS
from masktree.coco.document import read_info
from masktree.errors import FormatError, InputError
from masktree.io.files import lock_folder, read_json, write_json
from masktree.io.photos import Photo, find_photos, name_outputs
from masktree.jobs import batch
from masktree.jobs.record import RunRecord, run_fingerprint
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.labels import LabelSet, LabelSetWriter
from masktree.labels.exports import write_coco, write_sa1b
from masktree.labels.merge import MaskPool, MergeRule
from masktree.labels.sources import LabelSource, match_images, open_source
from masktree.labels.writer import pending_folder
from masktree.trees import file as treefile

Target = Literal["labels", "coco", "sa1b"]
MISSING = "missing.json"  # names of images without a photograph, by source
MANIFEST = "merge.json"  # of a folder of SA-1B, written last
_FEW = 500  # images that one process merges in less time than others take to start (our choice)


@dataclass(frozen=True)
class Merged:
    """What was done, and for each source: what it is, and what became of its images and masks."""

    outcome: BatchOutcome
    sources: list[dict[str, Any]]


def merge(
    sources: Sequence[str | Path],
    output: Path,
    rule: MergeRule | None = None,
    *,
    to: Target = "labels",
    images: Path | None = None,
    shard_size: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Merged:
    """Merge the masks of each image. A stopped merge goes on with the same command.

    An image is in the result if one source has it. Where its sources disagree on its size it fails, as a damaged one
    does, and the rest goes on. The tree is made anew: parents by coverage, levels by depth.

    Args:
        sources: label sets, COCO files, folders of SA-1B; see ``masktree.labels.sources``. With the rule fill the first
            is the trusted one; otherwise their order does not matter.
        output: folder of a label set or of SA-1B files, or COCO file.
        rule: union at IoU 0.9 if not given.
        to: labels: a label set, which ``masktree train`` takes. coco: one file. sa1b: one file per image.
        images: folder of the photographs; where not given, that of the label sets, or of SA-1B's photographs beside
            their files. A result other than a label set needs none.
        shard_size: as for ``discover``.
        workers: processes; 0 chooses: one per core, or one for a few images.

    Raises:
        InputError: no such source, one given twice, no common folder of photographs, image names that fit several
            photographs or none, another merge in ``output``, or files of others there.
        FormatError: a source is damaged.
    """
    rule = rule or MergeRule()
    if not sources:
        raise InputError("expected at least one source to merge; got none")
    for path in sources:
        if Path(path).resolve() == output.resolve():
            raise InputError(f"expected an output beside the sources; got {output}, which is one; choose another")
    opened = _in_order([open_source(path) for path in sources], rule)
    identity, weights = _identity(opened, rule), _weights(opened)
    run = run_fingerprint(identity, weights)
    folder = output if to == "labels" else output.with_name(f".{output.name}.merge")
    done = None if overwrite or to == "labels" else _finished(output, to, run)
    if done is not None:
        return Merged(BatchOutcome(0, done["images"], done["failures"]), done["sources"])
    root = _root(opened, images, needed=to == "labels")
    photos, matches, missing = _match(opened, root)
    job = MergeJob(opened, rule, matches, pending_folder(folder), run)
    with lock_folder(folder):
        record = RunRecord.open(folder, identity, weights, overwrite=overwrite)
        base = Path() if root is None else root
        writer = LabelSetWriter.open(folder, base, photos, shard_size=shard_size, overwrite=overwrite)
        todo = [photo for photo in photos if not writer.has(photo) and not job.finished(photo)]
        workers = batch.resolve_workers(workers, single=len(todo) <= _FEW)
        outcome = run_recorded_batch(
            todo,
            job,
            record,
            skipped=len(photos) - len(todo),
            unlisted=[],
            workers=workers,
            description="merge",
            show_progress=show_progress,
            on_result=writer.add,
        )
        lost = {str(source.path): names for source, names in zip(opened, missing, strict=True) if names}
        if lost:
            write_json(folder / MISSING, lost)
        else:
            (folder / MISSING).unlink(missing_ok=True)
        counts = [{"images": len(found), "missing": len(names)} for found, names in zip(matches, missing, strict=True)]
        writer.close(record, [s.record() | count for s, count in zip(opened, counts, strict=True)])
    summary = LabelSet.open(folder).index["sources"]
    if to != "labels":
        manifest = {"images": outcome.completed + outcome.skipped, "failures": record.failures, "sources": summary}
        _convert(folder, output, to, identity | {"run": run} | manifest, overwrite)
    return Merged(outcome, summary)


def describe(merged: Merged) -> str:
    """What became of each source, a line for each."""
    lines = []
    for source in merged.sources:
        counts = {key: value for key, value in source.items() if isinstance(value, int) and key != "label_free"}
        labels = {
            "missing": "images without a photograph",
            "kept": "masks kept",
            "rejected": "not kept",
            "crowd": "crowds left out",
            "empty": "empty masks left out",
        }
        parts = [f"{counts['images']} images"]
        parts += [f"{counts[key]} {text}" for key, text in labels.items() if counts.get(key)]
        lines.append(f"{source['path']}: {', '.join(parts)}")
    return "\n".join(lines)


class MergeJob:
    """The merged tree of one photograph, written where ``LabelSetWriter`` folds it.

    Attributes:
        sources: in the order of their numbers.
        matches: for each source, its name of each photograph's image by the photograph's path.
        output: folder of the trees.
        run: fingerprint, written into every tree.
    """

    def __init__(
        self,
        sources: Sequence[LabelSource],
        rule: MergeRule,
        matches: Sequence[Mapping[Path, str]],
        output: Path,
        run: str,
    ) -> None:
        self.sources, self.rule, self.matches, self.output, self.run = sources, rule, matches, output, run

    def path(self, photo: Photo) -> Path:
        return self.output / f"{photo.name}.json"

    def finished(self, photo: Photo) -> bool:
        path = self.path(photo)
        return path.exists() and (treefile.read_header(path) or {}).get("run") == self.run

    def __call__(self, photo: Photo) -> None:
        found = {
            number: source.read(names[photo.path], number)
            for number, (source, names) in enumerate(zip(self.sources, self.matches, strict=True))
            if photo.path in names
        }
        sizes = {number: one.size for number, one in found.items()}
        if len(set(sizes.values())) > 1:
            text = ", ".join(f"{h} x {w} in {self.sources[n].path}" for n, (h, w) in sizes.items())
            raise InputError(f"expected one size (height x width) in all sources; got {text}; scale the masks to it")
        size = next(iter(sizes.values()))
        pools = [found[n].pool if n in found else MaskPool.joined([]) for n in range(len(self.sources))]
        merged = self.rule.merge(pools, size)
        if len(merged) > MAX_MASKS:
            raise InputError(f"expected at most {MAX_MASKS} masks; got {len(merged)}; merge fewer sources")
        left_out = Counter(
            {f"{n} {reason}": count for n, one in found.items() for reason, count in one.left_out.items()}
        )
        rejected = Counter({f"{n} rejected": len(pool) for n, pool in enumerate(pools)})
        rejected -= Counter(f"{n} rejected" for n in merged.sources.tolist())
        origin = {"sources": merged.sources.tolist(), "left_out": dict(left_out + rejected)}
        merged.tree(size).save(self.path(photo), image={"file_name": os.fspath(photo.path), "run": self.run} | origin)


def _in_order(sources: list[LabelSource], rule: MergeRule) -> list[LabelSource]:
    """The order that numbers them, whatever the order they were given in; the trusted one of add stays first."""
    first = 1 if rule.name == "fill" else 0
    ordered = sources[:first] + sorted(sources[first:], key=lambda source: (source.sha256, str(source.path)))
    seen: dict[str, Path] = {}
    for source in ordered:
        if source.sha256 in seen:
            raise InputError(f"expected each source once; got {seen[source.sha256]} and {source.path} of one content")
        seen[source.sha256] = source.path
    return ordered


def _identity(sources: Sequence[LabelSource], rule: MergeRule) -> dict[str, Any]:
    """What decides the result."""
    return {
        "method": f"merge ({rule.name})",
        "iou": rule.bound,
        "strict": rule.strict,
        "sources": [source.sha256 for source in sources],
    }


def _weights(sources: Sequence[LabelSource]) -> dict[str, Any]:
    """Stands for the weights that labels are made with."""
    digest = hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest()
    return {"name": "merge", "sha256": digest, "label_free": all(source.label_free for source in sources)}


def _root(sources: Sequence[LabelSource], images: Path | None, *, needed: bool) -> Path | None:
    """Folder of the photographs."""
    if images is not None:
        if not images.is_dir():
            raise InputError(f"expected the folder of the photographs; got {images}")
        return images
    roots = {source.root.resolve() for source in sources if source.root is not None}
    there = [root for root in roots if root.is_dir()]
    if len(roots) == 1 and there:
        return there[0]
    if not needed and not there:
        return None
    got = ", ".join(map(str, sorted(roots))) or "none"
    raise InputError(f"expected the folder of the photographs, one for all sources; got {got}; give --images FOLDER")


def _match(
    sources: Sequence[LabelSource], root: Path | None
) -> tuple[list[Photo], list[dict[Path, str]], list[list[str]]]:
    """The photographs that a source has, for each source its images by photograph, and its images without one.

    Without a folder of photographs the images' own names stand for it; then all sources must call an image the same.
    """
    if root is None:
        names = sorted({name for source in sources for name in source.images}, key=_walk_order)
        if any(PurePosixPath(name).is_absolute() for name in names):
            raise InputError("expected names of images below a folder; got absolute paths; give --images FOLDER")
        _refuse_look_alikes(sources, names)
        photos = name_outputs([(Path(name), name) for name in names])
    else:
        photos, _ = find_photos([root])
    paths = {photo.path.relative_to(root or "").as_posix(): photo.path for photo in photos}
    matches, missing = [], []
    for source in sources:
        found, without = match_images(source.images, paths, str(source.path))
        if not found:
            raise InputError(
                f"{source.path}: expected images of the photographs in {root}; got {len(without)} others, the first "
                f"{without[0] if without else '(none)'}; give their folder with --images"
            )
        matches.append({paths[name]: image for name, image in found.items()})
        missing.append(without)
    matched = set().union(*matches)
    return [photo for photo in photos if photo.path in matched], matches, missing


def _refuse_look_alikes(sources: Sequence[LabelSource], names: Sequence[str]) -> None:
    """Without photographs nobody can say whether 7.jpg of one source is val/7.jpg of another."""
    for source in sources:
        others = [name for name in names if name not in source.images]
        found, _ = match_images(others, source.images, str(source.path))
        if found:
            name, other = next(iter(found.items()))
            raise InputError(
                f"expected one name for an image in all sources; got {name} in {source.path} and {other} elsewhere; "
                "give the folder of the photographs with --images"
            )


def _walk_order(name: str) -> tuple[tuple[bool, str], ...]:
    """The order in which ``find_photos`` lists: the files of a folder, then its folders."""
    *folders, last = PurePosixPath(name).parts
    return (*((True, folder) for folder in folders), (False, last))


def _finished(output: Path, to: Target, run: str) -> dict[str, Any] | None:
    """The manifest of the same merge in ``output``; None if it is still to be made.

    Raises:
        InputError: another one is there.
    """
    path = output if to == "coco" else output / MANIFEST
    if not path.exists():
        return None
    shape: dict[str, type] = {"run": str, "images": int, "failures": list, "sources": list}
    try:
        manifest = read_info(output) if to == "coco" else read_json(path, shape)
    except FormatError:
        manifest = {}
    if any(not isinstance(manifest.get(key), kind) for key, kind in shape.items()):
        raise InputError(f"expected the name of a new file; got {output} of something else; choose another")
    if manifest["run"] != run:
        raise InputError(
            f"expected the sources and the rule that made {output}; got others; choose another output, or --overwrite"
        )
    return manifest


def _convert(folder: Path, output: Path, to: Target, manifest: dict[str, Any], overwrite: bool) -> None:
    """The label set in ``folder`` as files of others; it is removed when they are complete."""
    labels = LabelSet.open(folder, verify=True)
    if to == "coco":
        write_coco(labels, output, manifest)
    else:
        write_sa1b(labels, output, manifest["run"], overwrite=overwrite)
        write_json(output / MANIFEST, manifest, indent=1)
    shutil.rmtree(folder)
