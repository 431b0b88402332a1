"""Where a GeoTIFF lies on the earth, as its tags say: carried from the input to the results, not interpreted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams: code and type
# (12 float64, 3 uint16, 2 text), from the GeoTIFF standard (OGC 19-008r4).
_TAGS = {33550: 12, 33922: 12, 34264: 12, 34735: 3, 34736: 12, 34737: 2}


@dataclass(frozen=True)
class GeoTiffTags:
    """The GeoTIFF tags of an image: value of each code, a text or a tuple of numbers; empty where it has none."""

    tags: dict[int, Any]

    @classmethod
    def from_page(cls, page: Any) -> GeoTiffTags:
        """The tags of a page of tifffile."""
        found = {code: page.tags[code].value for code in _TAGS if code in page.tags}
        return cls({code: value if isinstance(value, str) else tuple(value) for code, value in found.items()})

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> GeoTiffTags:
        """From the plain values of ``record``."""
        return cls({int(code): value if isinstance(value, str) else tuple(value) for code, value in record.items()})

    def record(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {str(code): value if isinstance(value, str) else list(value) for code, value in self.tags.items()}

    def scaled(self, factor: float) -> GeoTiffTags:
        """The tags of the same picture with pixels ``factor`` times as large."""
        tags = dict(self.tags)
        if 33550 in tags:  # sizes of a pixel in x, y and z
            x, y, *rest = tags[33550]
            tags[33550] = (float(x) * factor, float(y) * factor, *map(float, rest))
        if 33922 in tags:  # groups of six: column, row and height in the picture, then three coordinates
            tags[33922] = tuple(
                float(value) / factor if k % 6 < 2 else float(value) for k, value in enumerate(tags[33922])
            )
        if 34264 in tags:  # a 4 x 4 matrix by rows; its first two columns belong to column and row
            tags[34264] = tuple(
                float(value) * factor if k % 4 < 2 else float(value) for k, value in enumerate(tags[34264])
            )
        return GeoTiffTags(tags)

    def extra_tags(self) -> list[tuple[int, int, int, Any, bool]]:
        """What tifffile writes as ``extratags``."""
        return [
            (code, _TAGS[code], 0 if isinstance(value, str) else len(value), value, True)
            for code, value in sorted(self.tags.items())
        ]
