"""The example notebook runs from top to bottom, and is stored without results."""

from __future__ import annotations

import ast
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageShow

import masktree
from tests.docs.blocks import ROOT

NOTEBOOK = ROOT / "examples" / "tour.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line if that is an expression, which a notebook displays."""
    body = ast.parse(source).body
    last = body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(source, str(NOTEBOOK), "exec"), names)
        return None
    exec(compile(ast.Module(body[:-1], []), str(NOTEBOOK), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_notebook_runs(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    photo = Image.open(next(path for path in photos if path.stem == "coffee"))
    photo.thumbnail((96, 96))
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "coffee.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageShow, "show", lambda picture, title: True)  # opens no window
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            shown.append(run_cell("".join(cell["source"]), names))
    tree, overlay, cut, click = (value for value in shown if value is not None)
    assert isinstance(tree, masktree.MaskTree)
    assert all(picture.size == photo.size for picture in (overlay, cut, click))
    printed = capsys.readouterr().out
    assert "out/imagej/coffee.zip" in printed
    assert "out/qupath/coffee.geojson" in printed
    assert len(zipfile.ZipFile("out/imagej/coffee.zip").namelist()) == len(tree.nodes)
