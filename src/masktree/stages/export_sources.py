"""What is exported: the trees of a folder of ``masktree segment``, one tree file, or a label set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from masktree.coco.annotations import tree_from_annotations
from masktree.coco.file import CocoFile, CocoImage
from masktree.errors import FormatError, InputError
from masktree.export.image import LabelledImage
from masktree.io.contents import describe_contents
from masktree.io.files import sha256_of
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
    """

    file_name: str
    photo: Path
    number: int
    labels: CocoImage | None = None
    shard_sha256: str = ""

    def fingerprint(self) -> str:
        """Changes with the masks."""
        return sha256_of(self.path) if self.labels is None else f"{self.shard_sha256} {self.number}"

    def load(self) -> LabelledImage:
        """Read the masks.

        Raises:
            FormatError: damaged.
        """
        if self.labels is None:
            tree, classes = treefile.read_tree_and_classes(self.path)
            return LabelledImage(self.name, self.file_name, self.photo, self.number, tree, classes)
        annotations = self.labels.annotations()
        tree = tree_from_annotations(annotations, self.labels.size, str(self.labels))
        has_sources = bool(annotations) and all("source" in annotation for annotation in annotations)
        extras = {"source": [annotation["source"] for annotation in annotations]} if has_sources else {}
        return LabelledImage(self.name, self.file_name, self.photo, self.number, tree, None, extras)


def find_masks(source: Path, images: Path | None = None) -> list[SavedMasks]:
    """The masks at a path, in the order of their files.

    Args:
        source: folder of ``masktree segment``, searched recursively; a tree file; or a label set.
        images: folder of the photographs; None takes them from where they were.

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
        return _saved_trees([(source, source.stem)], images)
    if not source.is_dir():
        raise InputError(
            f"expected a tree file, a folder of masktree segment or a label set; got {describe_contents(source)}"
        )
    if (source / "index.json").exists() or (source / "plan.json").exists():
        return _label_set(source, images)
    files = [path for path in sorted(source.rglob("*.json")) if path.is_file() and treefile.is_tree_file(path)]
    if not files:
        raise InputError(f"expected a folder of masktree segment or a label set; got {describe_contents(source)}")
    return _saved_trees([(path, path.relative_to(source).with_suffix("").as_posix()) for path in files], images)


def _saved_trees(files: list[tuple[Path, str]], images: Path | None) -> list[SavedMasks]:
    photos = None if images is None else {photo.name: photo.path for photo in find_photos([images])[0]}
    found = []
    for number, (path, name) in enumerate(files, start=1):
        header = treefile.read_header(path) or {}  # a damaged tree fails when it is read, alone
        recorded = Path(str(header.get("file_name") or name))
        photo = recorded if photos is None else photos.get(name, Path(str(images)) / recorded.name)
        file_name = PurePosixPath(name).with_name(photo.name).as_posix()
        found.append(SavedMasks(path, name, file_name, photo, number))
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
