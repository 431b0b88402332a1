"""Run a model that `masktree export` wrote. Needs numpy, onnxruntime and Pillow, not masktree.

    python examples/run_onnx.py model.onnx photo.jpg masks.npz
    python examples/run_onnx.py clicks.encoder.onnx photo.jpg masks.npz --decoder clicks.decoder.onnx --click 120 80

The file holds `masks`, (n, height, width) bool at the photograph's own size, and `scores`, (n,), best first.
"""

import argparse

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

CELL = 4  # pixels of the resized photograph per cell of the logits
FRAME = 1024  # longer side of the photograph in the units of a click, as for segment-anything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("output")
    parser.add_argument("--min-score", type=float, default=0.1)
    parser.add_argument("--max-masks", type=int, default=100)
    parser.add_argument("--decoder")
    parser.add_argument("--click", type=float, nargs=2, metavar=("X", "Y"), help="pixel inside the object")
    options = parser.parse_args()
    photo = np.asarray(ImageOps.exif_transpose(Image.open(options.photo)).convert("RGB"))
    if options.decoder:
        masks, scores = click(options.model, options.decoder, photo, options.click)
    else:
        masks, scores = segment(options.model, photo, options.min_score, options.max_masks)
    np.savez_compressed(options.output, masks=masks, scores=scores)
    print(f"{len(masks)} masks: {options.output}")


def segment(model: str, photo: np.ndarray, min_score: float, max_masks: int) -> tuple[np.ndarray, np.ndarray]:
    """The best masks of a model of kind sohes, unsam or hassod."""
    found = run(model, {"image": photo})
    scores = found["scores"][0]
    count = min(int((scores >= max(min_score, 1e-6)).sum()), max_masks)
    height, width = photo.shape[:2]
    masks = np.zeros((count, height, width), bool)
    for i, mask in enumerate(masks):
        if "boxes" in found:
            paste(mask, found["masks"][0, i], found["boxes"][0, i])
        else:
            rows, columns = found["resized_size"] / CELL  # of cells that the photograph covers; the last one in part
            logits = Image.fromarray(found["logits"][0, i])
            resized = logits.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, columns, rows))
            mask[:] = np.asarray(resized) > 0
    return masks, scores[:count]


def paste(mask: np.ndarray, probabilities: np.ndarray, box: np.ndarray) -> None:
    """Set the pixels of a mask whose probability, interpolated between the cells of the box, is above 0.5."""
    left, top, right, bottom = box
    weights = []
    for start, stop, length in ((top, bottom, mask.shape[0]), (left, right, mask.shape[1])):
        positions = (np.arange(length) + 0.5 - start) / max(stop - start, 1e-6) * len(probabilities) - 0.5
        weights.append(np.maximum(1 - np.abs(positions[:, None] - np.arange(len(probabilities))), 0))
    mask[:] = weights[0] @ probabilities @ weights[1].T > 0.5


def click(encoder: str, decoder: str, photo: np.ndarray, pixel: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Three masks for a click on a pixel (column, row), by a model of kind promptable."""
    height, width = photo.shape[:2]
    embeddings = run(encoder, {"image": photo.astype(np.float32)})["image_embeddings"]  # once per photograph
    inputs = {
        "image_embeddings": embeddings,
        "point_coords": np.array([[pixel]], np.float32) * FRAME / max(height, width),
        "point_labels": np.array([[1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([height, width], np.float32),
    }
    found = run(decoder, inputs)
    return found["masks"][0] > 0, found["iou_predictions"][0]


def run(model: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model by name. Keep the session if there are many photographs: to load it takes a second."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; there is a warning that the decoder's input granularity is optional
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    main()
