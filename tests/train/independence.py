"""What holds for all examples of photographs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from masktree.train.photo_dataset import PhotoDataset


def check_independence(make: Callable[[], PhotoDataset], flat: Callable[[list], list]) -> None:
    """Assert that the items of 4 steps of 4 are the same wherever a loader of 16 examples begins, however many share
    it, and that the run's random numbers are its own. ``flat``: the examples of items, as what can be compared."""
    photographs = make()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    wanted = flat(list(photographs.loader(0, 4, 4)))
    assert flat(list(make().loader(0, 4, 4))) == wanted
    assert flat(list(photographs.loader(2, 4, 4))) == wanted[8:]
    assert flat(list(photographs.loader(0, 8, 2))) == wanted
    ranks = [list(photographs.loader(0, 4, 4, rank, 2)) for rank in range(2)]
    assert flat([own for step in zip(*ranks, strict=True) for own in step]) == wanted
    assert torch.equal(torch.get_rng_state(), before)
