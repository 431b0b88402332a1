"""What is in the wheel that users install."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

wheels = pytest.importorskip("hatchling.builders.wheel")


def test_a_wheel_has_the_page_and_the_weights(tmp_path):
    [path] = wheels.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    source = ROOT / "src" / "masktree"
    for folder in ("serve/static", "weights"):
        names = [file.relative_to(source) for file in (source / folder).rglob("*") if file.is_file()]
        assert names
        assert all((tmp_path / "site" / "masktree" / name).is_file() for name in names)
    code = "import masktree.serve.app as app; print(app.STATIC, (app.STATIC / 'index.html').is_file())"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {code}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(tmp_path / "site/masktree/serve/static"), "True"]
