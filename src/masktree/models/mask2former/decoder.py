"""Query decoder of Mask2Former (Cheng et al. 2022, arXiv 2112.01527, section 3.2) with masked attention.

The same function of the same weights as transformers' Mask2FormerTransformerModule (a test compares them), without its
arrays of queries x pixels for every layer: masks are kept as embeddings whose products with the pixel embeddings are
the logits, and attention runs in torch's fused kernels. With 2000 queries at 1024 pixels those arrays take 0.5 GB for
each layer and image, and the attention's 3 GB at stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

NUM_LEVELS = 3  # maps that the layers attend to in turn, coarsest first


class QueryDecoder(nn.Module):
    """Layers in which each query attends to the pixels of its own mask, as the previous layer predicts it."""

    def __init__(
        self, hidden_dim: int, num_heads: int, feedforward_dim: int, num_layers: int, num_queries: int
    ) -> None:
        super().__init__()
        self.query_features = nn.Embedding(num_queries, hidden_dim)
        self.query_positions = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.layers = nn.ModuleList([DecoderLayer(hidden_dim, num_heads, feedforward_dim) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(hidden_dim)
        self.mask_embed = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
        )

    def forward(
        self, maps: Sequence[Tensor], pixels: Tensor, position_embedding: Callable[[Tensor], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Queries and mask embeddings, (b, q, hidden) each, before the first layer and after every layer.

        Args:
            maps: three (b, hidden, h, w), coarsest first.
            pixels: (b, hidden, H/4, W/4) embeddings whose products with mask embeddings are mask logits.
            position_embedding: of a map: (1 or b, hidden, h, w).
        """
        values = [m.flatten(2).transpose(1, 2) + self.level_embed.weight[i] for i, m in enumerate(maps)]
        keys = [v + position_embedding(m).flatten(2).transpose(1, 2) for v, m in zip(values, maps, strict=True)]
        # Resized logits are linear in the pixel embeddings, so these are resized instead, once.
        resized = [functional.interpolate(pixels.detach(), m.shape[-2:], mode="bilinear") for m in maps]
        b = len(pixels)
        x, positions = self.query_features.weight.expand(b, -1, -1), self.query_positions.weight.expand(b, -1, -1)
        states = [self.norm(x)]
        embeddings = [self.mask_embed(states[0])]
        for i, layer in enumerate(self.layers):
            level = i % NUM_LEVELS
            attention_mask = embeddings[-1].detach() @ resized[level].flatten(2) >= 0
            attention_mask = attention_mask | ~attention_mask.any(2, keepdim=True)  # an empty mask attends everywhere
            x = layer(x, positions, keys[level], values[level], attention_mask[:, None])
            states.append(self.norm(x))
            embeddings.append(self.mask_embed(states[-1]))
        return states, embeddings


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward network, each followed by a layer norm."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attn, self.cross_attn_norm = Attention(hidden_dim, num_heads), nn.LayerNorm(hidden_dim)
        self.self_attn, self.self_attn_norm = Attention(hidden_dim, num_heads), nn.LayerNorm(hidden_dim)
        self.linear1, self.linear2 = nn.Linear(hidden_dim, feedforward_dim), nn.Linear(feedforward_dim, hidden_dim)
        self.feedforward_norm = nn.LayerNorm(hidden_dim)
        for parameter in self.parameters():  # Xavier's, as the authors
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """``x``, ``positions`` (b, q, hidden); ``keys``, ``values`` (b, p, hidden); ``mask`` (b, 1, q, p) bool."""
        x = self.cross_attn_norm(x + self.cross_attn(x + positions, keys, values, mask))
        x = self.self_attn_norm(x + self.self_attn(x + positions, x + positions, x))
        output: Tensor = self.feedforward_norm(x + self.linear2(self.linear1(x).relu()))
        return output


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762) with an inner width of ``inner_dim``.

    A batch of one set of keys is broadcast over many of queries, and one of queries over many of keys. ``inner_dim`` is
    ``hidden_dim`` by default.
    """

    def __init__(self, hidden_dim: int, num_heads: int, inner_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner_dim = inner_dim or hidden_dim
        self.query, self.key = nn.Linear(hidden_dim, inner_dim), nn.Linear(hidden_dim, inner_dim)
        self.value, self.out = nn.Linear(hidden_dim, inner_dim), nn.Linear(inner_dim, hidden_dim)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, q, hidden) of queries (b, q, hidden), keys and values (b, p, hidden) and a bool mask (b, 1, q or 1, p),
        True where a query attends."""
        q, k, v = (
            linear(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        if len(q) != len(k):
            b = max(len(q), len(k))
            q, k, v = (heads.expand(b, -1, -1, -1) for heads in (q, k, v))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return output
