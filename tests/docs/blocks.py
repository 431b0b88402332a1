"""Fenced code blocks of the documentation, and how their commands are shortened for the tests."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "shell")
_FENCE = re.compile(
    r"^(?:<!-- skip: (?P<skip>.+?) -->\n)?```(?P<language>\w+)(?P<attributes>[^\n]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Options that make a command short on three photographs of 128 pixels.
SMALL = {
    "segment": ["--workers", "1"],
    "discover": ["--workers", "1"],
    "merge": ["--workers", "1"],
    "evaluate": ["--workers", "1"],
    "train": ["--steps", "1", "--batch-size", "1", "--image-size", "64", "--sample-every", "0"],
    "self-train": ["--steps", "1", "--batch-size", "1", "--sample-every", "0"],
}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: path of its file below the repository.
        line: line number of its first line of code.
        language: python or shell.
        code: what is between the fences.
        title: ``title="..."`` behind the language, the file that the code belongs in; "" if there is none.
        skip: why it cannot be run; "" if it can.
    """

    page: str
    line: int
    language: str
    code: str
    title: str
    skip: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: str) -> list[Block]:
    """The python and shell blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["attributes"])
        line = text.count("\n", 0, match.start("code")) + 1
        blocks.append(
            Block(page, line, match["language"], match["code"], title[1] if title else "", match["skip"] or "")
        )
    return [block for block in blocks if block.language in LANGUAGES]


def pages() -> list[str]:
    """README, CONTRIBUTING and all pages of the site but those of ``docs/how-to``, which have a test of their own."""
    site = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", *(page for page in site if not page.startswith("docs/how-to/"))]


def command_lines(code: str) -> list[list[str]]:
    """The commands of a shell block as words, without comments."""
    return [words for line in code.splitlines() if (words := shlex.split(line, comments=True))]


def shortened(arguments: list[str]) -> list[str]:
    """Arguments of ``masktree`` with the values of ``SMALL``, and METHOD replaced by a method."""
    verb, rest = arguments[0], ["sohes" if word == "METHOD" else word for word in arguments[1:]]
    extra = list(SMALL.get(verb, []))
    if verb == "export":
        extra = ["--image-size", "64"] if "onnx" in rest else ["--workers", "1"]
    if verb == "self-train" and "rounds" in rest:
        extra += ["--score-threshold", "0"]
    for option in extra[::2]:
        if option in rest:
            at = rest.index(option)
            del rest[at : at + 2]
    return [verb, *rest, *extra]


def output_of(arguments: list[str]) -> Path | None:
    """What a command writes to, relative to the working folder; None where it only prints."""
    for option in ("-o", "--output"):
        if option in arguments:
            return Path(arguments[arguments.index(option) + 1])
    return None
