"""Pictures of a run: loss curves, and predictions beside pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from masktree.errors import InputError
from masktree.trees.draw import overlay
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

_WIDTH, _HEIGHT, _DPI = 900, 480, 100  # of curves, in pixels
_MAX_POINTS = 600  # of a curve; each is the mean of neighbouring steps
_NO_LOSSES = ("step", "lr", "grad_norm", "num_masks", "seconds", "label_weight", "teacher_weight", "collapsed")
_TEACHER_PREFIXES = ("threshold_", "kept_")
_GAP = 6  # pixels between the pictures of a sheet


def require_matplotlib() -> None:
    """Raise InputError if matplotlib, which draws the curves, is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(f"expected matplotlib, for loss curves; got {error}; pip install matplotlib") from error


def draw_losses(metrics: Sequence[Mapping[str, Any]]) -> RGB:
    """Curves of all losses on a logarithmic scale; values of 0 or less are left out.

    Args:
        metrics: of each step, as in metrics.jsonl.

    Returns:
        (480, 900, 3) uint8.
    """
    others = (*_TEACHER_PREFIXES, "val_")
    names = [n for n in (metrics[-1] if metrics else ()) if n not in _NO_LOSSES and not n.startswith(others)]
    return _draw_curves(metrics, names, "losses")


def draw_thresholds(metrics: Sequence[Mapping[str, Any]]) -> RGB:
    """Curves of the teacher's score thresholds and pseudo-labels per image, as ``draw_losses``."""
    names = [name for name in (metrics[-1] if metrics else ()) if name.startswith(_TEACHER_PREFIXES)]
    return _draw_curves(metrics, names, "thresholds")


def draw_samples(rows: Sequence[tuple[RGB, MaskTree, MaskTree]], *, width: int = 384) -> RGB:
    """A sheet with a row per image: the image, its pseudo-labels, its predictions.

    Args:
        rows: at least one image with two trees of its size.
        width: of each picture, in pixels.

    Returns:
        (height, 3 * width + 12, 3) uint8.
    """
    strips = []
    for image, labels, predictions in rows:
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        pictures = [image, overlay(image, labels), overlay(image, predictions)]
        resized = [np.asarray(Image.fromarray(picture).resize((width, height))) for picture in pictures]
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        strips.append(np.concatenate([resized[0], gap, resized[1], gap, resized[2]], axis=1))
        strips.append(np.full((_GAP, strips[0].shape[1], 3), 255, np.uint8))
    return np.concatenate(strips[:-1])


def _draw_curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> RGB:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((_WIDTH / _DPI, _HEIGHT / _DPI), _DPI)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0.07, 0.11, 0.72, 0.82))
    axes.spines[:].set_color("0.5")
    axes.tick_params(which="both", color="0.5", labelcolor="0.3")
    axes.xaxis.label.set_color("0.3")
    axes.title.set_color("0.3")
    axes.margins(x=0)
    axes.set(xlabel="step", title=title if names else f"no {title} yet", yscale="log")
    axes.grid(color="0.9")
    for name in names:
        curve = _curve(metrics, name)
        if len(curve):
            label = f"{name} {curve[-1, 1]:.3g}"
            axes.plot(*curve.T, color="black" if name == "loss" else None, linewidth=3 * 72 / _DPI, label=label)
    if axes.lines:
        figure.legend(loc="upper left", bbox_to_anchor=(0.79, 0.94), frameon=False, fontsize="small")
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has no annotations there
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _curve(metrics: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(k, 2): mean step and mean value of at most ``_MAX_POINTS`` groups of steps, those above 0."""
    pairs = np.array([(m["step"], m[name]) for m in metrics if m.get(name) is not None], float).reshape(-1, 2)
    groups = np.array_split(pairs, min(len(pairs), _MAX_POINTS) or 1)
    means = np.array([group.mean(axis=0) for group in groups if len(group)]).reshape(-1, 2)
    return means[means[:, 1] > 0]
