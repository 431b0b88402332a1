"""The widget: segment an image layer, slide the granularity, click regions and merge them into masks."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, Container, FloatSlider, PushButton, create_widget

from masktree.errors import MasktreeError
from masktree.napari.layers import cut_layer, level_layers
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import ViewerModel

_START = 0.5  # granularity that is shown first, as in pictures of ``masktree segment``
_SELECTED = "selected"  # layer of the regions that were clicked
_MASKS = "masks"  # layer of the masks that were made of them


class SegmentWidget(Container):  # type: ignore[misc]  # magicgui has no annotations here
    """Segments the image layer that is chosen, by the default method.

    The layer "cut" shows the regions at a granularity. A click on a region, while ``click to select`` is on, selects it
    or takes it back; the buttons make one mask of all that are selected, in the layer "masks", and add the masks that
    were found, a layer for each level. ``File > Save`` writes labels layers as a tree file.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:  # type: ignore[name-defined]
        super().__init__()
        self._viewer: ViewerModel = viewer
        self._tree: MaskTree | None = None
        self._selected: set[int] = set()
        self._layers: dict[str, Labels] = {}  # by the name that they were added with
        self._placement: dict[str, Any] = {}
        self.image = create_widget(annotation="napari.layers.Image", label="image")
        self.segment_button = PushButton(text="Segment")
        self.granularity = FloatSlider(value=_START, min=0, max=1, step=0.01, label="granularity")
        self.clicks = CheckBox(value=True, text="Click to select")
        self.merge_button = PushButton(text="Merge selected into one mask")
        self.levels_button = PushButton(text="Add all masks")
        widgets = [self.image, self.segment_button, self.granularity, self.clicks, self.merge_button]
        self.extend([*widgets, self.levels_button])
        self.segment_button.changed.connect(self.segment)
        self.granularity.changed.connect(self.show_cut)
        self.merge_button.changed.connect(self.merge)
        self.levels_button.changed.connect(self.add_levels)
        self._enable(False)

    def segment(self) -> Any:
        """Segment the chosen image in another thread, which is returned; the cut appears when it is done."""
        from napari.qt.threading import create_worker
        from napari.utils.notifications import show_error, show_info

        layer: Image | None = self.image.value
        if layer is None:
            show_info("expected an image layer; got none; open an image first")
            return None
        self.segment_button.enabled, self.segment_button.text = False, "Segmenting ..."
        picture = current_picture(layer, self._viewer.dims.current_step)
        placement = {"scale": layer.scale[-2:], "translate": layer.translate[-2:]}
        worker = create_worker(_segment, picture, _start_thread=False)
        worker.returned.connect(
            lambda found: self.set_tree(found, placement) if isinstance(found, MaskTree) else show_error(found)
        )
        worker.finished.connect(self._ready)
        worker.start()
        return worker

    def set_tree(self, tree: MaskTree, placement: dict[str, Any]) -> None:
        """Show a tree; ``placement`` is the scale and translation of its image."""
        self._tree, self._placement = tree, placement
        self._enable(True)
        self.show_cut()

    def show_cut(self) -> None:
        """Draw the regions at the granularity of the slider, and forget what was selected of others."""
        if self._tree is None:
            return
        data, arguments, _ = cut_layer(self._tree, self.granularity.value)
        self._selected = set()
        self._show("cut", data, arguments["features"])
        self._show(_SELECTED, np.zeros_like(data), {})

    def select(self, row: int, column: int) -> None:
        """Select the region of the cut at a pixel, or take it back; outside the image nothing happens."""
        cut = self._layers["cut"].data
        if not (0 <= row < cut.shape[0] and 0 <= column < cut.shape[1]):
            return
        self._selected ^= {int(cut[row, column])}
        self._layers[_SELECTED].data = np.isin(cut, list(self._selected)).astype(np.int32)

    def merge(self) -> None:
        """Add the union of the selected regions to the layer of masks, with a label of its own."""
        if not self._selected:
            return
        if self._missing(_MASKS) or self._layers[_MASKS].data.shape != self._layers[_SELECTED].data.shape:
            self._show(_MASKS, np.zeros_like(self._layers[_SELECTED].data), {})
        masks = self._layers[_MASKS].data.copy()
        masks[self._layers[_SELECTED].data > 0] = masks.max() + 1
        self._layers[_MASKS].data = masks
        self.show_cut()

    def add_levels(self) -> None:
        """Add a layer for each level of the masks that were found."""
        if self._tree is not None:
            for data, arguments, _ in level_layers(self._tree):
                self._viewer.add_labels(data, **arguments, **self._placement)

    def _show(self, name: str, data: np.ndarray, features: dict[str, np.ndarray]) -> None:
        """Set a layer's labels; it is added if there is none, or if it was removed or is of another image."""
        if not self._missing(name) and self._layers[name].data.shape != data.shape:
            self._viewer.layers.remove(self._layers[name])
        if self._missing(name):
            layer = self._viewer.add_labels(data, name=name, features=features, opacity=0.5, **self._placement)
            if name == _SELECTED:  # seen over regions of any colour
                layer.colormap, layer.opacity = {None: "transparent", 1: "yellow"}, 0.8
            layer.mouse_drag_callbacks.append(self._on_click)
            self._layers[name] = layer
        else:
            self._layers[name].data, self._layers[name].features = data, features
            self._layers[name].scale = self._placement["scale"]
            self._layers[name].translate = self._placement["translate"]

    def _missing(self, name: str) -> bool:
        return name not in self._layers or self._layers[name] not in self._viewer.layers

    def _on_click(self, layer: Labels, event: Any) -> Generator[None]:
        """A press and a release without a move between, in pan and zoom mode."""
        yield
        is_drag = False
        while event.type == "mouse_move":
            is_drag = True
            yield
        if self.clicks.value and not is_drag and str(layer.mode) == "pan_zoom" and not self._missing("cut"):
            row, column = np.floor(np.asarray(self._layers["cut"].world_to_data(event.position))[-2:] + 0.5).astype(int)
            self.select(int(row), int(column))

    def _enable(self, has_tree: bool) -> None:
        for widget in (self.granularity, self.clicks, self.merge_button, self.levels_button):
            widget.enabled = has_tree

    def _ready(self) -> None:
        self.segment_button.enabled, self.segment_button.text = True, "Segment"


def _segment(picture: RGB) -> MaskTree | str:
    """The tree, or the message that says why there is none: napari shows errors of threads as tracebacks."""
    from masktree.predict import load

    try:
        return load("embedded")(picture)
    except MasktreeError as error:
        return str(error)


def current_picture(layer: Image, step: tuple[int, ...]) -> RGB:
    """The 2-D picture of an image layer that is shown, as the contrast limits show it.

    Args:
        layer: an image of any number of dimensions and type.
        step: position along each axis of the viewer.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    axes = data.ndim - (3 if layer.rgb else 2)
    picture = np.asarray(data[tuple(step[-2 - axes : len(step) - 2])])
    if picture.dtype != np.uint8:
        low, high = layer.contrast_limits if not layer.rgb else (0, 1 if picture.dtype.kind == "f" else 65535)
        scaled = (picture.astype(np.float64) - low) / max(high - low, 1e-12)
        picture = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    return np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else np.ascontiguousarray(picture[..., :3])
