"""Import stage: files of other tools into tree files, as ``masktree segment`` writes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from masktree.edits import refuse_edited
from masktree.errors import InputError
from masktree.importers.formats import IMPORTERS, guess_format
from masktree.importers.image import ForeignImage, to_tree
from masktree.io.files import has_sha256, is_relative_path, lock_folder, refuse_inputs, sha256_of
from masktree.io.images import describe_image
from masktree.io.photos import Photo, find_photos, name_outputs
from masktree.jobs.record import RECORD, RunRecord, run_fingerprint
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.labels.sources import match_images
from masktree.trees import file as treefile

_RECORDS = ("run.json", "failures.json", "merge.json", "missing.json")  # of masktree, beside files of SA-1B


@dataclass(frozen=True)
class ImportJob:
    """Writes the tree of one image.

    Attributes:
        images: by name of the output.
        output: folder of the trees.
        run: fingerprint of the import, written into every tree.
    """

    images: Mapping[str, ForeignImage]
    output: Path
    run: str

    def path(self, photo: Photo) -> Path:
        """The tree file of an image."""
        return self.output / f"{photo.name}.json"

    def is_finished(self, photo: Photo) -> bool:
        """Whether there is a tree of this import and of the current photograph."""
        path = self.path(photo)
        header = treefile.read_header(path) if path.exists() else None
        if header is None or header.get("run") != self.run:
            return False
        return has_sha256(photo.path, header["sha256"]) if "sha256" in header else not photo.path.is_file()

    def __call__(self, photo: Photo) -> None:
        header: dict[str, Any] = {"file_name": os.fspath(photo.path), "run": self.run}
        photo_size = None
        if photo.path.is_file():
            header |= {"bytes": photo.path.stat().st_size, "sha256": sha256_of(photo.path)}
            photo_size = describe_image(photo.path).upright_size
        size, masks = self.images[photo.name].read(photo_size)
        if photo_size is not None and size != photo_size:
            raise InputError(
                f"expected masks of the photograph's size, {photo_size[0]} x {photo_size[1]}; got {size[0]} x "
                f"{size[1]}; give the folder of the right photographs with --images"
            )
        tree, classes = to_tree(size, masks)
        treefile.write_tree(tree, self.path(photo), header, classes)


def import_trees(
    source: Path,
    output: Path,
    from_format: str | None = None,
    *,
    images: Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Write a tree file for every image of a file, or of the files in a folder. Damaged images fail, others go on.

    Args:
        source: file or folder, searched recursively.
        output: folder of the trees.
        from_format: a name of ``masktree.importers.formats.IMPORTERS``; None guesses it from the content.
        images: folder of the photographs; None looks beside the source.
        overwrite: whether to import images again that have a tree.
        show_progress: whether to show a progress bar on standard error.

    Raises:
        InputError: no such file, an unknown format, images that match several photographs, or files where results go.
        FormatError: a damaged file.
    """
    if from_format is not None and from_format not in IMPORTERS:
        raise InputError(f"expected a format of {', '.join(IMPORTERS)}; got {from_format!r}")
    refuse_inputs([output], [source] if images is None else [source, images])
    files = _files(source, from_format)
    from_format = from_format or guess_format(files[0])
    found: list[tuple[str, ForeignImage]] = []
    for file in files:
        above = file.parent.relative_to(source).as_posix() if source.is_dir() else ""
        for image in IMPORTERS[from_format].read(file):
            found.append((_relative_name(image.file_name, above), image))
    photos, by_name = _photographs(found, source, images)
    digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()
    config = {"stage": "import", "from": from_format, "source_sha256": digest}
    with lock_folder(output):
        record = RunRecord.open(output, config, {}, overwrite=overwrite)
        job = ImportJob(by_name, output, run_fingerprint(config, {}))
        todo = [photo for photo in photos if overwrite or not job.is_finished(photo)]
        refuse_edited(job.path(photo) for photo in todo)
        is_ours = (output / RECORD).exists()
        for photo in todo:
            path = job.path(photo)
            if path.exists() and not (treefile.is_tree_file(path) and (is_ours or overwrite)):
                raise InputError(
                    f"expected no foreign files where results go; got {path}; choose another output folder"
                )
        return run_recorded_batch(
            photos,
            todo,
            job,
            record,
            unlisted=[],
            workers=1,
            description="import",
            show_progress=show_progress,
        )


def _files(source: Path, from_format: str | None) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"expected a file or folder of another tool; got nothing at {source}")
    every = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    formats = IMPORTERS.values() if from_format is None else [IMPORTERS[from_format]]
    suffixes = tuple({suffix for importer in formats for suffix in importer.suffixes})
    files = [path for path in every if path.name.lower().endswith(suffixes) and path.name not in _RECORDS]
    if from_format is None and files:  # the photographs beside annotations are no label images
        annotations = [path for path in files if path.suffix.lower() not in (".png", ".tif", ".tiff")]
        files = annotations or files
    if not files:
        raise InputError(f"expected files of another tool; got none in {source}; name their format with --from")
    return files


def _relative_name(file_name: str, above: str) -> str:
    """Path of an image below its collection: that of the file; only the last part of absolute paths and those that
    leave their folder."""
    name = file_name.replace("\\", "/").lstrip("/")
    if not is_relative_path(name) or ":" in name:
        return PurePosixPath(above, PurePosixPath(name).name).as_posix()
    return PurePosixPath(above, name).as_posix()


def _photographs(
    found: list[tuple[str, ForeignImage]], source: Path, images: Path | None
) -> tuple[list[Photo], dict[str, ForeignImage]]:
    """The photographs of the images with the names of their trees, and the images by these names."""
    if not found:
        raise InputError(f"expected images with masks; got none in {source}")
    root = images or (source if source.is_dir() else source.parent)
    if images is not None and not images.is_dir():
        raise InputError(f"expected the folder of the photographs; got {images}")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"expected each image once; got {twice} twice in {source}")
    matched: dict[str, Path] = {}
    if images is not None:
        paths = {photo.path.relative_to(images).as_posix(): photo.path for photo in find_photos([images])[0]}
        pairs, _ = match_images(names, paths, str(source))
        matched = {name: paths[photo] for photo, name in pairs.items()}
    named = []
    for name, image in found:
        path = matched.get(name, root / name)
        relative = path.relative_to(images).as_posix() if images is not None and name in matched else name
        named.append((path, relative, image))
    photos = name_outputs([(path, relative) for path, relative, _ in named])
    return photos, {photo.name: image for photo, (_, _, image) in zip(photos, named, strict=True)}
