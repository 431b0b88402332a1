"""Two-way decoder of SAM (Kirillov et al. 2023, arXiv 2304.02643, appendix A): tokens and image attend mutually."""

from __future__ import annotations

from torch import Tensor, nn

from masktree.models.mask2former.decoder import Attention


class TwoWayDecoder(nn.Module):
    """Two-way layers and a final attention of the tokens to the image.

    Attention between tokens and image is half as wide as ``hidden_dim``, as in SAM.
    """

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TwoWayLayer(hidden_dim, num_heads, feedforward_dim) for _ in range(num_layers)])
        self.final_token_to_image_attn = Attention(hidden_dim, num_heads, hidden_dim // 2)
        self.final_norm = nn.LayerNorm(hidden_dim)
        for parameter in self.parameters():  # Xavier's, as in the query decoder
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, is_valid: Tensor, cells: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, t, hidden) and image map (n, p, hidden) after all layers.

        Args:
            tokens: (n, t, hidden); they are added again to every query and key, as in SAM.
            is_valid: (n, t) bool; other tokens are padding and change nothing.
            cells: (n or 1, p, hidden) image map, broadcast over the prompts if 1.
            positions: (p, hidden) position embeddings of the map.
        """
        mask = is_valid[:, None, None]
        x = tokens
        for layer in self.layers:
            x, cells = layer(x, tokens, mask, cells, positions)
        x = self.final_norm(x + self.final_token_to_image_attn(x + tokens, cells + positions, cells))
        return x, cells


class TwoWayLayer(nn.Module):
    """Self-attention of tokens, token-to-image attention, feed-forward network, image-to-token attention.

    A layer norm follows each step.
    """

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn, self.self_attn_norm = Attention(hidden_dim, num_heads), nn.LayerNorm(hidden_dim)
        self.token_to_image_attn = Attention(hidden_dim, num_heads, hidden_dim // 2)
        self.token_to_image_norm = nn.LayerNorm(hidden_dim)
        self.linear1, self.linear2 = nn.Linear(hidden_dim, feedforward_dim), nn.Linear(feedforward_dim, hidden_dim)
        self.feedforward_norm = nn.LayerNorm(hidden_dim)
        self.image_to_token_attn = Attention(hidden_dim, num_heads, hidden_dim // 2)
        self.image_to_token_norm = nn.LayerNorm(hidden_dim)

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor, cells: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``x``: current tokens, ``tokens``: initial ones, ``mask``: (n, 1, 1, t) bool; the rest as in the decoder."""
        x = self.self_attn_norm(x + self.self_attn(x + tokens, x + tokens, x, mask))
        x = self.token_to_image_norm(x + self.token_to_image_attn(x + tokens, cells + positions, cells))
        x = self.feedforward_norm(x + self.linear2(self.linear1(x).relu()))
        return x, self.image_to_token_norm(cells + self.image_to_token_attn(cells + positions, x + tokens, x, mask))
