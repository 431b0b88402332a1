"""Queries that begin as cells of the image's own maps, for short training.

Learned queries are the same for every image: what each of them stands for is decided by the matching, slowly. A cell
already knows what lies under it. As in two-stage detectors (Zhu et al. 2021, arXiv 2010.04159, section 4.3; Li et al.
2023, arXiv 2206.02777, section 3.3) the cells most like an entity begin as queries, and are matched and learned from
like those after every layer, so that the head which judges queries learns to choose among cells too. Unlike there
gradients flow from the layers into the cells that were chosen (our choice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Cells(nn.Module):
    """The ``queries`` best cells over all maps; all of them where an image has fewer.

    Satisfies :class:`masktree.segmenter.decoder.Starts`. Any other number may be asked for after training.
    """

    def __init__(self, queries: int, hidden: int) -> None:
        super().__init__()
        self.queries = queries
        self.content = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden))

    def forward(
        self, values: Sequence[Tensor], places: Sequence[Tensor], judge: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See :class:`masktree.segmenter.decoder.Starts`."""
        cells = self.content(torch.cat(list(values), 1))
        where = torch.cat([p.expand_as(v) for p, v in zip(places, values, strict=True)], 1)
        with torch.no_grad():
            scores = judge(cells)
        best = scores.topk(min(self.queries, scores.shape[1]), dim=1).indices[..., None]
        x, positions = (part.take_along_dim(best, 1) for part in (cells, where))
        return x, positions
