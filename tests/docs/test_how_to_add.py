"""The pages of ``docs/how-to`` are followed: their code runs, in order, as a reader would add it.

A block with a title is a new module of the package; it is made importable for the test, as if the file were there.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from masktree.discover.methods import METHODS
from masktree.evaluate.datasets import DATASETS
from masktree.export.formats import FORMATS
from tests.docs.blocks import ROOT, Block, read_blocks

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/how-to").glob("*.md"))


@pytest.fixture
def restored() -> Iterator[None]:
    """The dictionaries of methods, data sets and formats are afterwards as they were."""
    methods, datasets, formats = set(METHODS), set(DATASETS), set(FORMATS)
    yield
    for name in set(METHODS) - methods:
        del METHODS[name]
    for name in set(DATASETS) - datasets:
        del DATASETS[name]
    for name in set(FORMATS) - formats:
        del FORMATS[name]


def install(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a block's module importable under the name of the file in its title, until the test ends."""
    path = Path(block.title).relative_to("src").with_suffix("")
    name = ".".join(path.parts)
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module(name.rpartition(".")[0]), path.name, module, raising=False)
    exec(compile(block.code, block.title, "exec"), module.__dict__)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("page", PAGES)
def test_page_can_be_followed(page: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(template, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    names: dict[str, Any] = {"__name__": "how_to"}
    monkeypatch.setitem(sys.modules, "how_to", ModuleType("how_to"))  # where dataclasses look up their module
    blocks = read_blocks(page)
    assert blocks
    for block in blocks:
        if block.title:
            install(block, monkeypatch)
        else:
            exec(compile("\n" * (block.line - 1) + block.code, str(ROOT / page), "exec"), names)
