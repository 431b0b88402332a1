"""CVAT for images 1.1: one XML file with masks for all images (docs.cvat.ai, "CVAT for images", tag ``mask``)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically

# Declared for each label: CVAT drops others
_ATTRIBUTES = ("id", "parent_id", "level", "kind", "granularity", "score", "name")


def write_cvat(images: Iterable[LabelledImage], path: Path, options: ExportOptions) -> None:
    """An ``image`` per image with a ``mask`` per mask; id, parent_id (empty for roots), level, granularity and score
    are attributes, and the name that people gave it. Parts lie above their wholes (``z_order`` is the depth).

    The labels, which stand first, are collected from the images while these are written to a file of their own.
    """
    import tempfile

    labels: dict[str, None] = {}
    with tempfile.TemporaryFile() as body:
        for element in _images(images, labels):
            body.write(ET.tostring(element) + b"\n")

        def write(handle: IO[bytes]) -> None:
            handle.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
            handle.write(ET.tostring(_meta(list(labels))) + b"\n")
            body.seek(0)
            while block := body.read(2**20):
                handle.write(block)
            handle.write(b"</annotations>\n")

        write_atomically(path, write)


def _images(images: Iterable[LabelledImage], labels: dict[str, None]) -> Iterator[ET.Element]:
    for image in images:
        height, width = image.tree.size
        header = {"id": str(image.number - 1), "name": image.file_name, "width": str(width), "height": str(height)}
        element = ET.Element("image", header)
        names = image.class_names()
        labels.update(dict.fromkeys((*image.class_list, *names)))
        for index, crop in enumerate(mask_crops(image.tree)):
            element.append(_mask(image, index, names[index], crop))
        yield element


def _mask(image: LabelledImage, index: int, name: str, crop: MaskCrop) -> ET.Element:
    record = image.tree.record(index)
    height, width = crop.inside.shape
    values = {
        "label": name,
        "source": "auto",
        "occluded": "0",
        "rle": ", ".join(map(str, row_counts(crop.inside))),
        "left": str(crop.left),
        "top": str(crop.top),
        "width": str(width),
        "height": str(height),
        "z_order": str(record["depth"]),
    }
    element = ET.Element("mask", values)
    record["name"] = image.given_name(index)
    for key in _ATTRIBUTES:
        value = record[key]
        ET.SubElement(element, "attribute", {"name": key}).text = "" if value is None else str(value)
    return element


def row_counts(inside: np.ndarray) -> list[int]:
    """Lengths of alternating background and foreground runs along the rows of a crop, background first."""
    flat = inside.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    counts: list[int] = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return counts if counts[-1] else counts[:-1]


def _meta(labels: list[str]) -> ET.Element:
    meta = ET.Element("meta")
    listed = ET.SubElement(ET.SubElement(meta, "task"), "labels")
    for name in labels:
        label = ET.SubElement(listed, "label")
        ET.SubElement(label, "name").text = name
        ET.SubElement(label, "type").text = "mask"
        attributes = ET.SubElement(label, "attributes")
        for key in _ATTRIBUTES:
            attribute = ET.SubElement(attributes, "attribute")
            for tag, text in (("name", key), ("mutable", "False"), ("input_type", "text")):
                ET.SubElement(attribute, tag).text = text
            ET.SubElement(attribute, "default_value")
            ET.SubElement(attribute, "values")
    return meta
