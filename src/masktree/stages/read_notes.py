"""What the photographs of a run hold that was not looked at: one line of each kind, not one of each photograph."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadNotes:
    """Counts the notes of ``masktree.io.raster.DecodedImage``.

    Attributes:
        images: number of photographs by kind of note.
        examples: name of the first photograph with such a note, and its text, by kind.
    """

    images: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, name: str, notes: dict[str, str]) -> None:
        """Count the notes of the photograph ``name``."""
        for kind, text in notes.items():
            self.images[kind] = self.images.get(kind, 0) + 1
            self.examples.setdefault(kind, (name, text))

    def lines(self) -> tuple[str, ...]:
        """A line of each kind."""
        lines = []
        for kind, (name, text) in self.examples.items():
            count = self.images[kind]
            others = f" (and {count - 1} more)" if count > 1 else ""
            lines.append(f"{name}{others}: {text}")
        return tuple(lines)

    def record(self) -> dict[str, dict[str, object]]:
        """Plain values for the record of a run."""
        return {
            kind: {"images": self.images[kind], "example": name, "note": text}
            for kind, (name, text) in self.examples.items()
        }
