"""Every command and snippet of README, CONTRIBUTING and the site runs; those that cannot say why.

The blocks of a page run in order, in a copy of one small folder (``conftest.py``), and share their Python names.
"""

from __future__ import annotations

import ast
import builtins
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageShow

import masktree
from masktree.cli import main
from masktree.cli.verbs import VERBS
from tests.docs.blocks import ROOT, Block, command_lines, output_of, pages, read_blocks, shortened

BLOCKS = [block for page in pages() for block in read_blocks(page)]


@dataclass
class Workspace:
    """Where the blocks of one page run.

    Attributes:
        folder: working folder of its commands.
        names: Python names that its snippets have defined.
        done: numbers of the blocks that have run.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)


@pytest.fixture(scope="module")
def workspaces() -> dict[str, Workspace]:
    """By page, made on first use."""
    return {}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of commands by their text: a training command that stands on two pages runs once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """``masktree export`` without the conversion, which takes 30 CPU seconds and is tested in ``tests/models/onnx``."""
    from masktree.models.onnx import export

    def name_files(model: Any, path: Path, image_size: int | None = None) -> list[Path]:
        return list(export.output_files(model.config, path))

    monkeypatch.setattr(export, "export_onnx", name_files)


def run_command(words: list[str], outputs: Path) -> None:
    """Run one ``masktree`` command in the working folder, or take its earlier result."""
    assert words[0] == "masktree", f"expected a masktree command or a skip marker; got {' '.join(words)}"
    arguments = shortened(words[1:])
    target = output_of(arguments)
    kept = outputs / re.sub(r"[^\w.=-]+", "_", " ".join(arguments))
    if target is not None:
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        if kept.exists():
            (shutil.copytree if kept.is_dir() else shutil.copy)(kept, target)
            return
    assert main(arguments) == 0, " ".join(arguments)
    if target is not None and target.exists():  # models are exported by a stand-in
        (shutil.copytree if target.is_dir() else shutil.copy)(target, kept)


def run_block(block: Block, workspace: Workspace, outputs: Path) -> None:
    if block.language == "python":
        code = "\n" * (block.line - 1) + block.code  # so that tracebacks have the page's line numbers
        exec(compile(code, str(ROOT / block.page), "exec"), workspace.names)
        return
    for words in command_lines(block.code):
        run_command(words, outputs)


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.skip], ids=lambda block: block.name)
def test_block_runs(
    block: Block,
    template: Path,
    workspaces: dict[str, Workspace],
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if block.page not in workspaces:
        shutil.copytree(template, tmp_path / "page")
        workspaces[block.page] = Workspace(tmp_path / "page")
    workspace = workspaces[block.page]
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setattr(ImageShow, "show", lambda picture, title: True)  # opens no window
    for earlier in read_blocks(block.page):
        if earlier.line <= block.line and not earlier.skip and earlier.line not in workspace.done:
            run_block(earlier, workspace, outputs)
            workspace.done.add(earlier.line)
    assert "is as wide as --size" not in capsys.readouterr().err  # --from of a run of another size
    if block.page.endswith("click.md") and "[1]" in block.code:
        assert len(workspace.names["masks"]) == 3  # as the page says


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.skip], ids=lambda block: block.name)
def test_skipped_block_is_valid(block: Block) -> None:
    """Of a block that is not run, ``masktree`` takes the arguments, and scripts exist and know their options."""
    if block.language == "python":
        compile(block.code, block.page, "exec")
        pytest.skip(block.skip)
    for words in command_lines(block.code):
        if "masktree" in words:
            arguments = words[words.index("masktree") + 1 :]
            VERBS[arguments[0]].parse(["sohes" if word == "METHOD" else word for word in arguments[1:]])
        elif words[0] == "python" and words[1].endswith(".py"):
            folder = (ROOT / words[1]).parent  # scripts share parts of their parsers
            assert (ROOT / words[1]).is_file()
            source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
            for option in (word for word in words[2:] if word.startswith("--")):
                assert f'"{option}"' in source, f"no script in {folder.name} has {option}"
        elif words[0] == "make":
            rules = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(re.search(rf"^{target}:", rules, re.MULTILINE) for target in words[1:])
    pytest.skip(block.skip)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.name)
def test_snippet_can_be_pasted_alone(block: Block) -> None:
    """Every name that it uses is imported or made in it."""
    nodes = list(ast.walk(ast.parse(block.code)))
    known = set(dir(builtins)) | {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    known |= {
        (a.asname or a.name).split(".")[0] for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names
    }
    known |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    assert {n.id for n in nodes if isinstance(n, ast.Name)} <= known


def test_reference_has_every_public_name() -> None:
    text = (ROOT / "docs/reference/index.md").read_text(encoding="utf-8")
    missing = [name for name in masktree.__all__ if f"masktree.{name}" not in text]
    assert missing == []


def test_pages_of_the_site_are_in_its_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    site = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in site if page not in navigation] == []
