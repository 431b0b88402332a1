"""The planes of OME-TIFF and ImageJ stacks: which page of the file holds which channel, time point and z plane."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_MAX_PLANES = 10**6  # more are damage (our choice)


@dataclass(frozen=True)
class StackLayout:
    """How the pages of a file form images.

    Attributes:
        frames: of each image (a time point and z plane) the pages of the file that hold its channels.
        names: of the channels, None where there is none.
        frames_are: what the images are, such as "2 time points x 5 z planes".
        num_unlisted: planes that the text counts and no page of the file holds.
    """

    frames: tuple[tuple[int, ...], ...]
    names: tuple[str | None, ...] = ()
    frames_are: str = ""
    num_unlisted: int = 0


def stack_layout(description: str, num_pages: int) -> StackLayout | None:
    """The layout that the text of a TIFF's first page describes, as OME-XML, ImageJ or tifffile write it; None: plain
    pages, or a text that does not fit the pages."""
    text = description.strip("\0 \r\n\t")
    if text.endswith("OME>") or "<OME " in text[:2000]:
        return _ome_layout(text, num_pages)
    if text.startswith("ImageJ="):
        return _imagej_layout(text, num_pages)
    if text.startswith("{"):
        return _shaped_layout(text, num_pages)
    return None


def _ome_layout(text: str, num_pages: int) -> StackLayout | None:
    try:
        root = ElementTree.fromstring(text)
        images = [_ome_image(pixels, num_pages) for pixels in root.iter() if pixels.tag.endswith("}Pixels")]
    except (ElementTree.ParseError, ValueError, KeyError, LookupError):
        return None
    images = [image for image in images if image is not None]
    if not images:
        return None
    frames = tuple(frame for image in images if image is not None for frame in image.frames)
    first = images[0]
    assert first is not None
    what = first.frames_are if len(images) == 1 else f"{len(frames)} planes of {len(images)} images"
    return StackLayout(frames, first.names, what)


def _ome_image(pixels: ElementTree.Element, num_pages: int) -> StackLayout | None:
    """The layout of one image; planes in other files are left out."""
    channels = [child for child in pixels if child.tag.endswith("}Channel")]
    samples = int(channels[0].get("SamplesPerPixel", 1)) if channels else 1
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "CZT"}
    sizes["C"] = max(1, sizes["C"] // max(samples, 1))
    order = pixels.attrib["DimensionOrder"][2:5]
    if sorted(order) != ["C", "T", "Z"] or not 0 < sizes["C"] * sizes["Z"] * sizes["T"] <= _MAX_PLANES:
        return None
    pages: dict[int, int] = {}  # by number of the plane in the order of the dimensions
    blocks = [child for child in pixels if child.tag.endswith("}TiffData")]
    for block in blocks:
        if any(child.tag.endswith("}UUID") and child.get("FileName") for child in block) and len(blocks) > 1:
            files = {child.get("FileName") for other in blocks for child in other if child.tag.endswith("}UUID")}
            if len(files) > 1:  # a set of several files
                return None
        first = {axis: int(block.get(f"First{axis}", 0)) for axis in "CZT"}
        plane = first[order[0]] + sizes[order[0]] * (first[order[1]] + sizes[order[1]] * first[order[2]])
        page = int(block.get("IFD", 0))
        count = int(block.get("PlaneCount", block.get("NumPlanes", 1 if "IFD" in block.attrib else num_pages)))
        for offset in range(min(count, num_pages - page)):
            pages[plane + offset] = page + offset
    frames = []
    for t in range(sizes["T"]):
        for z in range(sizes["Z"]):
            position = {"T": t, "Z": z}
            planes = [_plane_number(order, sizes, position | {"C": c}) for c in range(sizes["C"])]
            if all(plane in pages for plane in planes):
                frames.append(tuple(pages[plane] for plane in planes))
    names = tuple(channel.get("Name") for channel in channels) if samples == 1 else ()
    return StackLayout(tuple(frames), names, _describe(sizes["T"], sizes["Z"])) if frames else None


def _plane_number(order: str, sizes: dict[str, int], position: dict[str, int]) -> int:
    return position[order[0]] + sizes[order[0]] * (position[order[1]] + sizes[order[1]] * position[order[2]])


def _imagej_layout(text: str, num_pages: int) -> StackLayout | None:
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if value.isdecimal() and len(value) < 8:
            values[key] = int(value)
    count = values.get("images", 1)
    if num_pages == 1 and count > 1:  # large stacks have one directory; the other planes follow its pixels
        return StackLayout(((0,),), num_unlisted=count - 1)
    return _regular_layout(values.get("channels", 1), values.get("slices", 1), values.get("frames", 1), num_pages)


def _regular_layout(channels: int, slices: int, frames: int, num_pages: int) -> StackLayout | None:
    """Channels are the fastest dimension, as in ImageJ."""
    if min(channels, slices, frames) < 1 or channels * slices * frames != num_pages:
        return None
    starts = range(0, num_pages, channels)
    return StackLayout(tuple(tuple(range(start, start + channels)) for start in starts), (), _describe(frames, slices))


def _shaped_layout(text: str, num_pages: int) -> StackLayout | None:
    """tifffile's own: ``{"shape": [2, 96, 128], "axes": "CYX"}``."""
    try:
        record = json.loads(text)
        shape, axes = list(record["shape"]), str(record["axes"])
        leading = dict(zip(axes[: axes.index("Y")], shape, strict=False))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if len(axes) != len(shape) or not all(isinstance(size, int) and size > 0 for size in shape):
        return None
    if "C" not in leading or axes[axes.index("Y") - 1] != "C":
        return None
    channels = leading["C"]
    others = 1
    for axis, size in leading.items():
        others *= size if axis != "C" else 1
    return _regular_layout(channels, others, 1, num_pages)


def _describe(num_times: int, num_slices: int) -> str:
    parts: Sequence[str] = [
        f"{count} {name}" for count, name in ((num_times, "time points"), (num_slices, "z planes")) if count > 1
    ]
    return " x ".join(parts)
