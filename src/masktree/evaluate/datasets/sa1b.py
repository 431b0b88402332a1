"""SA-1B: one JSON file beside each image (see ``masktree.coco.file.open_sa1b``), in folders or in tar packs."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from masktree.coco.file import open_sa1b
from masktree.coco.sa1b_pack import find_packs, read_pack
from masktree.errors import InputError
from masktree.evaluate.datasets.coco import read_ground_truth_of
from masktree.evaluate.datasets.dataset import Counts, DatasetReading, ImageNames


def read_sa1b(path: Path, split: str, only: ImageNames = None) -> DatasetReading:
    """A folder of ``sa_*.json``, by ascending number, a pack (.tar), or a folder of packs; of a list only its own files
    are opened. Images of packs are named after them: ``sa_000000/sa_1.jpg``.

    SA-1B has no validation split, and the papers' held-out images differ (HASSOD: the first pack, ``sa_000000``), so
    that a result says little without the list of images, which belongs to it.

    Raises:
        InputError: no such folder, no files in it, or a listed image without one.
        FormatError: a file is damaged.
    """
    packs = find_packs(path)
    if packs and not any(path.glob("sa_*.json")):
        return _read_packs(packs, only)
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder with files sa_*.json; got none; unpack a pack of SA-1B there")
    if only is None:
        files = list(path.glob("sa_*.json"))
        if not files:
            raise InputError(f"{path}: expected files sa_*.json; got none; unpack a pack of SA-1B there")
    else:
        files = [path / PurePosixPath(name).with_suffix(".json") for name in only]
        missing = sorted(str(file) for file in files if not file.is_file())
        if missing:
            raise InputError(
                f"{path}: expected a file for each of {len(files)} listed images; got none for {missing[0]} and "
                f"{len(missing) - 1} more; unpack the packs that have them"
            )
    images = []
    for file in sorted(files, key=_order):
        image = open_sa1b(file)
        images.append(read_ground_truth_of(image, image.file_name))
    return DatasetReading(images, Counts(len(images), sum(map(len, images))))


def _read_packs(packs: list[Path], only: ImageNames) -> DatasetReading:
    named = [pair for pack in packs for pair in read_pack(pack, lambda name: only is None or name in only)]
    if not named:
        raise InputError(
            f"{packs[0]}: expected images of SA-1B{' that are listed' if only else ''}; got none, names are such as "
            f"{packs[0].stem}/sa_1.jpg"
        )
    images = [read_ground_truth_of(image, name) for name, image in named]
    return DatasetReading(images, Counts(len(images), sum(map(len, images))))


def _order(file: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", file.stem)
    return (int(digits.group()) if digits else -1, file.name)
