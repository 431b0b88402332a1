"""Reading a finished label set."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.arguments import check_path
from masktree.coco.annotations import tree_from_annotations
from masktree.coco.document import read_document
from masktree.errors import FormatError, MasktreeError
from masktree.io.contents import describe_contents
from masktree.io.files import is_relative_path, is_whole, read_json, sha256_of
from masktree.trees.masktree import MaskTree


@dataclass(frozen=True)
class LabelSet:
    """A label set on disk. Iterating yields (image record, tree) shard by shard: one shard in memory at a time.

    Attributes:
        folder: the label set.
        index: content of its index.json.
    """

    folder: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, *, root: str | Path | None = None, verify: bool = False) -> LabelSet:
        """Open a finished label set.

        Args:
            root: where the photographs are now, if they were moved.
            verify: compare every shard with the hash in the manifest.

        Raises:
            FormatError: not a label set, not finished, damaged.
        """
        check_path(folder)
        folder = Path(folder)
        path = folder / "index.json"
        if not path.exists():
            if (folder / "plan.json").exists():
                got = f"an unfinished one at {folder}; run the same discover command again"
            else:
                got = f"{describe_contents(folder)}; give the output folder of masktree discover or masktree merge"
            raise FormatError(f"expected the folder of a finished label set, with index.json; got {got}")
        index = read_json(path, {"config": dict, "weights": dict, "summary": dict, "shards": list, "root": str})
        if root is not None:
            index["root"] = str(root)
        if index.get("format") != "masktree-labels" or index.get("version") != 1:
            raise FormatError(f"{path}: expected a masktree label set, version 1; got something else; make it again")
        for shard in index["shards"]:
            _check_shard(shard, path)
            file = folder / shard["file"]
            if not file.is_file():
                raise FormatError(f"{folder}: {shard['file']} is in the manifest and not in the folder")
            if verify and sha256_of(file) != shard["sha256"]:
                raise FormatError(f"{file}: differs from the hash in the manifest; make the label set again")
        return cls(folder, index)

    def __len__(self) -> int:
        """Number of images."""
        return sum(shard["images"] for shard in self.index["shards"])

    def __iter__(self) -> Iterator[tuple[dict[str, Any], MaskTree]]:
        for shard in self.index["shards"]:
            for image, records in read_document(self.folder / shard["file"]):
                where = f"{shard['file']}, image {image['file_name']}"
                try:
                    tree = tree_from_annotations(records, (image["height"], image["width"]), where)
                except FormatError:
                    raise
                except MasktreeError as error:
                    raise FormatError(f"{where}: {error}") from error
                yield image, tree

    def image_path(self, image: dict[str, Any]) -> Path:
        """Where the photograph of an image record is, or was when the labels were made."""
        root: str = self.index["root"]
        return Path(root, image["file_name"])


def _check_shard(shard: Any, path: Path) -> None:
    """Raise FormatError unless an entry of ``shards`` is one that ``LabelSetWriter`` makes."""
    if (
        not isinstance(shard, dict)
        or not is_relative_path(shard.get("file"))
        or not isinstance(shard.get("sha256"), str)
        or not (is_whole(shard.get("images")) and is_whole(shard.get("masks")))
    ):
        raise FormatError(
            f"{path}: expected shards with a file below the folder, its sha256 and its numbers of images and masks; "
            f"got {reprlib.repr(shard)}; make the label set again"
        )
