"""Models as ONNX files, for programs without Python or torch.

Everything has a fixed shape: one square image, and all queries or a fixed number of boxes. What a threshold or the
suppression of duplicates would leave out has score 0 instead.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from masktree.backbones.texture import NUM_CUES
from masktree.errors import InputError
from masktree.io.files import write_atomically
from masktree.models.cascade import model as cascade
from masktree.models.cascade import proposals, stages
from masktree.models.cascade.boxes import clip, decode, proper
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import ModelConfig, PromptableConfig, to_json
from masktree.models.inputs import STRIDE
from masktree.models.mask2former.model import Mask2Former
from masktree.models.mask2former.scores import expected_iou, lower_copies
from masktree.models.promptable.model import Promptable
from masktree.models.structures import Model

OPSET = 20  # the first whose GridSample is what torch's is
INPUTS = {
    "image": "(1, 3, S, S) float32: RGB in [0, 1], the longer side resized to S, zeros right of and below it",
    "cues": "(1, cues, S/2, S/2) float32: masktree.backbones.texture.boundary_cues of the photograph, zeros around it",
}
_OUTPUTS = {
    "scores": "(1, n) float32 in [0, 1], in no order; 0: nothing",
    "masks": "queries: (1, n, S/4, S/4) float32 logits, inside above 0; boxes: (1, n, 28, 28) probabilities within the "
    "box, inside above 0.5",
    "ancestors": "(1, n, n) float32: probability that mask j is an ancestor of mask i at [i, j]",
    "boxes": "(1, n, 4) float32: left, top, right, bottom in pixels of the image",
    "levels": "(1, n, 3) float32: probabilities of whole, part and subpart",
}


def export_onnx(model: Model, path: str | Path, image_size: int | None = None) -> list[Path]:
    """Write a model as ONNX (opset 20): one file, of a promptable model two, each whole or not at all.

    Inputs are ``image`` (1, 3, S, S) and, where the model wants them, ``cues`` (1, NUM_CUES, S/2, S/2). Outputs are
    ``scores``, ``masks`` and ``ancestors`` (kind sohes), or ``boxes``, ``scores``, ``levels`` and ``masks`` (hassod).
    For kind promptable see ``masktree.models.onnx.promptable``. The files' metadata say what inputs and outputs mean,
    under ``masktree``, as JSON. Padding is treated as photograph: masks in it are the caller's to leave out.

    Args:
        model: of any kind; put into evaluation mode on the CPU.
        path: file to write.
        image_size: S, a multiple of 32; the model's own if not given.

    Returns:
        The files.

    Raises:
        InputError: ``image_size`` no multiple of 32; onnx or onnxscript missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"expected onnx and onnxscript; got {error}; pip install masktree[onnx]") from error
    side = model.config.image_size if image_size is None else image_size
    if side < STRIDE or side % STRIDE:
        raise InputError(f"expected an image size that is a multiple of {STRIDE}; got {side}; {_near(side)} is near")
    if isinstance(model, Promptable):
        from masktree.models.onnx.promptable import export_prompts

        return export_prompts(model, Path(path), side)
    assert isinstance(model, (CascadeMaskRCNN, Mask2Former))
    wrapped = Boxes(model) if isinstance(model, CascadeMaskRCNN) else Queries(model)
    inputs = [torch.rand(1, 3, side, side)] + [torch.rand(1, NUM_CUES, side // 2, side // 2)] * model.wants_cues
    names = ["image", "cues"][: len(inputs)]
    proto = to_onnx(wrapped.cpu(), inputs, names, list(wrapped.outputs))
    described = {name: INPUTS[name] for name in names}, {name: _OUTPUTS[name] for name in wrapped.outputs}
    write(proto, about(model, side, *described), Path(path))
    return [Path(path)]


def files_of(config: ModelConfig, path: Path) -> list[Path]:
    """What may be written for ``path``: itself, or a promptable model's encoder, decoder and settings of tools."""
    if not isinstance(config, PromptableConfig):
        return [path]
    stem = path.with_suffix("") if path.suffix == ".onnx" else path
    return [stem.with_name(f"{stem.name}.{end}") for end in ("encoder.onnx", "decoder.onnx", "yaml")]


def to_onnx(
    module: nn.Module,
    inputs: list[Tensor],
    names: list[str],
    outputs: list[str],
    free: tuple[dict[int, Any], ...] | None = None,
) -> Any:
    """The file's content, of a module that is put into evaluation mode.

    Args:
        free: sides of each input that may differ from those of ``inputs``.
    """
    with torch.inference_mode(), warnings.catch_warnings():
        # torchvision calls a function of torch by its former name, and keeps anchors that are the same in every call.
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint.*")
        warnings.filterwarnings("ignore", message=".*assigned during export.*")
        # An axis that two inputs share has one name.
        warnings.filterwarnings("ignore", message=".*will not be used, since it shares.*")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs),
            input_names=names,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=free,
        )
    assert program is not None
    return program.model_proto


