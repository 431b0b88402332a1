"""A promptable model as two ONNX graphs with segment-anything's inputs and outputs, and a YAML for annotation tools.

The encoder runs once per image, the decoder once per click. Programs for such pairs (Kirillov et al. 2023, arXiv
2304.02643, and its exported models) give pixels that were clicked, times ``FRAME_SIZE`` divided by the longer side of
the image, give six inputs by name, and show the first mask. So points are in that frame whatever the size of the
network's input, and masks are sorted, best first.
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

from masktree.io.files import write_atomically
from masktree.models.mask_maps import MASK_STRIDE
from masktree.models.onnx.graph import PHOTOGRAPH, GraphDescription, export_graph, export_network, write_graph
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.predictions import ImageEmbedding
from masktree.models.promptable.prompt_encoder import Prompts
from masktree.models.promptable.ranking import click_costs, probabilities, select_by_expected_iou

FRAME_SIZE = 1024  # longer side of the frame of points, in pixels (segment-anything's)
LOW_RES_SIZE = 256  # cells along a side of mask inputs and low-resolution outputs (segment-anything's)
MASK_LOGIT = 10.0  # of low-resolution masks is negative right of and below the photograph, as in ``Predictor``'s
NUM_OUTPUT_MASKS = 3  # (segment-anything's for an ambiguous click)
_MIN_IOU = 1e-6  # before the logarithm
_COORD_TOLERANCE = 0.01  # pixels by which a coordinate may be rounded down (our choice: float32 at 16,384 pixels)
_EMPTY_COST = 1e4  # of an empty mask: probability 0
_ENCODER_OUTPUTS = {"image_embeddings": "for the decoder"}
_DECODER_INPUTS = {
    "image_embeddings": "of the encoder",
    "point_coords": "(1, k, 2) float32, k >= 1: x and y in pixels of the photograph (column and row of a click), "
    f"times {FRAME_SIZE} divided by its longer side",
    "point_labels": "(1, k) float32: 1 inside, 0 outside, 2 and 3 upper left and lower right corner of a box, "
    "-1 no point",
    "mask_input": f"(1, 1, {LOW_RES_SIZE}, {LOW_RES_SIZE}) float32: low_res_masks of an earlier prediction",
    "has_mask_input": "(1,) float32: 1 to use mask_input, 0 to ignore it",
    "orig_im_size": "(2,) float32: height and width of the photograph that the encoder got, and of the masks",
    "granularity": "(1,) float32 in [0.1, 1], finest to coarsest; optional",
}
_DECODER_OUTPUTS = {
    "masks": f"(1, {NUM_OUTPUT_MASKS}, H, W) float32 logits, inside above 0, best first",
    "iou_predictions": f"(1, {NUM_OUTPUT_MASKS}) float32: expected IoU of each mask with the one that is meant",
    "low_res_masks": f"(1, {NUM_OUTPUT_MASKS}, {LOW_RES_SIZE}, {LOW_RES_SIZE}) float32 logits over the square of the "
    "photograph's longer side",
}


def export_promptable(model: Promptable, files: list[Path], side: int) -> list[Path]:
    """Write encoder, decoder and the YAML for annotation tools, each atomically.

    The encoder's input ``image`` is (H, W, 3) float32 RGB from 0 to 255 of any size, the type that such tools give. Its
    output ``image_embeddings`` is an input of the decoder, beside ``point_coords``, ``point_labels`` (1 inside, 0
    outside, 2 and 3 upper left and lower right corner of a box, -1 no point), ``mask_input``, ``has_mask_input``,
    ``orig_im_size`` and, unlike segment-anything, the optional ``granularity``. Outputs are ``masks``,
    ``iou_predictions`` and ``low_res_masks``, best first.

    Args:
        model: put into evaluation mode on the CPU.
        files: encoder, decoder and YAML.
        side: longer side of the network's input, a multiple of 32.

    Returns:
        The files.
    """
    encoder, decoder, settings = files
    model = model.eval().cpu()
    export_encoder(model, side, encoder)
    _export_decoder(model, side, decoder)
    write_atomically(settings, lambda handle: handle.write(tool_settings(encoder.name, decoder.name).encode()))
    return files


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

    def forward(self, pixels: Tensor, cues: Tensor | None = None) -> Tensor:
        embedding = self.model.encode(pixels, cues)
        return torch.cat([functional.pixel_unshuffle(embedding.pixels, self.downscaling), embedding.cells], 1)


class MaskDecoderOnnxModel(nn.Module):
    """The decoder with segment-anything's inputs and outputs, which ``_DECODER_INPUTS`` describes."""

    def __init__(self, model: Promptable, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.downscaling = model.config.embedding_stride // MASK_STRIDE

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
        embedding = self._split(image_embeddings)
        size = orig_im_size.double()
        valid_size = (size * self.side / size.max()).round().clamp(min=1)  # as in the encoder's graph
        is_valid = _is_valid(valid_size, embedding.pixels)
        earlier = self._earlier_mask(mask_input, is_valid)
        earlier = torch.where(has_mask_input[:, None, None] > 0, earlier, torch.nan)
        labels = point_labels.round().long()
        points = _to_network_input(point_coords, labels, size, valid_size)
        predictions = self.model.decode(embedding, Prompts(points, labels, None, earlier, granularity))
        logits, ious = predictions.logits()[0], predictions.ious[0]
        num_clicks, num_corners = ((labels == 0) | (labels == 1)).sum(), (labels > 1).sum()
        is_ambiguous = (num_clicks == 1) & (num_corners == 0) & (has_mask_input <= 0) & granularity.isnan()
        scores, is_selected = _rank_ambiguous((logits[1:] > 0) & is_valid, ious[1:])
        # Masks are sorted by score plus priority. Mask 0 is first, but last for an ambiguous click.
        scores = torch.cat([ious[:1], torch.where(is_ambiguous, scores, ious[1:])])
        priorities = torch.cat([torch.where(is_ambiguous, -2.0, 2.0), (is_selected & is_ambiguous).float()])
        order = (scores + priorities).topk(NUM_OUTPUT_MASKS).indices
        logits = logits[order][None]
        return _resize(logits, valid_size, size), scores[order][None], self._to_low_res(logits, is_valid)

    def _split(self, image_embeddings: Tensor) -> ImageEmbedding:
        hidden_dim = self.model.config.hidden_dim
        pixels = functional.pixel_shuffle(image_embeddings[:, :-hidden_dim], self.downscaling)
        cell_means = functional.avg_pool2d(pixels, self.downscaling)
        rows, columns = image_embeddings.shape[2:]
        positions = self.model.prompt_encoder.cell_positions(rows, columns)
        return ImageEmbedding(pixels, image_embeddings[:, -hidden_dim:], cell_means, positions)

    def _earlier_mask(self, mask_input: Tensor, is_valid: Tensor) -> Tensor:
        """(1, h, w) of low-resolution logits, which cover the square of the longer side."""
        count = self.side // MASK_STRIDE
        square = functional.interpolate(mask_input, (count, count), mode="bilinear", align_corners=False)[:, 0]
        rows, columns = is_valid.shape
        return torch.where(is_valid, _crop(square, rows, columns), -MASK_LOGIT)

    def _to_low_res(self, logits: Tensor, is_valid: Tensor) -> Tensor:
        """The inverse of ``_earlier_mask``."""
        count = self.side // MASK_STRIDE
        rows, columns = is_valid.shape
        valid = torch.where(is_valid, logits, -MASK_LOGIT)
        square = functional.pad(valid, (0, count - columns, 0, count - rows), value=-MASK_LOGIT)
        return functional.interpolate(square, (LOW_RES_SIZE, LOW_RES_SIZE), mode="bilinear", align_corners=False)


def _is_valid(valid_size: Tensor, pixels: Tensor) -> Tensor:
    """(h, w) bool: which cells of a map the photograph reaches."""
    rows, columns = (valid_size / MASK_STRIDE).ceil()
    return (torch.arange(pixels.shape[2]) < rows)[:, None] & (torch.arange(pixels.shape[3]) < columns)


def _crop(maps: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns; a slice would ask for an upper bound of their number while exporting."""
    return maps.index_select(-2, torch.arange(rows)).index_select(-1, torch.arange(columns))


def _to_network_input(coords: Tensor, labels: Tensor, size: Tensor, valid_size: Tensor) -> Tensor:
    """(1, k, 2) float32 points in pixels of the network's input.

    Pixel (column, row) covers column <= x < column + 1 and row <= y < row + 1. A click is one on the centre of its
    pixel, as for ``Predictor``; corners of boxes lie between pixels.
    """
    points = coords.double() * (size.max() / FRAME_SIZE)
    is_click = (labels <= 1)[..., None]
    pixels = torch.minimum((points + _COORD_TOLERANCE).floor().clamp(min=0), size.flip(0) - 1)
    points = torch.where(is_click, pixels + 0.5, points)
    return (points * (valid_size / size).flip(0)).float()


def _resize(logits: Tensor, valid_size: Tensor, size: Tensor) -> Tensor:
    """(1, m, H, W) logits at the photograph's size, interpolated between the centres of cells."""
    axes = []
    for length, valid_length, count in zip(size, valid_size, logits.shape[2:], strict=True):
        pixels: Any = length.long().item()  # int() of it would be a constant while exporting
        torch._check(pixels > 0)
        cells = (torch.arange(pixels) + 0.5) * (valid_length / length / MASK_STRIDE) - 0.5
        cells = torch.minimum(cells.clamp(min=0), (valid_length / MASK_STRIDE).ceil() - 1)
        axes.append((2 * cells + 1) / count - 1)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), -1)[None]
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
    inputs = ["pixels", *(["cues"] if model.wants_cues else [])]
    outputs = list(_ENCODER_OUTPUTS)
    proto = export_network(ImageEncoderOnnxModel(model), inputs, outputs, side, onnx.TensorProto.FLOAT)
    description = GraphDescription(side, {"image": PHOTOGRAPH.format(type="float32")}, _ENCODER_OUTPUTS)
    write_graph(proto, model, description, path)


def _export_decoder(model: Promptable, side: int, path: Path) -> None:
    decoder = MaskDecoderOnnxModel(model, side)
    channels = model.config.hidden_dim * (1 + decoder.downscaling**2)
    points = torch.export.Dim("points", min=1)
    cells = {2: torch.export.Dim("rows", min=1), 3: torch.export.Dim("columns", min=1)}
    inputs = {
        "image_embeddings": (torch.rand(1, channels, 3, 5), cells),
        "point_coords": (FRAME_SIZE * torch.rand(1, 3, 2), {1: points}),
        "point_labels": (torch.tensor([[1.0, 0.0, -1.0]]), {1: points}),
        "mask_input": (torch.zeros(1, 1, LOW_RES_SIZE, LOW_RES_SIZE), {}),
        "has_mask_input": (torch.zeros(1), {}),
        "orig_im_size": (torch.tensor([600.0, 800.0]), {}),
        "granularity": (torch.tensor([torch.nan]), {}),
    }
    proto = export_graph(decoder, inputs, list(_DECODER_OUTPUTS))
    # An input with an initializer is optional; NaN is no granularity.
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "granularity"))
    write_graph(proto, model, GraphDescription(side, _DECODER_INPUTS, _DECODER_OUTPUTS), path)
