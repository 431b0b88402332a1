"""The formats of masks: what each is called, who reads it, and how it is written.

To add a format, write its module, with a function ``(image, path, options)`` or, for one file of all images,
``(images, path, options)``, and add an entry to ``FORMATS``. The command line, its help and the export stage derive
from this dictionary. A module is imported when its format is first written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from masktree.export.image import LabelledImage
    from masktree.export.options import ExportOptions

Scope = Literal["image", "file", "folder"]


@dataclass(frozen=True)
class Format:
    """A format of masks.

    Attributes:
        summary: what is written, for help texts.
        writer: module of this package and function, ``module:function``.
        suffix: of its files; of ``scope`` folder that of the main file.
        scope: ``image``: a file per image, the function is called with a ``LabelledImage`` and a path; ``file``: one
            file of all images, it is called with an iterator of them; ``folder``: a folder of several files, the same.
        is_numbered: whether files are called sa_1, sa_2, ... unless the photographs are.
        cuts: of a format of cuts, to how many granularities; None for a format of masks.
        preparation: of ``scope`` file and folder, module and function of what is done with each image first, such as
            reading its photograph: called with an image and the options, its results are what the writer gets.
        options: names of the options of some formats only that this one has: flat, compress, image_prefix.
    """

    summary: str
    writer: str
    suffix: str
    scope: Scope = "image"
    is_numbered: bool = False
    cuts: int | None = None
    options: frozenset[str] = frozenset()
    preparation: str = ""

    def prepare(self, image: LabelledImage, options: ExportOptions) -> Any:
        """What the function gets for an image; for an error here this image fails and the others go on."""
        return _import(self.preparation)(image, options) if self.preparation else image

    @property
    def write(self) -> Callable[..., Any]:
        """The function."""
        return _import(self.writer)


def _import(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    found: Callable[..., Any] = getattr(import_module(f"masktree.export.{module}"), function)
    return found


FORMATS: dict[str, Format] = {
    "imagej": Format("ROIs of ImageJ and Fiji", "imagej:write_rois", ".zip"),
    "qupath": Format(
        "GeoJSON objects of QuPath", "qupath:write_qupath", ".geojson", options=frozenset({"flat", "compress"})
    ),
    "geojson": Format("GeoJSON for GIS", "geojson:write_geojson", ".geojson", options=frozenset({"compress"})),
    "gpkg": Format("GeoPackage for GIS", "geopackage:write_geopackage", ".gpkg"),
    "label-tiff": Format("OME-TIFF labels of cuts", "label_tiff:write_label_tiff", ".ome.tif", cuts=100),
    "label-studio": Format(
        "predictions for Label Studio",
        "label_studio:write_label_studio",
        ".json",
        "file",
        options=frozenset({"image_prefix"}),
    ),
    "cvat": Format("XML for CVAT", "cvat:write_cvat", ".xml", "file"),
    "coco": Format("COCO file", "coco:write_coco", ".json", "file"),
    "coco-panoptic": Format("COCO panoptic of a cut", "panoptic:write_panoptic", ".json", "folder", cuts=1),
    "sa1b": Format("SA-1B files", "sa1b:write_sa1b", ".json", is_numbered=True),
    "yolo": Format("YOLO-seg data set per level", "yolo:write_yolo", ".yaml", "folder", preparation="yolo:check_photo"),
    "labelme": Format("LabelMe files", "labelme:write_labelme", ".json"),
    "csv": Format("table of region properties", "table:write_csv", ".csv", "file", preparation="table:measure"),
    "parquet": Format("the same table", "table:write_parquet", ".parquet", "file", preparation="table:measure"),
    "ucm": Format("contour map, 16-bit PNG", "contours:write_contours_png", ".png", cuts=0),
    "ucm-tiff": Format("the same as TIFF", "contours:write_contours_tiff", ".tif", cuts=0),
}