def about(model: Model, side: int, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """What is written into a file about it."""
    return {
        "format": "masktree-onnx",
        "version": 1,
        "image_size": side,
        "model": to_json(model.config),
        "inputs": dict(inputs),
        "outputs": dict(outputs),
    }


def write(proto: Any, about: Mapping[str, Any], path: Path) -> None:
    """Write a file with what is said about it."""
    import onnx

    onnx.helper.set_model_props(proto, {"masktree": json.dumps(about)})
    write_atomically(path, lambda handle: handle.write(proto.SerializeToString()))


def _near(side: int) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)


class Queries(nn.Module):
    """A Mask2Former with the score that ``detect`` gives to its queries."""

    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model
        self.outputs = ["scores", "masks", "ancestors"][: 3 if model.config.kind == "sohes" else 2]

    def forward(self, image: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        entity, masks, *ancestors = self.model(image, cues)
        logits = masks[0].flatten(1)
        inside = (logits > 0).float()
        scores = lower_copies(entity[0].sqrt() * expected_iou(logits), inside @ inside.T)
        return scores[None], masks, *ancestors


class Boxes(nn.Module):
    """A Cascade Mask R-CNN whose every step has a fixed number of boxes; those left out have score 0."""

    outputs = ("boxes", "scores", "levels", "masks")

    def __init__(self, model: CascadeMaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        model, size = self.model, (image.shape[2], image.shape[3])
        maps = model.features(image, cues)
        boxes, wanted = self._propose(maps, size)
        scores, levels = [], []
        for stage in model.stages:
            x = stage.layers(_pool(maps, boxes, stages.BOX_SIDE))
            scores.append(stage.logits(x).softmax(1)[:, 1])
            levels.append(stage.levels(x).softmax(1))
            boxes = clip(decode(stage.deltas(x), boxes, stage.weights), size)
        mean = torch.stack(scores).mean(0)
        count = min(model.config.max_detections, len(boxes))
        mean, best = _best(boxes, torch.where(wanted, mean, -1.0), cascade.NMS, count)
        found = boxes[best]
        masks = model.mask_head.logits(model.mask_head.layers(_pool(maps, found, stages.MASK_SIDE)))[:, 0].sigmoid()
        return found[None], mean.clamp(min=0)[None], torch.stack(levels).mean(0)[best][None], masks[None]

    def _propose(self, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(k, 4) boxes, and (k,) whether they are meant."""
        logits, deltas, anchors = self.model.proposals(maps)
        count = self.model.config.test_proposals
        numbers = [len(one) for one in anchors]
        chosen, ranks, offsets = [], [], []
        for level, (own, step) in enumerate(zip(logits[0].split(numbers), deltas[0].split(numbers), strict=True)):
            best, where = own.topk(min(max(proposals.TEST_TOP, count), numbers[level]))
            chosen.append(clip(decode(step[where], anchors[level][where], proposals.PLAIN), size))
            ranks.append(best.sigmoid())
            offsets.append(torch.full_like(best, 2.0 * level * max(size)))  # boxes of different maps never overlap
        boxes, scores = torch.cat(chosen), torch.cat(ranks)
        kept, best = _best(boxes, scores, proposals.NMS, min(count, len(boxes)), torch.cat(offsets)[:, None])
        return boxes[best], kept >= 0


def _best(
    boxes: Tensor, scores: Tensor, iou: float, count: int, offsets: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scores and indices of the best ``count`` boxes, -1 being the score of those that overlap a better one."""
    scores = torch.where(proper(boxes), scores, -1.0)
    kept = torch.zeros_like(scores).index_fill(0, nms(boxes + offsets, scores, iou), 1.0)
    return torch.where(kept > 0, scores, -1.0).topk(count)


def _pool(maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
    """As ``stages.pool`` of one image, with every box cut out of every map: no shape depends on the boxes."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    level = stages.map_of(boxes)
    pooled = [
        roi_align(one, rois, side, 0.25 / 2**number, stages.SAMPLES, aligned=True)
        * (level == number)[:, None, None, None]
        for number, one in enumerate(maps[:4])
    ]
    return torch.stack(pooled).sum(0)
