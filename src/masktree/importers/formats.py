"""The formats that are imported: what each is called, how it is read, and how a file is recognised.

To add one, write its module, with a function that takes a path and yields ``ForeignImage``s, and add an entry to
``IMPORTERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from masktree.errors import InputError

if TYPE_CHECKING:
    from masktree.importers.image import ForeignImage


@dataclass(frozen=True)
class Importer:
    """A format that is imported.

    Attributes:
        summary: what is read, for help texts.
        reader: module of this package and function, ``module:function``.
        suffixes: of its files.
    """

    summary: str
    reader: str
    suffixes: tuple[str, ...] = (".json",)

    @property
    def read(self) -> Callable[[Path], Iterator[ForeignImage]]:
        """The function."""
        module, function = self.reader.split(":")
        reader: Callable[[Path], Iterator[ForeignImage]] = getattr(
            import_module(f"masktree.importers.{module}"), function
        )
        return reader


IMPORTERS: dict[str, Importer] = {
    "coco": Importer("COCO file", "coco:read_coco"),
    "sa1b": Importer("SA-1B files", "coco:read_sa1b"),
    "label-image": Importer("TIFF or PNG of labels", "label_image:read_label_image", (".tif", ".tiff", ".png")),
    "label-studio": Importer("JSON export of Label Studio", "label_studio:read_label_studio"),
    "cvat": Importer("CVAT for images 1.1", "cvat:read_cvat", (".xml",)),
    "labelme": Importer("LabelMe files", "labelme:read_labelme"),
    "qupath": Importer("GeoJSON of QuPath", "qupath:read_qupath", (".geojson", ".geojson.gz", ".json")),
}
# Keys of JSON files by which a format is known
_KEYS = {"images": "coco", "image": "sa1b", "shapes": "labelme", "features": "qupath"}


def guess_format(path: Path) -> str:
    """The format of a file, by its suffix and content.

    Raises:
        InputError: none that is known.
    """
    from masktree.coco.json_entries import read_entries  # imports numpy, which pages of help do without

    name = path.name.lower()
    if not name.endswith(".json"):
        for key, importer in IMPORTERS.items():
            if name.endswith(importer.suffixes):
                return key
    else:
        for entry in read_entries(path):
            if (entry.key, entry.value) == ("format", "masktree"):
                raise InputError(
                    f"{path}: expected a file of another tool; got a tree of masktree, which needs no import"
                )
            if not entry.key and isinstance(entry.value, dict) and "data" in entry.value:
                return "label-studio"
            if entry.key in _KEYS:
                return _KEYS[entry.key]
    raise InputError(f"{path}: expected a file of {', '.join(IMPORTERS)}; got another; name its format with --from")
