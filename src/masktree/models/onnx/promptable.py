"""A promptable model as two ONNX graphs with segment-anything's inputs and outputs, and a YAML for annotation tools.

The encoder runs once per image, the decoder once per click. Programs for such pairs (Kirillov et al. 2023, arXiv
2304.02643, and its exported models) give points in pixels of an image whose longer side is ``FRAME_SIZE``, give six
inputs by name, and show the first mask. So points are in that frame whatever the size of the network's input, and masks
are sorted, best first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.backbones.texture import NUM_CUES
from masktree.io.files import write_atomically
from masktree.models.mask_maps import MASK_STRIDE
from masktree.models.onnx.graph import INPUTS, DynamicShapes, GraphDescription, export_graph, write_graph
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.predictions import ImageEmbedding
from masktree.models.promptable.prompt_encoder import Prompts
from masktree.models.promptable.ranking import click_costs, probabilities, select_by_expected_iou

FRAME_SIZE = 1024  # longer side of the frame of points, in pixels (segment-anything's)
LOW_RES_SIZE = 256  # cells along a side of mask inputs and low-resolution outputs (segment-anything's)
NUM_OUTPUT_MASKS = 3  # (segment-anything's for an ambiguous click)
_MIN_IOU = 1e-6  # before the logarithm
_EMPTY_COST = 1e4  # of an empty mask: probability 0
_ENCODER_OUTPUTS = {"image_embeddings": "for the decoder"}
_DECODER_INPUTS = {
    "image_embeddings": "of the encoder",
    "point_coords": f"(1, k, 2) float32, k >= 1: x and y in pixels of an image with a longer side of {FRAME_SIZE}",
    "point_labels": "(1, k) float32: 1 inside, 0 outside, 2 and 3 upper left and lower right corner of a box, "
    "-1 no point",
    "mask_input": f"(1, 1, {LOW_RES_SIZE}, {LOW_RES_SIZE}) float32: low_res_masks of an earlier prediction",
    "has_mask_input": "(1,) float32: 1 to use mask_input, 0 to ignore it",
    "orig_im_size": "(2,) float32: height and width in pixels of the masks",
    "granularity": "(1,) float32 in [0.1, 1], finest to coarsest; optional",
}
_DECODER_OUTPUTS = {
    "masks": f"(1, {NUM_OUTPUT_MASKS}, H, W) float32 logits, inside above 0, best first",
    "iou_predictions": f"(1, {NUM_OUTPUT_MASKS}) float32: expected IoU of each mask with the one that is meant",
    "low_res_masks": f"(1, {NUM_OUTPUT_MASKS}, {LOW_RES_SIZE}, {LOW_RES_SIZE}) float32 logits over the square of the "
    "image's longer side",
}


def export_promptable(model: Promptable, files: list[Path], side: int) -> list[Path]:
    """Write encoder, decoder and, for models without cues, the YAML for annotation tools, each atomically.

    The encoder's input ``image`` is (H, W, 3) float32 RGB from 0 to 255 of any size; for a model that wants cues, which
    tools cannot compute, it is the square input of other exported models, with ``cues``. Its output
    ``image_embeddings`` is an input of the decoder, beside ``point_coords``, ``point_labels`` (1 inside, 0 outside, 2
    and 3 upper left and lower right corner of a box, -1 no point), ``mask_input``, ``has_mask_input``, ``orig_im_size``
    and, unlike segment-anything, the optional ``granularity``. Outputs are ``masks``, ``iou_predictions`` and
    ``low_res_masks``, best first.

    Args:
        model: put into evaluation mode on the CPU.
        files: encoder, decoder and YAML.
        side: of the network's square input, a multiple of 32.

    Returns:
        The files that were written.
    """
    encoder, decoder, settings = files
    model = model.eval().cpu()
    export_encoder(model, side, encoder)
    _export_decoder(model, side, decoder)
    if model.wants_cues:
        return [encoder, decoder]
    write_atomically(settings, lambda handle: handle.write(tool_settings(encoder.name, decoder.name).encode()))
    return [encoder, decoder, settings]


def tool_settings(encoder: str, decoder: str) -> str:
    """The YAML by which AnyLabeling and X-AnyLabeling load a pair of files beside it."""
    name = encoder.removesuffix(".encoder.onnx")
    settings = {
        "type": "segment_anything",
        "name": name,
        "display_name": f"{name} (masktree)",
        "encoder_model_path": encoder,
        "decoder_model_path": decoder,
        "input_size": FRAME_SIZE,
        "max_width": FRAME_SIZE,
        "max_height": FRAME_SIZE * 2 // 3,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())  # JSON's values are YAML's


class ImageEncoderOnnxModel(nn.Module):
    """The encoder; its output concatenates the pixel embeddings of each cell and that of the cell."""

    def __init__(self, model: Promptable) -> None:
        super().__init__()
        self.model = model
        self.downscaling = model.config.embedding_stride // MASK_STRIDE

    def forward(self, image: Tensor, cues: Tensor | None = None) -> Tensor:
        embedding = self.model.encode(image, cues)
        return torch.cat([functional.pixel_unshuffle(embedding.pixels, self.downscaling), embedding.cells], 1)


class ResizingEncoderOnnxModel(nn.Module):
    """The encoder with resizing and padding of an image of any size.

    The image is sampled on a regular grid of at least one sample per pixel of the frame, and samples are averaged to
    the network's input: no shape depends on the size of the image.
    """

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder, self.side = encoder, side
        self.oversampling = max(1, round(FRAME_SIZE / side))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[0], image.shape[1]
        longer: Any = torch.sym_max(height, width)  # a symbol while exporting
        count = self.side * self.oversampling
        positions = (torch.arange(count) + 0.5) / count * longer  # in pixels of the image
        x, y = 2 * positions / width - 1, 2 * positions / height - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        pixels = functional.grid_sample(image.permute(2, 0, 1)[None] / 255, grid, "bilinear", "border", False)
        inside = (positions[:, None] < height) & (positions < width)
        output: Tensor = self.encoder(functional.avg_pool2d(pixels * inside, self.oversampling))
        return output


class MaskDecoderOnnxModel(nn.Module):
    """The decoder with segment-anything's inputs and outputs, which ``_DECODER_INPUTS`` describes."""

    positions: Tensor

    def __init__(self, model: Promptable, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.downscaling = model.config.embedding_stride // MASK_STRIDE
        cells = side // model.config.embedding_stride
        self.register_buffer("positions", model.prompt_encoder.cell_positions(cells, cells).detach().clone())

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
        granularity: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden_dim = self.model.config.hidden_dim
        pixels = functional.pixel_shuffle(image_embeddings[:, :-hidden_dim], self.downscaling)
        cell_means = functional.avg_pool2d(pixels, self.downscaling)
        embedding = ImageEmbedding(pixels, image_embeddings[:, -hidden_dim:], cell_means, self.positions)
        count = self.side // MASK_STRIDE
        earlier = functional.interpolate(mask_input, (count, count), mode="bilinear", align_corners=False)[:, 0]
        earlier = torch.where(has_mask_input[:, None, None] > 0, earlier, torch.nan)
        labels = point_labels.round().long()
        points = point_coords * (self.side / FRAME_SIZE)
        predictions = self.model.decode(embedding, Prompts(points, labels, None, earlier, granularity))
        logits, ious = predictions.logits()[0], predictions.ious[0]
        num_clicks, num_corners = ((labels == 0) | (labels == 1)).sum(), (labels > 1).sum()
        is_ambiguous = (num_clicks == 1) & (num_corners == 0) & (has_mask_input <= 0) & granularity.isnan()
        is_valid = torch.arange(count) < (orig_im_size / orig_im_size.max() * count).ceil()[:, None]
        scores, is_selected = _rank_ambiguous((logits[1:] > 0) & is_valid[0, :, None] & is_valid[1], ious[1:])
        # Masks are sorted by score plus priority. Mask 0 is first, but last for an ambiguous click.
        scores = torch.cat([ious[:1], torch.where(is_ambiguous, scores, ious[1:])])
        priorities = torch.cat([torch.where(is_ambiguous, -2.0, 2.0), (is_selected & is_ambiguous).float()])
        order = (scores + priorities).topk(NUM_OUTPUT_MASKS).indices
        logits = logits[order][None]
        low_res = functional.interpolate(logits, (LOW_RES_SIZE, LOW_RES_SIZE), mode="bilinear", align_corners=False)
        return self._resize(logits, orig_im_size), scores[order][None], low_res

    def _resize(self, logits: Tensor, size: Tensor) -> Tensor:
        """Logits of the square at the image's own (height, width)."""
        height, width = size.long().unbind()
        rows: Any = height.item()  # int() of it would be a constant while exporting
        columns: Any = width.item()
        torch._check(rows > 0)
        torch._check(columns > 0)
        x, y = ((2 * torch.arange(side) + 1) / size.max() - 1 for side in (columns, rows))
        grid = torch.stack(torch.meshgrid([x, y], indexing="xy"), -1)[None]
        return functional.grid_sample(logits, grid.to(logits), "bilinear", "border", False)


def _rank_ambiguous(masks: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (m,) of (m, h, w) bool masks that an ambiguous click may mean, and (m,) bool: which are selected."""
    cells = masks.flatten(1).float()
    intersections = cells @ cells.T
    areas = intersections.diagonal()
    pairwise_ious = intersections / (areas[:, None] + areas - intersections).clamp(min=1)
    costs = click_costs(areas) - ious.clamp(min=_MIN_IOU).log()
    probability = probabilities(torch.where(areas > 0, costs, _EMPTY_COST))
    index, _, scores = select_by_expected_iou(pairwise_ious, probability, ious, NUM_OUTPUT_MASKS)
    return scores, (torch.arange(len(ious))[:, None] == index).any(1)


def export_encoder(model: Promptable, side: int, path: Path) -> None:
    """Write the encoder alone; see ``export_promptable``."""
    encoder: nn.Module = ImageEncoderOnnxModel(model)
    dynamic_shapes: DynamicShapes | None = None
    if model.wants_cues:
        inputs = [torch.rand(1, 3, side, side), torch.rand(1, NUM_CUES, side // 2, side // 2)]
        description = GraphDescription(side, INPUTS, _ENCODER_OUTPUTS)
    else:
        encoder = ResizingEncoderOnnxModel(encoder, side)
        inputs = [255 * torch.rand(FRAME_SIZE * 2 // 3, FRAME_SIZE, 3)]
        dynamic_shapes = ({0: torch.export.Dim("height"), 1: torch.export.Dim("width")},)
        image = "(H, W, 3) float32: RGB from 0 to 255, of any size"
        description = GraphDescription(side, {"image": image}, _ENCODER_OUTPUTS)
    write_graph(export_graph(encoder, inputs, description, dynamic_shapes), model, description, path)


def _export_decoder(model: Promptable, side: int, path: Path) -> None:
    decoder = MaskDecoderOnnxModel(model, side)
    cells = side // model.config.embedding_stride
    inputs = [
        torch.rand(1, model.config.hidden_dim * (1 + decoder.downscaling**2), cells, cells),
        FRAME_SIZE * torch.rand(1, 3, 2),
        torch.tensor([[1.0, 0.0, -1.0]]),
        torch.zeros(1, 1, LOW_RES_SIZE, LOW_RES_SIZE),
        torch.zeros(1),
        torch.tensor([600.0, 800.0]),
        torch.tensor([torch.nan]),
    ]
    points: dict[int, Any] = {1: torch.export.Dim("points", min=1)}
    description = GraphDescription(side, _DECODER_INPUTS, _DECODER_OUTPUTS)
    proto = export_graph(decoder, inputs, description, ({}, points, points, {}, {}, {}, {}))
    # An input with an initializer is optional; NaN is no granularity.
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "granularity"))
    write_graph(proto, model, description, path)
