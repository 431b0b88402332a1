"""The query decoder of Mask2Former (Cheng et al. 2022, arXiv 2112.01527, section 3.2): masked attention.

The same function of the same weights as transformers' Mask2FormerTransformerModule (a test compares them), without its
arrays of queries x pixels for every layer: masks are kept as vectors whose product with the pixels' vectors are
logits, and attention runs through torch's fused kernels. With 2000 queries at 1024 pixels those arrays are 0.5 GB for
each layer and image, and the attention's 3 GB at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

LEVELS = 3  # maps that layers attend to in turn, coarsest first


class QueryDecoder(nn.Module):
    """Queries that look at the maps, layer by layer, each where it last saw its mask."""

    def __init__(self, hidden: int, heads: int, feedforward: int, layers: int, queries: int) -> None:
        super().__init__()
        self.features = nn.Embedding(queries, hidden)
        self.positions = nn.Embedding(queries, hidden)
        self.levels = nn.Embedding(LEVELS, hidden)
        self.layers = nn.ModuleList([DecoderLayer(hidden, heads, feedforward) for _ in range(layers)])
        self.norm = nn.LayerNorm(hidden)
        self.mask = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )

    def forward(
        self, maps: Sequence[Tensor], pixels: Tensor, place: Callable[[Tensor], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and their mask vectors, (b, q, hidden) each, before the first layer and after every one.

        Args:
            maps: three (b, hidden, h, w), coarsest first.
            pixels: (b, hidden, H/4, W/4) vectors whose products with mask vectors are the logits of masks.
            place: gives the (1 or b, hidden, h, w) positional embedding of a map.
        """
        values = [m.flatten(2).transpose(1, 2) + self.levels.weight[i] for i, m in enumerate(maps)]
        keys = [v + place(m).flatten(2).transpose(1, 2) for v, m in zip(values, maps, strict=True)]
        # logits at a map's size are linear in the pixels' vectors, so these are resized instead, once
        coarse = [functional.interpolate(pixels.detach(), m.shape[-2:], mode="bilinear") for m in maps]
        b = len(pixels)
        x, positions = self.features.weight.expand(b, -1, -1), self.positions.weight.expand(b, -1, -1)
        states = [self.norm(x)]
        vectors = [self.mask(states[0])]
        for i, layer in enumerate(self.layers):
            level = i % LEVELS
            seen = vectors[-1].detach() @ coarse[level].flatten(2) >= 0
            seen = seen | ~seen.any(2, keepdim=True)  # a query that has no mask yet looks everywhere
            x = layer(x, positions, keys[level], values[level], seen[:, None])
            states.append(self.norm(x))
            vectors.append(self.mask(states[-1]))
        return states, vectors


class DecoderLayer(nn.Module):
    """Attention to the pixels of the query's mask, attention among queries, two linear maps; norms after each."""

    def __init__(self, hidden: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.cross, self.cross_norm = Attention(hidden, heads), nn.LayerNorm(hidden)
        self.among, self.among_norm = Attention(hidden, heads), nn.LayerNorm(hidden)
        self.inner, self.outer = nn.Linear(hidden, feedforward), nn.Linear(feedforward, hidden)
        self.norm = nn.LayerNorm(hidden)
        for parameter in self.parameters():  # Xavier's, as the authors
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """``x``, ``positions`` (b, q, hidden); ``keys``, ``values`` (b, p, hidden); ``seen`` (b, 1, q, p) bool."""
        x = self.cross_norm(x + self.cross(x + positions, keys, values, seen))
        x = self.among_norm(x + self.among(x + positions, x + positions, x))
        return self.norm(x + self.outer(self.inner(x).relu()))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762), ``width`` wide inside, as wide as outside if None.

    One image may stand before the queries of many, and one image's queries before many: the other is repeated.
    """

    def __init__(self, hidden: int, heads: int, width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        width = width or hidden
        self.query, self.key = nn.Linear(hidden, width), nn.Linear(hidden, width)
        self.value, self.out = nn.Linear(hidden, width), nn.Linear(width, hidden)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        if len(q) != len(k):
            b = max(len(q), len(k))
            q, k, v = (part.expand(b, -1, -1, -1) for part in (q, k, v))
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out(found.transpose(1, 2).flatten(2))
