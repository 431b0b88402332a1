"""masktree info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from masktree.cli.options import print_error

_Topic = Literal["all", "backbone", "preset", "labels", "model"]


def info(
    topic: Annotated[tyro.conf.Positional[_Topic], tyro.conf.arg(metavar="TOPIC")] = "all",
    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NAME")] = None,
    /,
    rank: Path | None = None,
    candidates: tuple[str, ...] = (),
    device: str = "auto",
    seed: int = 0,
) -> int:
    """Show what is installed, the backbones with licence and provenance, or a description of a label set or model.

    Args:
        topic: What to describe: all, backbone, preset, labels or model.
        name: Name of a backbone or of a preset with its size, such as hassod-base, whose values are a file for
            train --config; or folder of a label set or of a trained model. Default: all backbones.
        rank: Rank the backbones on the unlabelled photographs in this folder.
        candidates: Rank these backbones too (names, NAME@PATH or folders). Default: those that need no download.
        device: Device: auto, cpu, cuda, cuda:N or mps.
        seed: Seed of the random choices.
    """
    from masktree.stages.info import describe, rank_backbones

    if rank is not None:
        if topic != "backbone" or name is not None:
            got = f"{topic} {name}" if name else topic
            return print_error(
                f"expected the topic backbone alone with --rank; got {got}; write masktree info backbone --rank {rank}"
            )
        text, failures = rank_backbones(rank, candidates, device=device, seed=seed, show_progress=True)
        print(text, flush=True)
        for failure in failures:
            print_error(f"left out: {failure}")
        return 1 if failures else 0
    if candidates:
        return print_error("expected --candidates with --rank FOLDER; got no folder of photographs; add --rank FOLDER")
    print(describe(topic, name))
    return 0
