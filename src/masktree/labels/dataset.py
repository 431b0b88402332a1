"""Reading a finished label set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import FormatError
from masktree.files import read_json, sha256_of
from masktree.labels.coco import tree_of
from masktree.masks import MaskTree


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
    def open(cls, folder: str | Path, *, verify: bool = False) -> LabelSet:
        """Open a finished label set.

        Args:
            verify: compare every shard with the hash in the manifest.

        Raises:
            FormatError: not a label set, not finished, damaged.
        """
        folder = Path(folder)
        path = folder / "index.json"
        if not path.exists():
            state = (
                "an unfinished one; run the same discover command again" if (folder / "plan.json").exists() else "none"
            )
            raise FormatError(f"{folder}: expected a finished label set (index.json); got {state}")
        index = read_json(path)
        if index.get("format") != "masktree-labels" or index.get("version") != 1:
            raise FormatError(f"{path}: expected a masktree label set, version 1; got something else")
        for shard in index["shards"]:
            file = folder / shard["file"]
            if not file.exists():
                raise FormatError(f"{folder}: {shard['file']} is in the manifest and not in the folder")
            if verify and sha256_of(file) != shard["sha256"]:
                raise FormatError(f"{file}: differs from the hash in the manifest; make the label set again")
        return cls(folder, index)

    def __len__(self) -> int:
        """Number of images."""
        return sum(shard["images"] for shard in self.index["shards"])

    def __iter__(self) -> Iterator[tuple[dict[str, Any], MaskTree]]:
        for shard in self.index["shards"]:
            document = read_json(self.folder / shard["file"])
            by_image = defaultdict(list)
            for annotation in document["annotations"]:
                by_image[annotation["image_id"]].append(annotation)
            for image in document["images"]:
                yield image, tree_of(by_image[image["id"]], (image["height"], image["width"]))

    def image_path(self, image: dict[str, Any]) -> Path:
        """Where the photograph of an image record is, or was when the labels were made."""
        return Path(self.index["root"]) / image["file_name"]
