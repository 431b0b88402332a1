from __future__ import annotations

import subprocess
import sys

import pytest

import masktree


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
