"""What the files of tiled images have in common: a NumPy archive with a header, of which single arrays are read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from masktree.errors import FormatError
from masktree.io.block_grid import BlockGrid
from masktree.io.files import write_atomically
from masktree.io.geotiff_tags import GeoTiffTags


@dataclass(frozen=True)
class TiledHeader:
    """What a file says of its image.

    Attributes:
        grid: the blocks.
        geotiff_tags: of the image.
        reading: channels and value range of the image that are shown, and notes on what is not, where there are any.
    """

    grid: BlockGrid
    geotiff_tags: GeoTiffTags
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TiledHeader:
        """From what ``record`` gives."""
        return cls(
            BlockGrid((int(record["height"]), int(record["width"])), int(record["block"])),
            GeoTiffTags.from_record(record["geotiff_tags"]),
            dict(record.get("reading", {})),
        )

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "height": self.grid.size[0],
            "width": self.grid.size[1],
            "block": self.grid.block,
            "geotiff_tags": self.geotiff_tags.record(),
            "reading": self.reading,
        }


@contextmanager
def open_tiled_file(path: Path, form: str, version: int, what: str) -> Iterator[tuple[TiledHeader, Mapping[str, Any]]]:
    """The header of a file and its arrays, which are read when they are asked for.

    Raises:
        FormatError: damaged, another file, or an unknown version; also for whatever the caller finds wrong inside.
        FileNotFoundError: no such file.
    """
    try:
        # NumPy leaves a damaged file open that it has opened itself.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            record = json.loads(str(archive["header"].item()))
            if record["format"] != form or record["version"] != version:
                raise FormatError(f"{path}: expected version {version} of {form}; got {record['version']}")
            yield TiledHeader.from_record(record), archive
    except FormatError:
        raise
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: expected {what} of masktree; got a damaged or another file") from error


def write_tiled_file(
    path: Path, form: str, version: int, header: TiledHeader, write: Callable[[zipfile.ZipFile], None]
) -> None:
    """Write a file atomically: its header, and what ``write`` adds with ``write_array``."""
    record = {"format": form, "version": version, **header.record()}

    def write_all(handle: IO[bytes]) -> None:
        # Level 1: leaves of photographs are as small as at the default, in a third of the time.
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            write_array(archive, "header", np.array(json.dumps(record)))
            write(archive)

    write_atomically(path, write_all)


def write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Add an array to an archive that ``numpy.load`` opens."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
