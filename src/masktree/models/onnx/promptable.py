"""A promptable model as two ONNX files with segment-anything's inputs and outputs, and the YAML that tools ask for.

The encoder runs once for a photograph, the decoder once for a click. Programs made for such pairs (Kirillov et al.
2023, arXiv 2304.02643, and their exported models) send points in pixels of a photograph whose longer side is
``FRAME_SIZE``, give six inputs by name, and show the first mask. So whatever size the network sees, that frame is kept,
and the masks
come best first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.backbones.texture import NUM_CUES
from masktree.io.files import write_atomically
from masktree.models.onnx.export import INPUTS, about, files_of, to_onnx, write
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.predictions import ImageEmbedding
from masktree.models.promptable.prompt_encoder import STRIDE, Prompts

FRAME_SIZE = 1024  # pixels of the longer side of the photograph that points are given in (segment-anything's)
MASK_INPUT_SIZE = 256  # cells a side of earlier masks (segment-anything's)
_CLICKED = 0.5  # as ``masktree.prompt.candidates.CLICK_AREA_EXPONENT``
NUM_OUTPUT_MASKS = 3  # masks of an answer (segment-anything's for an ambiguous click)


def export_prompts(model: Promptable, path: Path, side: int) -> list[Path]:
    """Write ``PATH.encoder.onnx``, ``PATH.decoder.onnx`` and, for models that see the photograph alone, ``PATH.yaml``;
    ``path`` without its suffix .onnx. Each is written whole or not at all.

    The encoder's input is ``image``, (H, W, 3) float32 RGB from 0 to 255 of any size; where the model wants cues, which
    no tool can make, it is the square input of other exported models with its ``cues``. Its output
    ``image_embeddings`` goes to the decoder with ``point_coords``, ``point_labels`` (1 inside, 0 outside, 2 and 3 upper
    left and lower right corner of a box, -1 nothing), ``mask_input``, ``has_mask_input`` and ``orig_im_size``. What
    segment-anything has not: ``granularity``, which need not be given. Outputs are ``masks``, ``iou_predictions`` and
    ``low_res_masks``, best first.

    Args:
        side: of the square that the network sees, a multiple of 32.

    Returns:
        The files.
    """
    encoder, decoder, settings = files_of(model.config, path)
    model = model.eval().cpu()
    write(*_encoder(model, side), encoder)
    write(*_decoder(model, side), decoder)
    if model.wants_cues:
        return [encoder, decoder]
    write_atomically(settings, lambda handle: handle.write(tool_settings(encoder.name, decoder.name).encode()))
    return [encoder, decoder, settings]


def tool_settings(encoder: str, decoder: str) -> str:
    """The YAML by which annotation tools find such a pair beside it: AnyLabeling's and X-AnyLabeling's keys."""
    name = encoder.removesuffix(".encoder.onnx")
    lines = {
        "type": "segment_anything",
        "name": name,
        "display_name": f"{name} (masktree)",
        "encoder_model_path": encoder,
        "decoder_model_path": decoder,
        "input_size": FRAME_SIZE,
        "max_width": FRAME_SIZE,
        "max_height": FRAME_SIZE * 2 // 3,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())  # JSON's values are YAML's


class ImageEncoderOnnxModel(nn.Module):
    """What the decoder asks, in one array: the pixels' vectors of a cell side by side, then the cell's."""

    def __init__(self, model: Promptable) -> None:
        super().__init__()
        self.model = model
        self.shrink = model.config.embedding_stride // STRIDE

    def forward(self, image: Tensor, cues: Tensor | None = None) -> Tensor:
        found = self.model.encode(image, cues)
        return torch.cat([functional.pixel_unshuffle(found.pixels, self.shrink), found.cells], 1)


class ResizingEncoderOnnxModel(nn.Module):
    """The encoder of a photograph of any size.

    It is seen at places that are spread evenly, so many that each pixel of a photograph of ``FRAME_SIZE`` has its own,
    and their means are what the network sees: nothing here has a size that depends on the photograph's.
    """

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder, self.side = encoder, side
        self.finer = max(1, round(FRAME_SIZE / side))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[0], image.shape[1]
        longer: Any = torch.sym_max(height, width)
        count = self.side * self.finer
        place = (torch.arange(count) + 0.5) / count * longer  # in pixels of the photograph
        x, y = 2 * place / width - 1, 2 * place / height - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        pixels = functional.grid_sample(image.permute(2, 0, 1)[None] / 255, grid, "bilinear", "border", False)
        inside = (place[:, None] < height) & (place < width)
        return self.encoder(functional.avg_pool2d(pixels * inside, self.finer))


class MaskDecoderOnnxModel(nn.Module):
    """Answers in segment-anything's form; inputs are described by ``_INPUTS``."""

    places: Tensor

    outputs = ("masks", "iou_predictions", "low_res_masks")

    def __init__(self, model: Promptable, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side
        self.shrink = model.config.embedding_stride // STRIDE
        cells = side // model.config.embedding_stride
        self.register_buffer("places", model.prompts.grid(cells, cells).detach().clone())

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
        hidden = self.model.config.hidden_dim
        pixels = functional.pixel_shuffle(image_embeddings[:, :-hidden], self.shrink)
        means = functional.avg_pool2d(pixels, self.shrink)
        encoded = ImageEmbedding(pixels, image_embeddings[:, -hidden:], means, self.places)
        count = self.side // STRIDE
        earlier = functional.interpolate(mask_input, (count, count), mode="bilinear", align_corners=False)[:, 0]
        earlier = torch.where(has_mask_input[:, None, None] > 0, earlier, torch.nan)
        labels = point_labels.round().long()
        answers = self.model.decode(
            encoded, Prompts(point_coords * (self.side / FRAME_SIZE), labels, None, earlier, granularity)
        )
        logits = answers.logits()
        # answer 0 is the one that was meant, and is left out after a click alone, which may mean any mask around it
        clicks = ((labels == 0) | (labels == 1)).sum(1)
        corners = (labels > 1).sum(1)
        alone = (clicks == 1) & (corners == 0) & (has_mask_input <= 0) & granularity.isnan()
        cells = torch.arange(count) < (orig_im_size / orig_im_size.max() * count).ceil()[:, None]
        likely, chosen = _choose((logits[:, 1:] > 0) & cells[0, :, None] & cells[1], answers.ious[:, 1:])
        scores = torch.cat([answers.ious[:, :1], torch.where(alone[:, None], likely, answers.ious[:, 1:])], 1)
        first = torch.where(alone[:, None], -2.0, 2.0)
        ahead = torch.cat([first, (chosen & alone[:, None]).float()], 1)
        order = (scores + ahead).topk(NUM_OUTPUT_MASKS, 1).indices
        ious = scores.gather(1, order)
        logits = logits.gather(1, order[:, :, None, None].expand(-1, -1, count, count))
        low = functional.interpolate(logits, (MASK_INPUT_SIZE, MASK_INPUT_SIZE), mode="bilinear", align_corners=False)
        return self._enlarge(logits, orig_im_size), ious, low

    def _enlarge(self, logits: Tensor, size: Tensor) -> Tensor:
        """Logits of the square at the photograph's own (height, width)."""
        whole = size.long()
        height: Any = whole[0].item()  # int() of them would be a number that is known while exporting
        width: Any = whole[1].item()
        torch._check(height > 0)
        torch._check(width > 0)
        longer = size.max()
        x, y = ((2 * torch.arange(side) + 1) / longer - 1 for side in (width, height))
        grid = torch.stack(torch.meshgrid([x, y], indexing="xy"), -1)[None]
        return functional.grid_sample(logits, grid.to(logits), "bilinear", "border", False)


def _choose(inside: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, m) of (n, m, h, w) bool masks that a click may mean, and which are chosen, (n, m) bool:
    ``rank_candidates`` and ``click_costs`` of ``masktree.prompt.candidates`` as operators that can be exported."""
    cells = inside.flatten(2).float()
    shared = cells @ cells.mT
    areas = shared.diagonal(dim1=1, dim2=2)
    overlaps = shared / (areas[:, :, None] + areas[:, None] - shared).clamp(min=1)
    chances = torch.where(areas > 0, ious / areas.clamp(min=1) ** _CLICKED, 0.0)
    chances = chances / chances.sum(1, keepdim=True).clamp(min=1e-9)
    best, chosen = torch.zeros_like(ious), torch.zeros_like(ious, dtype=torch.bool)
    for _ in range(NUM_OUTPUT_MASKS):
        gains = ((overlaps - best[:, None]).clamp(min=0) @ chances[:, :, None])[..., 0] * ious
        found = torch.where(chosen, -1.0, gains).argmax(1, keepdim=True)
        chosen = chosen | (torch.arange(ious.shape[1]) == found)
        best = torch.maximum(best, overlaps.gather(1, found[:, :, None].expand(-1, -1, ious.shape[1]))[:, 0])
    return (overlaps @ chances[:, :, None])[..., 0] * ious, chosen


def _encoder(model: Promptable, side: int) -> tuple[Any, dict[str, Any]]:
    """The encoder's file, and what is said in it."""
    outputs = {"image_embeddings": "for the decoder"}
    if model.wants_cues:
        inputs = [torch.rand(1, 3, side, side), torch.rand(1, NUM_CUES, side // 2, side // 2)]
        return to_onnx(ImageEncoderOnnxModel(model), inputs, list(INPUTS), list(outputs)), about(
            model, side, INPUTS, outputs
        )
    free = ({0: torch.export.Dim("height"), 1: torch.export.Dim("width")},)
    photograph = [255 * torch.rand(FRAME_SIZE * 2 // 3, FRAME_SIZE, 3)]
    proto = to_onnx(
        ResizingEncoderOnnxModel(ImageEncoderOnnxModel(model), side), photograph, ["image"], list(outputs), free
    )
    return proto, about(model, side, {"image": "(H, W, 3) float32: RGB from 0 to 255, of any size"}, outputs)


def _decoder(model: Promptable, side: int) -> tuple[Any, dict[str, Any]]:
    """The decoder's file, whose granularity has a value where none is given: not a number, as if left out."""
    import onnx

    decoder = MaskDecoderOnnxModel(model, side)
    cells = side // model.config.embedding_stride
    inputs = [
        torch.rand(1, model.config.hidden_dim * (1 + decoder.shrink**2), cells, cells),
        FRAME_SIZE * torch.rand(1, 3, 2),
        torch.tensor([[1.0, 0.0, -1.0]]),
        torch.zeros(1, 1, MASK_INPUT_SIZE, MASK_INPUT_SIZE),
        torch.zeros(1),
        torch.tensor([600.0, 800.0]),
        torch.tensor([torch.nan]),
    ]
    points: dict[int, Any] = {1: torch.export.Dim("points", min=1)}
    proto = to_onnx(decoder, inputs, list(_INPUTS), list(decoder.outputs), ({}, points, points, {}, {}, {}, {}))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "granularity"))
    return proto, about(model, side, _INPUTS, _OUTPUTS)


_INPUTS = {
    "image_embeddings": "of the encoder",
    "point_coords": f"(1, k, 2) float32, k >= 1: x and y in pixels of a photograph of longer side {FRAME_SIZE}",
    "point_labels": "(1, k) float32: 1 inside, 0 outside, 2 and 3 upper left and lower right corner of a box, "
    "-1 no point",
    "mask_input": f"(1, 1, {MASK_INPUT_SIZE}, {MASK_INPUT_SIZE}) float32: low_res_masks of an earlier answer",
    "has_mask_input": "(1,) float32: 1 if it is meant, 0 if not",
    "orig_im_size": "(2,) float32: height and width in pixels of the masks that are wanted",
    "granularity": "(1,) float32 in [0.1, 1], finest to coarsest; need not be given",
}
_OUTPUTS = {
    "masks": f"(1, {NUM_OUTPUT_MASKS}, H, W) float32 logits, inside above 0, best first",
    "iou_predictions": f"(1, {NUM_OUTPUT_MASKS}) float32: how well each is expected to fit what is meant",
    "low_res_masks": f"(1, {NUM_OUTPUT_MASKS}, {MASK_INPUT_SIZE}, {MASK_INPUT_SIZE}) float32 logits over the square "
    "of the photograph's longer side",
}
