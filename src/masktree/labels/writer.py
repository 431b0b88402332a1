"""Writing a label set, shard by shard, so that it can be interrupted at any moment."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from masktree.batch import Result
from masktree.errors import InputError
from masktree.files import read_json, sha256_of, write_json
from masktree.images import Photo
from masktree.labels.card import write_card
from masktree.labels.coco import CATEGORY, annotations_of
from masktree.labels.statistics import Statistics
from masktree.masks import MaskTree
from masktree.runs import RunRecord


class LabelSetWriter:
    """Collects one tree file per image under ``pending`` and folds each full shard into one COCO file.

    Image ids are the position of the image in the sorted collection, from 1, so they are unique whatever the file
    names are, and the same when the run is continued.
    """

    def __init__(self, folder: Path, root: Path, photos: Sequence[Photo], shard_size: int) -> None:
        self.folder = folder
        self.root = root
        self.photos = list(photos)
        self.shard_size = shard_size
        self.pending = folder / "pending"
        self._position = {photo.name: index for index, photo in enumerate(self.photos)}
        self._errors: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        root: Path,
        photos: Sequence[Photo],
        *,
        shard_size: int = 1000,
        overwrite: bool = False,
    ) -> LabelSetWriter:
        """Begin a label set of the photographs under ``root``, or continue one.

        Raises:
            InputError: the folder holds a label set of other photographs or other shards.
        """
        if shard_size < 1:
            raise InputError(f"expected a shard size of at least 1 image; got {shard_size}")
        writer = cls(folder, root, photos, shard_size)
        plan = {
            "root": str(root.resolve()),
            "shard_size": shard_size,
            "images": [photo.path.relative_to(root).as_posix() for photo in photos],
        }
        path = folder / "plan.json"
        if overwrite:
            shutil.rmtree(folder / "annotations", ignore_errors=True)
            shutil.rmtree(writer.pending, ignore_errors=True)
            (folder / "index.json").unlink(missing_ok=True)
        elif path.exists():
            before = read_json(path)
            if before != plan:
                changed = [key for key in plan if before.get(key) != plan[key]]
                raise InputError(
                    f"expected the collection that the label set in {folder} was begun with; {', '.join(changed)} "
                    "changed; choose another output folder, or --overwrite"
                )
        write_json(path, plan)
        return writer

    def finished(self, photo: Photo) -> bool:
        """Whether the image is in a finished shard or waits as a pending tree."""
        return self._shard_path(self._shard_of(photo)).exists() or self._tree_path(photo).exists()

    def add(self, result: Result) -> None:
        """Note one image's outcome; folds its shard when that is complete."""
        if result.error is not None:
            self._errors[result.photo.name] = result.error
        self._fold(self._shard_of(result.photo))

    def close(self, record: RunRecord) -> None:
        """Fold what is left, then write card and, last, the manifest."""
        shards, total = [], Statistics()
        for shard in range(-(-len(self.photos) // self.shard_size)):
            self._fold(shard)
            info = read_json(self._shard_path(shard))["info"]
            statistics = Statistics.from_json(info["statistics"])
            total.merge(statistics)
            shards.append(
                {
                    "file": self._shard_path(shard).relative_to(self.folder).as_posix(),
                    "sha256": sha256_of(self._shard_path(shard)),
                    "images": len(statistics.masks_per_image),
                    "masks": sum(statistics.masks_per_image),
                    "failures": info["failures"],
                }
            )
        shutil.rmtree(self.pending, ignore_errors=True)
        index = {
            "format": "masktree-labels",
            "version": 1,
            "root": str(self.root.resolve()),
            "config": record.config,
            "weights": record.weights,
            "summary": total.summary() | {"seconds_per_image": record.seconds_per_image},
            "shards": shards,
        }
        write_card(self.folder / "card.md", index)
        write_json(self.folder / "index.json", index, indent=1)

    def _fold(self, shard: int) -> None:
        """Write one COCO file if every image of the shard is done; its pending trees are then removed."""
        path = self._shard_path(shard)
        members = self.photos[shard * self.shard_size : (shard + 1) * self.shard_size]
        done = [photo for photo in members if photo.name in self._errors or self._tree_path(photo).exists()]
        if path.exists() or len(done) < len(members):
            return
        images, annotations, failures = [], [], []
        statistics = Statistics()
        for photo in members:
            file_name = photo.path.relative_to(self.root).as_posix()
            if photo.name in self._errors:
                failures.append({"file_name": file_name, "error": self._errors[photo.name]})
                continue
            tree = MaskTree.load(self._tree_path(photo))
            image_id = self._position[photo.name] + 1
            images.append({"id": image_id, "file_name": file_name, "height": tree.size[0], "width": tree.size[1]})
            annotations.extend(annotations_of(tree, image_id))
            statistics.add(tree)
        info = {"description": "masktree pseudo-labels", "statistics": statistics.to_json(), "failures": failures}
        write_json(path, {"info": info, "images": images, "annotations": annotations, "categories": [CATEGORY]})
        for photo in members:
            self._tree_path(photo).unlink(missing_ok=True)

    def _shard_of(self, photo: Photo) -> int:
        return self._position[photo.name] // self.shard_size

    def _shard_path(self, shard: int) -> Path:
        return self.folder / "annotations" / f"{shard:05d}.json"

    def _tree_path(self, photo: Photo) -> Path:
        return self.pending / f"{photo.name}.json"
