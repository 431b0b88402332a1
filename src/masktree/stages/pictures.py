"""Pictures of trees: which masks they show, and drawing them again from saved trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from masktree.arguments import check_number
from masktree.edits import EditedTree, count_edits
from masktree.errors import InputError
from masktree.io.contents import check_photo_folder, describe_contents
from masktree.io.files import has_sha256, lock_folder, write_atomically
from masktree.io.images import decode_image
from masktree.io.photos import OVERLAY_TEXT, find_photos, is_overlay
from masktree.io.read_options import ReadOptions
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar
from masktree.jobs.recorded_batch import BatchOutcome
from masktree.stages.large_pictures import MaskLimits, draw_large, open_tiled
from masktree.trees import file as treefile
from masktree.trees.draw import Shows, overlay
from masktree.trees.instances import MIN_SCORE
from masktree.trees.masktree import MaskTree
from masktree.trees.tiled import SUFFIX
from masktree.trees.tiled_masks import SUFFIX as MASKS_SUFFIX
from masktree.types import RGB, Labels

_MAX_LABEL = 2**16 - 1
_SINGLE_PROCESS_TREES = 32  # up to this many, worker processes cost more to start than they save (our choice)


@dataclass(frozen=True)
class Picture:
    """What the picture of a tree shows.

    Attributes:
        shows: masks or cut, see ``masktree.overlay``.
        granularity: of the entities, from 0 (finest) to 1 (coarsest); their parts have half of it.

    Raises:
        InputError: another value.
    """

    shows: Shows = "masks"
    granularity: float = 0.5

    def __post_init__(self) -> None:
        if self.shows not in get_args(Shows):
            raise InputError(f"expected a picture of {' or '.join(get_args(Shows))}; got {self.shows!r}")
        if not 0.0 <= self.granularity <= 1.0:
            raise InputError(f"expected a granularity in [0, 1]; got {self.granularity}; 0.5 is the default")

    @property
    def description(self) -> str:
        """One line, written into the picture's file as its ``Description``."""
        if self.shows == "cut":
            return f"regions of the cut at granularity {self.granularity:g} and of its parts; they cover every pixel"
        return f"masks up to granularity {self.granularity:g} and their parts; grey: in no such mask"

    def write(self, path: Path, image: RGB, tree: MaskTree, edits: str = "") -> None:
        """Draw a tree over its image and write it as PNG, atomically; ``edits`` ends its description."""
        pixels = overlay(image, tree, granularity=self.granularity, shows=self.shows)
        _write_png(path, pixels, self.description + edits)


@dataclass(frozen=True)
class InstanceMap:
    """A label map of objects that do not overlap, see ``MaskTree.instances``.

    Attributes:
        min_score: lowest score of an instance, in [0, 1].
        max_area: largest instance as a fraction of the image, in (0, 1].

    Raises:
        InputError: another value.
    """

    min_score: float = MIN_SCORE
    max_area: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.min_score, "min_score of instances", 0, 1)
        check_number(self.max_area, "max_area of instances", 0, 1)

    @property
    def description(self) -> str:
        """One line, written into the file as its ``Description``."""
        return f"label of each pixel, 0 for background: instances of score {self.min_score:g} to area {self.max_area:g}"

    def write(self, path: Path, tree: MaskTree, edits: str = "") -> None:
        """Write the label map as 16-bit PNG, atomically; ``edits`` ends its description."""
        self.write_labels(path, tree.instances(min_score=self.min_score, max_area=self.max_area), edits)

    def write_labels(self, path: Path, labels: Labels, edits: str = "") -> None:
        """Write (H, W) labels of instances as 16-bit PNG, atomically; ``edits`` ends its description."""
        if labels.max() > _MAX_LABEL:
            raise InputError(f"expected at most {_MAX_LABEL} instances; got {labels.max()}; raise min_score")
        _write_png(path, labels.astype(np.uint16), self.description + edits)


@dataclass(frozen=True)
class Pictures:
    """What is drawn from a tree: its picture and its label map of instances, or None."""

    overlay: Picture | None = Picture()
    instances: InstanceMap | None = None

    def write(self, saved: SavedTree, image: RGB, tree: MaskTree) -> None:
        """Write the files of a tree."""
        if self.overlay is not None:
            self.overlay.write(saved.picture, image, tree, saved.edits_note)
        if self.instances is not None:
            self.instances.write(saved.instances, tree, saved.edits_note)

    def files(self, saved: SavedTree) -> dict[Path, str]:
        """The files of a tree with their descriptions."""
        paths = ((self.overlay, saved.picture), (self.instances, saved.instances))
        edits = saved.edits_note
        return {path: content.description + edits for content, path in paths if content is not None}

    def are_current(self, saved: SavedTree) -> bool:
        """Whether the files of a tree are there and show this."""
        return all(is_overlay(path, description) for path, description in self.files(saved).items())

    def refuse_foreign_files(self, trees: Iterable[SavedTree]) -> None:
        """Raise InputError if masktree did not write a file that is to be written."""
        for saved in trees:
            for path in self.files(saved):
                if path.exists() and not is_overlay(path):
                    raise InputError(
                        f"expected no foreign files where results go; got {path}; choose another output folder"
                    )


NO_PICTURES = Pictures(overlay=None)


