"""masktree draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from masktree.cli.options import DEFAULT_PICTURES, Drawing, print_outcome


def draw(
    folder: Annotated[Path, tyro.conf.Positional],
    /,
    pictures: Drawing = DEFAULT_PICTURES,
    images: Path | None = None,
) -> int:
    """Draw the pictures of segmented photographs again, with another granularity for instance.

    Args:
        folder: Output folder of masktree segment.
        pictures: What is drawn.
        images: Folder of the photographs, if they are no longer where they were segmented.
    """
    from masktree.stages.pictures import draw as run

    return print_outcome(run(folder, pictures.pictures(), images=images, show_progress=True), folder)
