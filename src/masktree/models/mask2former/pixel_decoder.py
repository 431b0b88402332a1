"""transformers' pixel decoder of Mask2Former (Cheng et al. 2022, arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from masktree.errors import InputError
from masktree.models.config import Mask2FormerConfig, PromptableConfig

NUM_GROUPS = 32  # of its group norm


def decode_pixels(decoder: Any, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Multi-scale features (b, hidden, h, w) at strides 32, 16 and 8, and pixel embeddings at stride 4.

    Args:
        decoder: from ``build_pixel_decoder``; ``Any``, as transformers is not typed.
        maps: of the pyramid, at strides 4, 8, 16 and 32.
    """
    dtype = decoder.level_embed.dtype
    # Full precision, as the authors: sampling offsets are fractions of a cell.
    with torch.autocast(maps[0].device.type, enabled=False):
        output = decoder([m.to(dtype) for m in maps])
    return list(output.multi_scale_features), output.mask_features


def build_pixel_decoder(config: Mask2FormerConfig | PromptableConfig, channels: tuple[int, int, int, int]) -> nn.Module:
    """Deformable attention over strides 8 to 32, then a feature pyramid to stride 4.

    Args:
        config: decides width, heads and layers.
        channels: of the maps at strides 4, 8, 16 and 32.

    Raises:
        InputError: ``config.hidden_dim`` is not a multiple of 32, or transformers is missing or too old.
    """
    if config.hidden_dim % NUM_GROUPS:
        raise InputError(f"expected hidden_dim to be a multiple of {NUM_GROUPS}; got {config.hidden_dim}")
    try:
        import transformers
    except ImportError as error:
        raise InputError("expected transformers for this model; got none; pip install transformers") from error
    try:
        from transformers.models.mask2former.configuration_mask2former import (
            Mask2FormerConfig as TransformersConfig,
        )
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder
    except ImportError as error:
        raise InputError(
            f"expected Mask2FormerPixelDecoder in transformers; got {transformers.__version__} without it; "
            "install a release of version 5"
        ) from error
    transformers_config = TransformersConfig(
        feature_size=config.hidden_dim,
        mask_feature_size=config.hidden_dim,
        encoder_feedforward_dim=config.feedforward_dim,
        encoder_layers=config.pixel_decoder_layers,
        num_attention_heads=config.num_heads,
        dropout=0.0,
    )
    decoder: nn.Module = Mask2FormerPixelDecoder(transformers_config, list(channels))
    cast(Any, decoder).encoder.get_reference_points = _reference_points
    _init_weights(decoder, config.num_heads)
    return decoder


def _reference_points(
    spatial_shapes_list: Sequence[tuple[int, int]], valid_ratios: Tensor, device: torch.device
) -> Tensor:
    """(b, cells of all maps, maps, 2) centres of the cells as fractions of width and height.

    transformers' method of the same arguments calls ``torch.linspace``, whose length is a constant in an exported
    model, so that this would take images of one size only.
    """
    centres = []
    for level, (height, width) in enumerate(spatial_shapes_list):
        y, x = (torch.arange(side, dtype=valid_ratios.dtype, device=device) + 0.5 for side in (height, width))
        y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
        ratios = valid_ratios[:, None, level]
        centres.append(torch.stack([x / (ratios[..., 0] * width), y / (ratios[..., 1] * height)], -1))
    return torch.cat(centres, 1)[:, :, None] * valid_ratios[:, None]


def _init_weights(decoder: Any, num_heads: int) -> None:
    """Xavier's; sampling offsets in ``num_heads`` directions, 1 to 4 cells away (arXiv 2010.04159, A.4)."""
    nn.init.normal_(decoder.level_embed)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() > 1 and name != "level_embed":
            nn.init.xavier_uniform_(parameter)
    angles = torch.arange(num_heads) * (2 * torch.pi / num_heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    directions = directions / directions.abs().amax(1, keepdim=True)
    for layer in decoder.encoder.layers:
        attention = layer.self_attn
        distances = torch.arange(1, attention.n_points + 1)[:, None]
        offsets = (distances * directions[:, None, None]).expand(-1, attention.n_levels, -1, -1)
        with torch.no_grad():
            attention.sampling_offsets.bias.copy_(offsets.flatten())
        weights = (attention.sampling_offsets.weight, attention.attention_weights.weight)
        biases = (attention.attention_weights.bias, attention.value_proj.bias, attention.output_proj.bias)
        for parameter in (*weights, *biases):
            nn.init.zeros_(parameter)
