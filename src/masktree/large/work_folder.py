"""The folder of finished blocks, from which a run that was stopped goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import FormatError, InputError
from masktree.io.files import read_json, write_json
from masktree.large.block import BlockGraph

_PLAN = "plan.json"


@dataclass(frozen=True)
class WorkFolder:
    """A folder with a file per finished block, which is written atomically.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, plan: dict[str, Any]) -> WorkFolder:
        """Make the folder, or continue in it. Blocks of another plan are removed.

        Args:
            path: the folder.
            plan: everything that the blocks depend on, as plain values.

        Raises:
            InputError: a folder of something else.
        """
        if path.exists() and any(path.iterdir()):
            try:
                found = read_json(path / _PLAN, {"plan": dict})["plan"]
            except (OSError, FormatError) as error:
                raise InputError(
                    f"expected no foreign files where unfinished results go; got {path}; choose another output folder"
                ) from error
            if found != plan:
                shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / _PLAN, {"plan": plan})
        return cls(path)

    @property
    def scene(self) -> Path:
        """File of the statistics that all blocks share."""
        return self.path / "scene.npz"

    def block(self, index: int) -> Path:
        """File of a block."""
        return self.path / f"block_{index}.npz"

    def load(self, index: int) -> BlockGraph:
        """A finished block."""
        return BlockGraph.load(self.block(index))

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path)
