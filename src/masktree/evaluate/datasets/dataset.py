"""What is known about a data set, and finding its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from masktree.errors import InputError

if TYPE_CHECKING:
    from masktree.evaluate.ground_truth import ImageGroundTruth

ImageNames = frozenset[str] | None  # names of the images to read; None for all


class Counts(NamedTuple):
    """Sizes of a split; None where no trustworthy number is known."""

    images: int | None
    annotations: int | None


class DatasetReading(NamedTuple):
    """What a reader returns.

    Attributes:
        images: the selected images in the data set's order.
        found: counts of the whole files, selected or not. Annotations are counted as the files list them; None where
            only reading every image would tell.
    """

    images: list[ImageGroundTruth]
    found: Counts


# (path, split, only); the split is "" for data sets without any
DatasetReader = Callable[[Path, str, ImageNames], DatasetReading]


@dataclass(frozen=True)
class Dataset:
    """A benchmark and how its original files are read.

    Attributes:
        title: its name in print.
        licence: its terms, in a line.
        source: who made it, and where to get it.
        layout: which files or folders the path must have; ``{split}`` stands for the split.
        reader: module of this package and function, ``module:function``; imported on first use, so that the command
            line can list the data sets quickly.
        counts: expected sizes by split; the first split is the one that papers report. Empty where the split is the
            user's.
    """

    title: str
    licence: str
    source: str
    layout: str
    reader: str
    counts: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def read(self) -> DatasetReader:
        """The reader."""
        module, function = self.reader.split(":")
        reader: DatasetReader = getattr(import_module(f"masktree.evaluate.datasets.{module}"), function)
        return reader

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the reported one first; empty where the split is the user's."""
        return tuple(self.counts)

    @property
    def images(self) -> int | None:
        """Expected images of the reported split."""
        return next(iter(self.counts.values())).images if self.counts else None

    @property
    def annotations(self) -> int | None:
        """Expected annotations of the reported split, those of crowds included."""
        return next(iter(self.counts.values())).annotations if self.counts else None


def is_selected(name: str, only: ImageNames) -> bool:
    """Whether an image is to be read."""
    return only is None or name in only


def locate(path: Path, *names: str) -> Path:
    """The first of several files or folders that there is below ``path``; ``path`` itself if it is a file.

    Raises:
        InputError: there is none, or no ``path``.
    """
    if path.is_file():
        return path
    return inside(path, *names)


def inside(folder: Path, *names: str) -> Path:
    """The first of several files or folders that there is below ``folder``.

    Raises:
        InputError: there is none, or no folder.
    """
    if not folder.is_dir():
        got = "a file" if folder.is_file() else "nothing"
        raise InputError(f"{folder}: expected a folder with {' or '.join(names)}; got {got}; check the path")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise InputError(
        f"{folder}: expected {' or '.join(names)} in this folder; got none of them; "
        "download the data set, or give the folder as its layout says"
    )
