"""Photographs on disk: finding them, and naming their outputs."""

from __future__ import annotations

import glob
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from masktree.errors import InputError
from masktree.io.files import sha256_of

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".dib"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".tga", ".icb", ".vda", ".vst"}
    | {".pcx", ".sgi", ".bw", ".ras", ".sun", ".qoi", ".psd", ".ico", ".dds", ".btf", ".tf8", ".lsm", ".stk"}
)
UNREAD_SUFFIXES = frozenset(  # of images in formats that are not read: these are named, not left out in silence
    {".jxl", ".jxr", ".heic", ".heif", ".hif", ".xcf", ".svg", ".eps", ".pdf", ".exr", ".hdr", ".pfm", ".fits", ".fit"}
    | {".dcm", ".nd2", ".czi", ".lif", ".oib", ".oif", ".vsi", ".mrxs", ".svs", ".ndpi", ".h5", ".ims", ".mrc"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}  # of cameras
)
_CONTENT = re.compile(  # of a file without suffix: JPEG, PNG, GIF, TIFF, WebP, JPEG 2000
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|II[*+]\0|MM\0[*+]|RIFF....WEBP|\0\0\0\x0cjP  ", re.DOTALL
)
_MAX_NAME_BYTES = 255 - len(".json")  # of a result, which file systems limit to 255 bytes
RESERVED_NAMES = frozenset({"run", "failures", "quarantine"})  # run.json and the others record a run
OVERLAY_TEXT = ("Software", "masktree overlay")  # a text chunk at the start of every overlay, by which it is known
_OVERLAY_BYTES = "tEXt{}\0{}".format(*OVERLAY_TEXT).encode()
_OVERLAY_HEAD = 512  # bytes of a picture that hold its text chunks


