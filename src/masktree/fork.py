"""What makes masktree usable in forked processes."""

from __future__ import annotations

import os
import sys


def _use_one_thread() -> None:
    """Let torch compute on the thread that there is, as torch's own data loader does in its workers.

    A forked child inherits OpenMP's pool without its threads: once the parent has computed, the child would wait for
    them for ever.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):  # not while it is being imported
        torch.set_num_threads(1)


def register() -> None:
    """Apply this to all processes that are forked from now on."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=_use_one_thread)
