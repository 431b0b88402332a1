from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import masktree
from tests.conftest import ROOT


@pytest.mark.parametrize("name", masktree.__all__)
def test_every_public_name_is_there(name):
    value = getattr(masktree, name)
    assert getattr(value, "__name__", name) == name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        masktree.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, masktree; print(sorted({'torch', 'numba', 'scipy', 'numpy', 'PIL'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_whatever_is_to_be_installed_by_pip_exists():
    """masktree itself is no name that pip knows: its folder is installed, or packages that it depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(item for items in extras.values() for item in items)]
    known = {re.match(r"[\w-]+", item)[0] for item in requirements} - {project["name"]}
    known |= {".", *(f".[{extra}]" for extra in extras)}
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")]
    pages += [
        path for folder in ("docs", "src", "benchmarks", "recipes", "examples") for path in (ROOT / folder).rglob("*.*")
    ]
    found = []
    for path in pages:
        if path.suffix not in (".md", ".py", "") or path.name == "log.md":
            continue
        for command in re.findall(r"pip install ([^`#;)\n]+)", path.read_text(encoding="utf-8")):
            command = command.partition(" --index-url")[0].partition('")')[0]
            names = [word.strip("\"'.,") or "." for word in command.split() if not word.startswith("-")]
            found += names
            assert all(name in known or f".{name}" in known for name in names), f"{path}: {command}"
    assert {".", "matplotlib", "torch"} <= set(found)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_says_what_it_installs_and_takes_torch_from_another_index():
    def dry_run(*arguments: str) -> str:
        command = ["make", "-n", "-B", "demo", "PYTHON=python", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    plain, other = dry_run(), dry_run("TORCH_INDEX=https://example.org/cpu")
    assert re.search(
        r"installing masktree and \d+ packages.*\n.*6\.2 GB .*\n.*Without a GPU.* in docs/index\.md", plain
    )
    assert "### Without a GPU" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "torch torchvision --index-url https://example.org/cpu" in other
    assert "6.2 GB" not in other
    assert "index-url" not in plain
    assert "[dev]" not in plain