@dataclass(frozen=True)
class Photo:
    """An image file and the name of its outputs: POSIX path relative to the output folder, without suffix."""

    path: Path
    name: str

    @property
    def location(self) -> str:
        """Where it is, for people and records."""
        return os.fspath(self.path)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A file with its content, which is there during the block.

        Raises:
            OSError: it cannot be read.
        """
        yield self.path

    def content_key(self) -> str | None:
        """Changes with the content; None if it cannot be read."""
        try:
            with self.local() as path:
                return sha256_of(path)
        except OSError:
            return None

    def has_sha256(self, expected: object) -> bool:
        """Whether its content has that hash; also true if it cannot be read any more, whose results are kept."""
        key = self.content_key()
        return key is None or key == expected


def find_photos(inputs: Sequence[str | Path]) -> tuple[list[Photo], list[dict[str, str]]]:
    """Resolve files, folders (recursive) and globs to photographs with output names that mirror the inputs.

    A file that is found several times, also through symbolic links, is returned once: with the name from the first
    input that finds it, the shortest one if that input finds it more than once. Symbolic links to folders are not
    followed below a folder or ``**``.

    Args:
        inputs: paths or glob patterns (``**`` is recursive). From folders and globs only files with a known image
            suffix are returned, and those without suffix that begin as one does, without overlays that masktree wrote;
            a file that is named explicitly is always returned.

    Returns:
        (photos in sorted order, failures: one {"path", "error"} for each folder that cannot be listed and each name
        with an image suffix that is not a regular file, or too long for the name of a result).

    Raises:
        InputError: an input does not exist or matches nothing, or two photographs would write to one name.
    """
    failures: dict[str, dict[str, str]] = {}
    found: dict[str, tuple[Path, str]] = {}
    for pattern in inputs:
        new_failures: list[dict[str, str]] = []
        matches: dict[str, tuple[Path, str]] = {}
        for path, relative in _resolve(str(pattern), new_failures, IMAGE_SUFFIXES):
            real_path = os.path.realpath(path)
            if real_path not in matches or len(relative) < len(matches[real_path][1]):
                matches[real_path] = path, relative
        if not matches and not new_failures:
            unread = find_unread([pattern])
            others = f", with {len(unread)} images of formats that are not read ({unread[0].name})" if unread else ""
            remedy = "; convert them to PNG or JPEG" if unread else ""
            raise InputError(
                f"expected an image, a folder with images or a glob that matches; got {pattern}{others}{remedy}"
            )
        failures |= {failure["path"]: failure for failure in new_failures}
        for real_path, match in matches.items():
            found.setdefault(real_path, match)
    photos = name_outputs(list(found.values()))
    for photo in photos:
        if len(os.fsencode(Path(photo.name).name)) > _MAX_NAME_BYTES:
            failures[str(photo.path)] = {
                "path": str(photo.path),
                "error": f"expected a name of at most {_MAX_NAME_BYTES} bytes, so that NAME.json fits; rename the file",
            }
    return [photo for photo in photos if str(photo.path) not in failures], list(failures.values())


def find_in_folders(folders: Sequence[Path]) -> tuple[Path, list[Photo], list[dict[str, str]]]:
    """The innermost folder with all of several folders, their photographs named by their paths below it, in sorted
    order, and failures as of ``find_photos``.

    Raises:
        InputError: none, no folder, or one without photographs.
    """
    other = [folder for folder in folders if not folder.is_dir()]
    if other or not folders:
        raise InputError(
            f"expected folders of photographs where several are given; got {other[0] if other else 'none'}"
        )
    found: dict[str, Path] = {}
    failures: list[dict[str, str]] = []
    for folder in folders:
        photos, failed = find_photos([folder])
        failures += failed
        for photo in photos:
            found.setdefault(os.path.realpath(photo.path), Path(os.path.abspath(photo.path)))
    root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    named = name_outputs([(path, path.relative_to(root).as_posix()) for path in found.values()])
    return root, sorted(named, key=lambda photo: photo.name), failures


def find_unread(inputs: Sequence[str | Path]) -> list[Path]:
    """Image files in the folders and globs of ``find_photos`` that are left out, since their format is not read."""
    folders = [str(item) for item in inputs if not os.path.isfile(item)]
    return sorted({path for item in folders for path, _ in _resolve(item, [], UNREAD_SUFFIXES)})


def _resolve(item: str, failures: list[dict[str, str]], suffixes: frozenset[str]) -> Iterator[tuple[Path, str]]:
    """Files with one of the suffixes of one input, with their path relative to it."""
    path = Path(item)
    if os.path.isfile(item):  # unlike Path.is_file, it returns False below a folder without permission
        yield path, path.name
    elif os.path.isdir(item):
        for inner in _walk(path, failures, suffixes):
            yield inner, inner.relative_to(path).as_posix()
    elif glob.has_magic(item):
        root = _folder_without_wildcards(path)
        pattern = path.relative_to(root)
        if ".." in pattern.parts:
            raise InputError(f"expected '..' only before the first wildcard of a glob; got {item}")
        for match in _glob(root, pattern):
            is_folder = os.path.isdir(match)
            files = _walk(match, failures, suffixes) if is_folder else _photographs([match], failures, suffixes)
            for file in files:
                yield file, file.relative_to(root).as_posix()


def _glob(root: Path, pattern: Path) -> list[Path]:
    """Sorted matches of a pattern below a folder. Names with a leading dot match only where the pattern has one.

    ``Path.glob`` and not ``glob.glob``, whose ``**`` follows symbolic links to folders, even in circles.
    """
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in pattern.parts]
    if parts[-1] == "**":
        parts.append("*")
    recursive = "**" in parts and parts[-1] == "*"  # matches every file itself; folders would repeat them
    hidden = any(part.startswith(".") for part in parts)
    return [
        match
        for match in sorted(root.glob("/".join(parts)))
        if (hidden or not any(part.startswith(".") for part in match.relative_to(root).parts))
        and not (recursive and os.path.isdir(match))
    ]


def _walk(folder: Path, failures: list[dict[str, str]], suffixes: frozenset[str]) -> Iterator[Path]:
    def add_failure(error: OSError) -> None:
        failures.append({"path": str(error.filename), "error": f"cannot list the folder: {error.strerror}"})

    for parent, folders, files in os.walk(folder, onerror=add_failure):
        folders.sort()
        paths = [Path(parent) / name for name in sorted(files) if not name.startswith(".")]
        yield from _photographs(paths, failures, suffixes)


def _photographs(paths: Iterable[Path], failures: list[dict[str, str]], suffixes: frozenset[str]) -> Iterator[Path]:
    """Regular files with one of the suffixes, without our overlays; opening a pipe would block forever."""
    for path in paths:
        if path.suffix.lower() not in suffixes and not (path.suffix == "" and suffixes is IMAGE_SUFFIXES):
            continue
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
            if not regular and not path.suffix:
                continue
        except OSError as error:  # a broken or circular link, a folder without permission
            failures.append({"path": str(path), "error": f"cannot read the file: {error.strerror}"})
            continue
        if not regular:
            failures.append({"path": str(path), "error": "expected a regular file; got a pipe, socket or device"})
        elif not is_overlay(path) and (path.suffix or _begins_as_image(path)):
            yield path


def _begins_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return _CONTENT.match(handle.read(16)) is not None
    except OSError:
        return False


def is_overlay(path: Path, description: str | None = None) -> bool:
    """Whether masktree wrote this picture; with a ``description``, whether it is of this one."""
    if path.suffix != ".png":
        return False
    try:
        with path.open("rb") as handle:
            head = handle.read(_OVERLAY_HEAD)
    except OSError:
        return False
    return _OVERLAY_BYTES in head and (description is None or _text_chunk("Description", description) in head)


def _text_chunk(keyword: str, text: str) -> bytes:
    """A text chunk of a PNG file without its length: it ends with a checksum, so that no longer text matches it."""
    content = f"tEXt{keyword}\0{text}".encode("latin-1")
    return content + zlib.crc32(content).to_bytes(4, "big")


def _folder_without_wildcards(pattern: Path) -> Path:
    """The leading folders of a glob pattern, up to the first one with a wildcard."""
    folder = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        folder /= part
    return folder


def name_outputs(found: Sequence[tuple[Path, str]]) -> list[Photo]:
    """Photographs of (path, relative POSIX path). The name has no suffix, except where a.jpg and a.png are siblings.

    Raises:
        InputError: two photographs would write to one name, or one to a reserved name.
    """
    names = [relative.removesuffix(Path(relative).suffix) for _, relative in found]
    while True:  # a name with suffix may equal another name without (a.jpg, a.png, a.jpg.jpg): repeat until stable
        counts = Counter(names)
        unique_names = [
            relative if counts[name] > 1 or name.lower() in RESERVED_NAMES else name
            for name, (_, relative) in zip(names, found, strict=True)
        ]
        if unique_names == names:
            break
        names = unique_names
    paths: dict[str, Path] = {}
    for name, (path, _) in zip(names, found, strict=True):
        if name.lower() in RESERVED_NAMES:
            raise InputError(f"expected a photograph of another name; got {path}: {name}.json is the record; rename it")
        if name in paths:
            raise InputError(
                f"expected one output name per image; {paths[name]} and {path} would both write {name}.json; "
                "give them in two runs with different output folders"
            )
        paths[name] = path
    return [Photo(path, name) for name, path in paths.items()]
