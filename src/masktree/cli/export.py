"""masktree export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from masktree.cli.options import DEFAULT_BATCH, DEFAULT_RUNNING, Batch, Output, Running, print_outcome
from masktree.errors import InputError
from masktree.export.formats import FORMATS
from masktree.io.files import check_writable, refuse_inputs

if TYPE_CHECKING:
    from masktree.export.options import ExportOptions

    Target = str
else:
    Target = Literal[(*FORMATS, "onnx")]

_HELP = (
    "Format. "
    + " ".join(f"{name}: {entry.summary}." for name, entry in FORMATS.items())
    + " onnx: the network of a trained run."
)
Level = Literal["whole", "part", "subpart"]


@dataclass(frozen=True)
class SelectionOptions:
    """Which masks are written.

    Attributes:
        level: Levels of the masks: whole, part, subpart. Default: all.
        granularity_range: Lowest and highest granularity of the masks, from 0 (finest) to 1 (coarsest).
        granularity: Write the regions of the cut at this granularity instead of masks; label-tiff takes several.
        min_area: Smallest mask in pixels.
        min_score: Lowest score of a mask, from 0 to 1.
        masks: Nodes of the tree, or all masks: combinations of nodes too.
        class_map: Classes by level of masks without one of their own: whole=cell part=nucleus. Default: level names.
        only: All masks, those with a class (classified), or those that people have accepted.
        edits: Apply the edits of people beside the trees.
        image_prefix: What stands before the names of images, for label-studio.
        flat: One flat list instead of nested objects, for qupath.
        compress: Compress with gzip, for qupath and geojson.
    """

    level: tuple[Level, ...] = ()
    granularity_range: tuple[float, float] | None = None
    granularity: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["-g"])] = ()
    min_area: int = 0
    min_score: float = 0.0
    masks: Literal["nodes", "all"] = "nodes"
    class_map: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LEVEL=NAME ...")] = ()
    only: Literal["all", "classified", "accepted"] = "all"
    edits: bool = True
    image_prefix: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    flat: bool = False
    compress: bool = False

    def options(self) -> ExportOptions:
        """What these options describe.

        Raises:
            InputError: a value out of range, or a class map of another form.
        """
        from masktree.export.options import ExportOptions
        from masktree.trees.masktree import LEVELS

        for item in self.class_map:
            if not item.partition("=")[2]:
                raise InputError(f"expected LEVEL=NAME after --class-map; got {item}; write whole=cell for instance")
        return ExportOptions(
            levels=self.level or LEVELS,
            granularity_range=self.granularity_range or (0.0, 1.0),
            min_area=self.min_area,
            min_score=self.min_score,
            masks=self.masks,
            granularities=self.granularity,
            classes={level: name for level, _, name in (item.partition("=") for item in self.class_map)},
            only=self.only,
            image_prefix=self.image_prefix or "",
            flat=self.flat,
            compress=self.compress,
        )


Selection = Annotated[SelectionOptions, tyro.conf.arg(name="")]
_ALL = SelectionOptions()


def export(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")],
    /,
    output: Output,
    to: Annotated[Target, tyro.conf.arg(help=_HELP, metavar="FORMAT")],
    selection: Selection = _ALL,
    images: Path | None = None,
    image_size: int | None = None,
    batch: Batch = DEFAULT_BATCH,
    running: Running = DEFAULT_RUNNING,
) -> int:
    """Export masks to the files of other tools, or a trained model to ONNX.

    The same command resumes a stopped run.

    Args:
        source: Output folder of masktree segment, a tree file or a label set; for onnx the folder of masktree train, or
            owner/name on the hub.
        output: Folder for a file per image (label-studio, cvat, coco, csv, parquet and onnx: the file).
        to: Format.
        selection: Which masks are written.
        images: Folder of the photographs, if they are no longer where they were segmented.
        image_size: Longer side in pixels of the input of onnx, a multiple of 32. Default: that of the model.
        batch: How the batch is run.
        running: Where the batch is run.
    """
    if to == "onnx":
        if selection != _ALL or images is not None or running != DEFAULT_RUNNING:
            raise InputError("expected --image-size and --overwrite alone with --to onnx; got options of masks as well")
        return _export_model(source, output, image_size, batch.overwrite)
    if image_size is not None:
        raise InputError(f"expected --image-size with --to onnx; got it with {to}; leave it out")
    from masktree.stages.export import export as run

    outcome = run(
        Path(source),
        output,
        to,
        selection.options(),
        images=images,
        edits=selection.edits,
        workers=batch.workers,
        engine=running.load(),
        tries=running.tries,
        overwrite=batch.overwrite,
        show_progress=True,
    )
    return print_outcome(outcome, output)


def _export_model(model: str, onnx: Path, image_size: int | None, overwrite: bool) -> int:
    """Write the ONNX files of a model; a promptable one is written as NAME.encoder.onnx and NAME.decoder.onnx, with
    NAME.yaml for annotation tools."""
    from masktree.models.build import read_model
    from masktree.models.onnx.export import export_onnx, output_files
    from masktree.models.saved import CONFIG, WEIGHTS, find_model, read_config

    folder = find_model(model)
    outputs = output_files(read_config(folder), onnx)
    refuse_inputs(outputs, [folder / CONFIG, folder / WEIGHTS])
    for file in outputs:
        check_writable(file)
    existing = [str(file) for file in outputs if file.exists()]
    if existing and not overwrite:
        raise InputError(
            f"expected the name of a new file; got {', '.join(existing)}, which exists; add --overwrite to replace it"
        )
    for file in export_onnx(read_model(folder), onnx, image_size):
        print(f"written: {file}")
    return 0