class SavedTree(NamedTuple):
    """A tree file and its photograph."""

    tree: Path
    photo: Path

    @property
    def picture(self) -> Path:
        """File of the picture."""
        return self.tree.with_suffix(".png")

    @property
    def instances(self) -> Path:
        """File of the label map of instances."""
        return self.tree.with_suffix(".instances.png")

    @property
    def edits_note(self) -> str:
        """What the description of a picture says of the edits that it shows, so that it is drawn again after others.
        Pictures of photographs that were segmented in tiles show the machine's masks."""
        is_large = self.dendrogram.exists() or self.masks.exists()
        count = 0 if is_large else count_edits(self.tree)
        return f"; with {count} edits" if count else ""

    @property
    def dendrogram(self) -> Path:
        """File of the dendrogram of a photograph that was segmented in tiles."""
        return self.tree.with_suffix(SUFFIX)

    @property
    def masks(self) -> Path:
        """File of the masks of a photograph that was segmented in windows."""
        return self.tree.with_suffix(MASKS_SUFFIX)

    @property
    def instance_image(self) -> Path:
        """File of the label image of its instances at full size, of which ``instances`` is a small copy."""
        return self.tree.with_suffix(".instances.tif")

    @property
    def cut(self) -> Path:
        """File of the label image of its cut."""
        return self.tree.with_suffix(".cut.tif")


def _write_png(path: Path, pixels: np.ndarray, description: str) -> None:
    text = PngInfo()
    text.add_text(*OVERLAY_TEXT)
    text.add_text("Description", description)
    # Level 1 takes a third of the default's time for a file that is 15 % larger.
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda handle: picture.save(handle, format="PNG", compress_level=1, pnginfo=text))


@dataclass(frozen=True)
class PictureJob:
    """Draws the pictures of a saved tree."""

    pictures: Pictures

    def __call__(self, saved: SavedTree) -> None:
        header = treefile.read_header(saved.tree)
        # Of an image that was segmented in tiles the overview is kept.
        is_tiled = header is not None and (header.get("dendrogram") or header.get("masks")) is not None
        if not is_tiled and not saved.photo.is_file():
            raise InputError(f"expected the photograph {saved.photo}; got none; give its folder with --images")
        if header is None or not has_sha256(saved.photo, header.get("sha256")):
            raise InputError(f"expected the photograph that was segmented; got a changed {saved.photo}; segment again")
        if (tiled := open_tiled(saved, header)) is not None:
            draw_large(saved, tiled, MaskLimits.from_record(header.get("limits")), self.pictures)
            return
        # As it was read when it was segmented: the same page, channels and range of values.
        image = decode_image(saved.photo, ReadOptions.from_record(header.get("read", {})))
        self.pictures.write(saved, image.rgb, EditedTree.open(saved.tree).result()[0])


def draw(
    folder: Path, pictures: Pictures, *, images: Path | None = None, workers: int = 0, show_progress: bool = False
) -> BatchOutcome:
    """Draw the pictures of all trees in a folder of ``masktree segment`` again, without segmenting anything.

    Args:
        folder: with tree files, searched recursively. Pictures that show this already are kept.
        pictures: what is drawn.
        images: folder of the photographs; None takes them from where they were segmented.
        workers: processes; 0 chooses one per core.
        show_progress: whether to show a progress bar on standard error.

    Raises:
        InputError: no trees, or a file that masktree did not write where a picture goes.
    """
    if not folder.is_dir():
        raise _no_trees(folder)
    if images is not None:
        check_photo_folder(images)
    trees = find_trees(folder, images)  # before the lock, whose file is for folders of trees
    with lock_folder(folder):
        todo = [saved for saved in trees if not pictures.are_current(saved)]
        pictures.refuse_foreign_files(todo)
        failures = redraw(todo, pictures, workers=workers, show_progress=show_progress)
    return BatchOutcome(len(todo) - len(failures), len(trees) - len(todo), failures)


def find_trees(folder: Path, images: Path | None) -> list[SavedTree]:
    """The trees in a folder, in sorted order, with their photographs.

    Raises:
        InputError: no trees.
    """
    photos = None if images is None else {photo.name: photo.path for photo in find_photos([images])[0]}
    found = []
    for path in sorted(folder.rglob("*.json")):
        header = treefile.read_header(path) if treefile.is_tree_file(path) else None
        if header is None:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        photo = Path(str(header.get("file_name"))) if photos is None else photos.get(name, Path(str(images)) / name)
        found.append(SavedTree(path, photo))
    if not found:
        raise _no_trees(folder)
    return found


def _no_trees(folder: Path) -> InputError:
    return InputError(
        f"expected the output folder of masktree segment; got {describe_contents(folder)}; segment the photographs "
        "first, or check the path"
    )


def redraw(
    trees: Sequence[SavedTree], pictures: Pictures, *, workers: int = 0, show_progress: bool
) -> list[dict[str, str]]:
    """Draw pictures of saved trees; returns {"path", "error"} of each failure."""
    if not trees:
        return []
    failures: list[dict[str, str]] = []
    workers = batch.resolve_workers(workers, single=len(trees) <= _SINGLE_PROCESS_TREES)
    with progress_bar("draw", len(trees), 0, show=show_progress) as progress:
        for result in batch.run(trees, PictureJob(pictures), workers=workers):
            if result.error is None:
                progress.advance()
            else:
                failures.append({"path": str(result.item.tree), "error": result.error})
                progress.fail(str(result.item.tree), result.error)
    return failures
