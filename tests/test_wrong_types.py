"""Calls with wrong arguments end in masktree's own errors or are answered."""

from __future__ import annotations

import os
import subprocess
import sys


def test_wrong_arguments_raise_no_foreign_error():
    environment = {name: value for name, value in os.environ.items() if name != "MASKTREE_CHECK_TYPES"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.wrong_types"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    *failures, count = result.stdout.splitlines()
    assert failures == []
    assert int(count.removesuffix(" calls")) > 800
