"""The images that are served, and their trees: which there are, and where their files lie.

Only files below the served folder and the output folder are read. There is one exception: the tree of a photograph
elsewhere names it, and it is read if its hash is the one in the tree, so that no tree can show what its maker has not
seen. Links that lead out of the folder are left out.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import InputError, MasktreeError
from masktree.io.files import sha256_of
from masktree.io.images import describe_image, read_size
from masktree.io.photos import Photo, find_photos
from masktree.io.read_options import ReadOptions
from masktree.serve.answers import RefusalError

DEFAULT_OUTPUT = Path("out/serve")
UPLOADS = "uploads"  # below the output folder
_ID_DIGITS = 12  # of a SHA-256: two of a million images share one with a probability of .002
_MASK_MARK = b'"parent_id": '  # once in the record of each mask of a tree file; in texts its quotes are escaped


@dataclass(frozen=True)
class Entry:
    """An image that is served.

    Attributes:
        id: short hex hash of ``name``.
        name: POSIX path of the tree below the output folder, without suffix.
        label: what the page calls it: the same with the photograph's suffix.
        photo: the file; it may be missing if there is a tree.
        tree: its tree file, which need not exist yet.
        is_outside: whether the photograph lies elsewhere, where the tree has found it.
    """

    id: str
    name: str
    label: str
    photo: Path
    tree: Path
    is_outside: bool = False

    @property
    def log(self) -> Path:
        """File of the edits."""
        from masktree.edits import log_path  # imports numba, which takes half a second

        return log_path(self.tree)


@dataclass(frozen=True)
class Facts:
    """What the list says of an image: size in pixels, numbers of masks and edits, and why it cannot be shown."""

    width: int | None
    height: int | None
    masks: int | None
    edits: int | None
    error: str | None


class Folder:
    """All images that are served; safe for threads.

    Attributes:
        root: the served folder; None where there are uploads only.
        output: folder of trees, edits and uploads.
        refused: links that lead out of the folder, which are left out.
    """

    def __init__(self, root: Path | None, output: Path) -> None:
        self.root = None if root is None else Path(os.path.realpath(root))
        self.output = Path(os.path.realpath(output))
        self.refused: set[Path] = set()
        self._foreign: set[Path] = set()  # trees of other images
        self._entries: dict[str, Entry] = {}
        self._facts: dict[str, tuple[tuple[Any, ...], Facts]] = {}
        self._hashes: dict[Path, tuple[tuple[int, int] | None, str]] = {}
        self._lock = threading.Lock()
        self._source: Path | None = None
        self._images: Path | None = None
        self._seen: dict[Path, tuple[int, int] | None] = {}  # folders that were looked at, as they were

    @classmethod
    def open(cls, source: Path | None, output: Path, images: Path | None = None) -> Folder:
        """Find all images.

        Args:
            source: folder of images or of trees, or an image; None serves uploads only.
            output: folder of trees, edits and uploads.
            images: folder of the photographs of trees; None takes them from where they were segmented.

        Raises:
            InputError: no images and no trees, or trees of other images in ``output``.
        """
        root = None if source is None else source if source.is_dir() else source.parent
        folder = cls(root, output)
        folder._source, folder._images = source, images
        folder._find()
        if source is not None and not folder._entries and not folder._foreign:
            raise InputError(f"expected images or trees that lie in {source}; got links to elsewhere only")
        if folder._foreign:
            raise InputError(
                f"expected the results of these images in {folder.output}; got the tree of another image "
                f"({min(folder._foreign).name}); choose another output folder with -o"
            )
        return folder

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, id: str) -> Entry:
        """The image with an id.

        Raises:
            RefusalError: there is none.
        """
        try:
            return self._entries[id]
        except KeyError:
            raise RefusalError(404, "expected the id of an image; got another; load the list again") from None

    def entries(self) -> list[Entry]:
        """All images, by name; uploads last."""
        return sorted(self._entries.values(), key=lambda entry: (entry.name.startswith(f"{UPLOADS}/"), entry.label))

    def look_again(self) -> None:
        """Add the images that have come since the last look. It costs a call of ``stat`` for each folder, and reading
        all of them if one has changed. What is left out is said in the terminal."""
        if {path: signature(path) for path in self._seen} == self._seen:
            return
        known = {*self.refused, *self._foreign}
        self._find()
        for path in {*self.refused, *self._foreign} - known:
            why = "a link out of the folder" if path in self.refused else "the tree of another image"
            print(f"masktree: left out {path}: {why}", file=sys.stderr)

    @property
    def folders(self) -> list[Path]:
        """Where files may be named in answers."""
        return [self.output] if self.root is None else [self.output, self.root]

    def add_upload(self, path: Path) -> Entry:
        """An image in the folder of uploads becomes one that is served."""
        name = f"{UPLOADS}/{path.stem}"
        return self._add(name, f"{UPLOADS}/{path.name}", path, self.output / f"{name}.json")

    # --- files ----------------------------------------------------------------------------------------------------

    def photo(self, entry: Entry, *, for_segmenting: bool = False) -> Path:
        """The file of a photograph that may be read.

        Args:
            entry: the image.
            for_segmenting: whether it may have changed since it was segmented.

        Raises:
            RefusalError: it is missing, leads out of the folder, or is not the one that was segmented.
        """
        if not entry.photo.is_file():
            raise RefusalError(404, f"expected the photograph {entry.photo.name}; got none; start with --images FOLDER")
        if not entry.is_outside and not self._contains(entry.photo):
            raise RefusalError(403, f"expected a photograph in the served folder; got a link out of it: {entry.label}")
        is_checked = entry.is_outside or not for_segmenting
        if is_checked and entry.tree.is_file() and not self._is_of(entry):
            raise RefusalError(
                409, f"expected the photograph that was segmented; got a changed {entry.label}; segment it again"
            )
        return entry.photo

    def tree(self, entry: Entry) -> Path:
        """The tree file of an image.

        Raises:
            RefusalError: there is none, or it leads out of the folder.
        """
        if not entry.tree.is_file():
            raise RefusalError(404, f"expected an image that is segmented; got {entry.label}; segment it first")
        if not self._contains(entry.tree):
            raise RefusalError(403, f"expected a tree in the output folder; got a link out of it: {entry.label}")
        return entry.tree

    def read_options(self, entry: Entry) -> ReadOptions:
        """How the photograph was read when it was segmented."""
        return ReadOptions.from_record((self.header(entry) or {}).get("read", {}))

    def facts(self, entry: Entry) -> Facts:
        """What the list says of an image; read again when its files have changed."""
        state = tuple(signature(path) for path in (entry.photo, entry.tree, entry.log))
        known = self._facts.get(entry.id)
        if known is not None and known[0] == state:
            return known[1]
        facts = self._read_facts(entry)
        self._facts[entry.id] = state, facts
        return facts

    # --- finding --------------------------------------------------------------------------------------------------

    def _add(self, name: str, label: str, photo: Path, tree: Path, *, is_outside: bool = False) -> Entry:
        id = hashlib.sha256(os.fsencode(name)).hexdigest()[:_ID_DIGITS]
        with self._lock:
            return self._entries.setdefault(id, Entry(id, name, label, photo, tree, is_outside))

    def _find(self) -> None:
        """Add all trees, images and uploads that are there."""
        uploads = self.output / UPLOADS
        roots = [self.output, uploads]
        if self._source is not None and self._source.is_dir():
            roots += [Path(path) for path, _, _ in os.walk(self._source)]
        self._seen = {path: signature(path) for path in roots}
        if self._source is not None:
            self._add_trees()
            self._add_photos(self._source)
        for path in sorted(uploads.iterdir()) if uploads.is_dir() else []:
            if path.is_file() and path.suffix.lower() not in (".json", ".jsonl") and not path.name.startswith("."):
                self.add_upload(path)

    def _add_trees(self) -> None:
        """Trees in the served folder, if it is the folder of results."""
        if self.root != self.output:
            return
        images = self._images
        photos = {} if images is None else {photo.name: photo.path for photo in find_photos([images])[0]}
        for path in tree_files(self.output):
            if not self._contains(path):
                self.refused.add(path)
                continue
            name = path.relative_to(self.output).with_suffix("").as_posix()
            photo = photos.get(name) or self._recorded_photo(path)
            self._add(name, name + photo.suffix, photo, path, is_outside=not self._contains(photo))

    def _recorded_photo(self, tree: Path) -> Path:
        from masktree.trees import file as treefile  # imports numba, which takes half a second

        header = treefile.read_header(tree) or {}
        return Path(os.path.abspath(str(header.get("file_name") or tree.stem)))

    def _add_photos(self, source: Path) -> None:
        """Images in the served folder, without those of the output folder and those of trees found before."""
        known = {os.path.realpath(entry.photo) for entry in self.entries()}
        for photo in self._found(source):
            real = Path(os.path.realpath(photo.path))
            if str(real) in known or (self.output != self.root and self.output in real.parents):
                continue
            if source.is_dir() and not self._contains(photo.path):
                self.refused.add(photo.path)
                continue
            tree = self.output / f"{photo.name}.json"
            entry = self._add(photo.name, photo.name + photo.path.suffix, photo.path.absolute(), tree)
            if tree.is_file() and entry.tree == tree and not self._may_be_of(entry):
                self._foreign.add(tree)
                del self._entries[entry.id]

    def _found(self, source: Path) -> list[Photo]:
        try:
            return find_photos([source])[0]
        except InputError:
            if self._entries:  # trees alone
                return []
            raise

    def _contains(self, path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return any(folder == real or folder in real.parents for folder in self.folders)

    # --- trees and their photographs ------------------------------------------------------------------------------

    def header(self, entry: Entry) -> dict[str, Any] | None:
        from masktree.trees import file as treefile  # imports numba, which takes half a second

        return treefile.read_header(entry.tree) if entry.tree.is_file() else None

    def _may_be_of(self, entry: Entry) -> bool:
        """Whether the tree names this photograph, or was made of the same content."""
        name = str((self.header(entry) or {}).get("file_name"))
        return os.path.realpath(name) == os.path.realpath(entry.photo) or self._is_of(entry)

    def _is_of(self, entry: Entry) -> bool:
        """Whether a tree is that of its photograph, by the hash; without one, of a photograph in the folder only."""
        expected = (self.header(entry) or {}).get("sha256")
        if expected is None:
            return not entry.is_outside
        state = signature(entry.photo)
        known = self._hashes.get(entry.photo)
        if known is None or known[0] != state:
            known = state, sha256_of(entry.photo)
            self._hashes[entry.photo] = known
        return known[1] == expected

    def _read_facts(self, entry: Entry) -> Facts:
        from masktree.edits import count_edits  # imports numba, which takes half a second

        width = height = masks = edits = error = None
        try:
            if entry.tree.is_file() and self._contains(entry.tree):
                header = self.header(entry)
                if header is None:
                    raise InputError(f"expected a tree file of this version; got another: {entry.name}.json")
                width, height = header.get("width"), header.get("height")
                masks = entry.tree.read_bytes().count(_MASK_MARK)
            elif self._contains(entry.photo):
                read_size(entry.photo)  # refuses images that are too large to be read
                height, width = describe_image(entry.photo).upright_size
            if entry.log.is_file():
                edits = count_edits(entry.tree)
        except (MasktreeError, OSError) as problem:
            error = str(problem) if isinstance(problem, MasktreeError) else f"cannot read it: {problem.strerror}"
        return Facts(width, height, masks, edits, error)


def tree_files(folder: Path) -> Iterable[Path]:
    """The tree files below a folder, in sorted order."""
    from masktree.trees import file as treefile  # imports numba, which takes half a second

    for path in sorted(folder.rglob("*.json")):
        try:
            if path.is_file() and treefile.is_tree_file(path):
                yield path
        except OSError:
            continue


def choose_output(source: Path | None, output: Path | None) -> Path:
    """The folder of results: as given; else ``source`` if it holds trees, else ``DEFAULT_OUTPUT``.

    Raises:
        InputError: trees with another output folder, as edits are kept beside their trees.
    """
    holds_trees = source is not None and source.is_dir() and next(iter(tree_files(source)), None) is not None
    if output is None:
        return source if holds_trees and source is not None else DEFAULT_OUTPUT
    if holds_trees and source is not None and os.path.realpath(source) != os.path.realpath(output):
        inside = os.path.realpath(output).startswith(os.path.realpath(source) + os.sep)
        if not inside:
            raise InputError(f"expected no -o for trees, as edits are kept beside them; got {source} and -o {output}")
    return output


def signature(path: Path) -> tuple[int, int] | None:
    """What changes with the content of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
