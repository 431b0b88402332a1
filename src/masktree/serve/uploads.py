"""Images that are dropped on the page: checked, and stored under names of our own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import IO

from masktree.errors import InputError, MasktreeError
from masktree.io.files import write_atomically
from masktree.io.images import read_size
from masktree.io.photos import IMAGE_SUFFIXES
from masktree.serve.folder import UPLOADS, Entry, Folder

MAX_FILES = 1000  # of an upload (our choice)
_MAX_STEM = 40  # characters of the name that are kept (our choice)
_HASH_DIGITS = 10
_FREE_BYTES = 2**28  # that are left on the disk (our choice)


def store(folder: Folder, name: str, content: IO[bytes]) -> Entry:
    """Store an image; the same content under a similar name is stored once.

    Args:
        folder: of all images; the file goes below its output folder.
        name: that the browser says, of which letters and digits are kept.
        content: the file, from its beginning.

    Raises:
        InputError, ImageError: it is no image that can be read, or too large a one, or the disk is full.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise InputError("expected an image such as JPEG, PNG or TIFF, by its suffix; got another file; convert it")
    digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    uploads = folder.output / UPLOADS
    uploads.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(uploads).free < size + _FREE_BYTES:
        raise InputError("expected room on the disk; got too little; delete files, or choose another output folder")
    path = uploads / f"{safe_stem(name)}-{digest[:_HASH_DIGITS]}{suffix}"
    if not path.exists():
        write_atomically(path, lambda handle: shutil.copyfileobj(content, handle))
        try:
            read_size(path)  # of the header; refuses images that are too large to be read
        except MasktreeError:
            path.unlink(missing_ok=True)
            raise
    return folder.add_upload(path)


def safe_stem(name: str) -> str:
    """A file name without suffix, of ASCII letters, digits and hyphens, made of one that came from outside."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(name.replace("\\", "/")).stem).strip("-")
    return stem[:_MAX_STEM].strip("-") or "image"
