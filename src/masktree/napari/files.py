"""Reader and writer of tree files, as napari calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masktree.napari.layers import Layer, level_layers, tree_of_layers
from masktree.trees.file import is_tree_file
from masktree.trees.masktree import MaskTree


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """The reader of tree files; None for other files, which other plugins may read."""
    paths = [path] if isinstance(path, str) else path
    return read_layers if all(Path(item).is_file() and is_tree_file(Path(item)) for item in paths) else None


def read_layers(path: str | list[str]) -> list[Layer]:
    """A labels layer for each level of each tree, named after its file.

    Raises:
        FormatError: a damaged file.
    """
    layers = []
    for item in [path] if isinstance(path, str) else path:
        for data, arguments, kind in level_layers(MaskTree.load(item)):
            layers.append((data, arguments | {"name": f"{Path(item).stem} {arguments['name']}"}, kind))
    return layers


def write_labels(path: str, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write labels layers of one image as a tree file; returns its path, in a list.

    Raises:
        InputError: layers of several images.
    """
    tree_of_layers([(data, arguments.get("metadata", {})) for data, arguments, _ in layers]).save(path)
    return [path]
