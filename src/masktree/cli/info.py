"""masktree info."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from masktree.cli.options import print_error


def info(
    topic: tyro.conf.Positional[Literal["all", "backbone", "labels", "model"]] = "all",
    name: tyro.conf.Positional[str | None] = None,
    /,
    rank: Path | None = None,
    candidates: tuple[str, ...] = (),
    device: str = "auto",
    seed: int = 0,
) -> int:
    """Show what is installed, the backbones with licence and provenance, or a description of a label set or model.

    Args:
        topic: backbone, labels, model, or all.
        name: A backbone's name, or the folder of a label set or of a trained model.
        rank: Folder of unlabelled photographs: rank the backbones on them.
        candidates: With --rank: further backbones besides those that need no download: names, NAME@PATH or folders.
        device: With --rank: auto, cpu, cuda, cuda:N or mps.
        seed: With --rank: of the random choices.
    """
    from masktree.stages.info import describe, rank_backbones

    if rank is not None:
        if topic != "backbone" or name is not None:
            return print_error("expected masktree info backbone --rank FOLDER; got another topic, or a name as well")
        text, failures = rank_backbones(rank, candidates, device=device, seed=seed, show_progress=True)
        print(text, flush=True)
        for failure in failures:
            print_error(f"left out: {failure}")
        return 1 if failures else 0
    if candidates:
        return print_error("expected --candidates with --rank FOLDER; got no folder of photographs")
    print(describe(topic, name))
    return 0
