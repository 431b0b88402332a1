"""masktree import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from masktree.cli.options import Output, print_outcome
from masktree.importers.formats import IMPORTERS

if TYPE_CHECKING:
    Origin = str
else:
    Origin = Literal[tuple(IMPORTERS)]

_HELP = (
    "Format. "
    + " ".join(f"{name}: {importer.summary}." for name, importer in IMPORTERS.items())
    + " Default: guessed from the content."
)


def import_trees(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    /,
    output: Output,
    from_format: Annotated[Origin | None, tyro.conf.arg(name="from", metavar="FORMAT", help=_HELP)] = None,
    images: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Import masks of other tools: a tree of masks (JSON) for each image.

    The same command resumes a stopped run.

    Args:
        source: File of another tool, or a folder of such files, searched recursively.
        output: Folder of the trees.
        from_format: Format.
        images: Folder of the photographs. Default: beside the source.
        overwrite: Import images again that have a tree, from another file for instance.
    """
    from masktree.stages.import_trees import import_trees as run

    outcome = run(source, output, from_format, images=images, overwrite=overwrite, show_progress=True)
    return print_outcome(outcome, output)
