"""The decoder in which a few tokens and an image's map tell each other what they know (Kirillov et al. 2023, arXiv
2304.02643, appendix A)."""

from __future__ import annotations

from torch import Tensor, nn

from masktree.models.mask2former.decoder import Attention


class TwoWayDecoder(nn.Module):
    """Layers of four steps: among tokens, tokens to map, two linear maps, map to tokens; a last look of the tokens.

    Attention between tokens and map is half as wide as ``hidden``, as in SAM.
    """

    def __init__(self, hidden: int, heads: int, feedforward: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TwoWayLayer(hidden, heads, feedforward) for _ in range(layers)])
        self.look, self.norm = Attention(hidden, heads, hidden // 2), nn.LayerNorm(hidden)
        for parameter in self.parameters():  # Xavier's, as in the query decoder
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, known: Tensor, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and map after all layers, (n, t, hidden) and (n, p, hidden).

        Args:
            tokens: (n, t, hidden); they are added again wherever they ask, as in SAM.
            known: (n, t) bool: which of them are meant; others change nothing.
            cells: (n or 1, p, hidden), the map; 1: the same before all.
            places: (p, hidden) positional embedding of the map.
        """
        seen = known[:, None, None]
        states = tokens
        for layer in self.layers:
            states, cells = layer(states, tokens, seen, cells, places)
        states = self.norm(states + self.look(states + tokens, cells + places, cells))
        return states, cells


class TwoWayLayer(nn.Module):
    """One layer; norms after each step."""

    def __init__(self, hidden: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.among, self.among_norm = Attention(hidden, heads), nn.LayerNorm(hidden)
        self.look, self.look_norm = Attention(hidden, heads, hidden // 2), nn.LayerNorm(hidden)
        self.inner, self.outer = nn.Linear(hidden, feedforward), nn.Linear(feedforward, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.tell, self.tell_norm = Attention(hidden, heads, hidden // 2), nn.LayerNorm(hidden)

    def forward(self, x: Tensor, tokens: Tensor, seen: Tensor, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` the tokens now, ``tokens`` as they began, ``seen`` (n, 1, 1, t); else as the decoder's."""
        x = self.among_norm(x + self.among(x + tokens, x + tokens, x, seen))
        x = self.look_norm(x + self.look(x + tokens, cells + places, cells))
        x = self.norm(x + self.outer(self.inner(x).relu()))
        return x, self.tell_norm(cells + self.tell(cells + places, x + tokens, x, seen))
