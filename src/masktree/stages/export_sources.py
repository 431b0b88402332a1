"""What is exported: the trees of a folder of ``masktree segment``, one tree file, or a label set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from masktree.coco.annotations import tree_from_annotations
from masktree.coco.file import CocoFile, CocoImage
from masktree.edits import EditedTree, log_path
from masktree.errors import FormatError, InputError
from masktree.export.image import LabelledImage
from masktree.io.contents import describe_contents
from masktree.io.files import is_whole, sha256_of
from masktree.io.photos import Photo, find_photos, name_outputs
from masktree.labels import LabelSet
from masktree.trees import file as treefile


@dataclass(frozen=True)
class SavedMasks(Photo):
    """The masks of one image on disk, not read yet; picklable.

    Attributes:
        path: tree file, or photograph of a label set: what messages name.
        name: POSIX path of its files below the output folder, without suffix.
        file_name: POSIX path of the photograph below its collection.
        photo: where the photograph is.
        number: of the image, from 1.
        labels: its annotations in a label set, or None.
        shard_sha256: of the file of those annotations.
        edits: file of the edits that are applied to the tree, or None.
        page: of the photograph's file that was segmented, from 0.
    """

    file_name: str
    photo: Path
    number: int
    labels: CocoImage | None = None
    shard_sha256: str = ""
    edits: Path | None = None
    page: int = 0

    def fingerprint(self) -> str:
        """Changes with the masks."""
        if self.labels is not None:
            return f"{self.shard_sha256} {self.number}"
        return sha256_of(self.path) + ("" if self.edits is None else f" {sha256_of(self.edits)}")

    def content_key(self) -> str | None:
        """Changes with the masks; None if they cannot be read."""
        try:
            return self.fingerprint()
        except OSError:
            return None

    def load(self) -> LabelledImage:
        """Read the masks.

        Raises:
            FormatError: damaged.
            InputError: damaged edits, or those of another tree.
        """
        if self.edits is not None:
            return self._load_edited()
        if self.labels is None:
            tree, names = treefile.read_tree_and_classes(self.path)
            classes = None if names is None else tuple(name or None for name in names)
            return LabelledImage(self.name, self.file_name, self.photo, self.number, tree, classes, page=self.page)
        annotations = self.labels.annotations()
        tree = tree_from_annotations(annotations, self.labels.size, str(self.labels))
        has_sources = bool(annotations) and all("source" in annotation for annotation in annotations)
        extras = {"source": [annotation["source"] for annotation in annotations]} if has_sources else {}
        return LabelledImage(self.name, self.file_name, self.photo, self.number, tree, None, extras)

    def _load_edited(self) -> LabelledImage:
        return self.label(EditedTree.open(self.path))

    def label(self, edited: EditedTree) -> LabelledImage:
        """The corrected masks with their classes; names and decisions of people are extras, where there are any."""
        tree, classes, names = edited.result()
        status = [text for text, is_kept in zip(edited.status, edited.kept, strict=True) if is_kept]
        extras: dict[str, Sequence[Any]] = {"name": names} if any(names) else {}
        extras |= {"status": status} if set(status) != {"none"} else {}
        return LabelledImage(
            self.name, self.file_name, self.photo, self.number, tree, classes, extras, edited.class_names, self.page
        )


def find_masks(source: Path, images: Path | None = None, *, edits: bool = True) -> list[SavedMasks]:
    """The masks at a path, in the order of their files.

    Args:
        source: folder of ``masktree segment``, searched recursively; a tree file; or a label set.
        images: folder of the photographs; None takes them from where they were.
        edits: whether trees are corrected by the edits beside them.

    Raises:
        InputError: something else, or no trees.
        FormatError: a damaged or unfinished label set.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"expected the folder of the photographs; got {images}")
    if source.is_file():
        if not treefile.is_tree_file(source):
            raise InputError(
                f"expected a tree file, a folder of them or a label set; got {source}; see masktree import"
            )
        return _saved_trees([(source, source.stem)], images, edits)
    if not source.is_dir():
        raise InputError(
            f"expected a tree file, a folder of masktree segment or a label set; got {describe_contents(source)}"
        )
    if (source / "index.json").exists() or (source / "plan.json").exists():
        return _label_set(source, images)
    files = [path for path in sorted(source.rglob("*.json")) if path.is_file() and treefile.is_tree_file(path)]
    if not files:
        raise InputError(f"expected a folder of masktree segment or a label set; got {describe_contents(source)}")
    return _saved_trees([(path, path.relative_to(source).with_suffix("").as_posix()) for path in files], images, edits)


def _saved_trees(files: list[tuple[Path, str]], images: Path | None, edits: bool) -> list[SavedMasks]:
    photos = None if images is None else {photo.name: photo.path for photo in find_photos([images])[0]}
    found = []
    for number, (path, name) in enumerate(files, start=1):
        header = treefile.read_header(path) or {}  # a damaged tree fails when it is read, alone
        recorded = Path(str(header.get("file_name") or name))
        photo = recorded if photos is None else photos.get(name, Path(str(images)) / recorded.name)
        file_name = PurePosixPath(name).with_name(photo.name).as_posix()
        log = log_path(path)
        corrected = log if edits and log.is_file() else None
        read = header.get("read")
        page = read.get("page", 0) if isinstance(read, dict) else 0
        page = page if is_whole(page) else 0
        found.append(SavedMasks(path, name, file_name, photo, number, edits=corrected, page=page))
    return found


def _label_set(folder: Path, images: Path | None) -> list[SavedMasks]:
    labels = LabelSet.open(folder, root=images, verify=True)
    root = Path(labels.index["root"])
    found: dict[Path, SavedMasks] = {}
    for shard in labels.index["shards"]:
        for image in CocoFile.open(folder / shard["file"]).images:
            path = root / image.file_name
            if path in found:
                raise FormatError(f"{folder}: expected each image once; got {image.file_name} twice")
            found[path] = SavedMasks(path, "", image.file_name, path, image.id, image, shard["sha256"])
    named = name_outputs([(path, masks.file_name) for path, masks in found.items()])
    return [replace(found[photo.path], name=photo.name) for photo in named]
