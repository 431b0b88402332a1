"""The widget in napari's model of a viewer, which needs Qt but no screen."""

from __future__ import annotations

import os
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from masktree.napari.layers import tree_of_layers

with warnings.catch_warnings():  # packages below napari have not followed the releases of pydantic
    warnings.simplefilter("ignore")
    for name in ("napari", "magicgui", "qtpy"):
        missing = f"{name} is not installed: pip install '.[napari]', and PyQt6."
        pytest.importorskip(name, reason=missing, exc_type=ImportError)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    from masktree.napari.widget import SegmentWidget, current_picture

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def app():
    return QApplication.instance() or QApplication([])


@pytest.fixture
def photo(rng):
    """Two discs on a ground."""
    y, x = np.mgrid[:60, :90]
    rgb = np.full((60, 90, 3), 60, np.uint8) + rng.integers(0, 6, (60, 90, 3)).astype(np.uint8)
    rgb[(y - 30) ** 2 + (x - 25) ** 2 < 15**2] = [220, 60, 60]
    rgb[(y - 30) ** 2 + (x - 65) ** 2 < 12**2] = [60, 60, 220]
    return rgb


@pytest.fixture
def widget(app, photo):
    viewer = ViewerModel()
    layer = viewer.add_image(photo, name="photo", scale=(2, 2), translate=(10, 20))
    widget = SegmentWidget(viewer)
    widget.image.choices = [layer]
    widget.image.value = layer
    return widget


def wait(app, is_done):
    end = time.monotonic() + 300  # a thread that hangs, not a slow one
    while not is_done():
        assert time.monotonic() < end
        app.processEvents()
        time.sleep(0.01)


def click(widget, layer, row, column, *moves):
    """Press, move and release the mouse over a pixel, as napari calls a layer."""
    event = SimpleNamespace(type="mouse_press", position=widget._layers["cut"].data_to_world((row, column)))
    for callback in layer.mouse_drag_callbacks:
        steps = callback(layer, event)
        next(steps)
        for kind in (*moves, "mouse_release"):
            event.type = kind
            next(steps, None)


def test_segment_slide_click_merge_and_save(app, widget, tmp_path):
    viewer = widget._viewer
    assert not widget.granularity.enabled
    widget.segment()
    assert not widget.segment_button.enabled
    wait(app, lambda: widget.segment_button.enabled)
    assert widget.granularity.enabled
    cut = viewer.layers["cut"]
    np.testing.assert_array_equal(cut.data, widget._tree.cut(0.5) + 1)
    assert cut.scale.tolist() == [2, 2]
    assert cut.translate.tolist() == [10, 20]
    assert set(cut.features) >= {"index", "parent_id", "level", "score", "granularity"}
    regions = []
    for value in (0, 0.2, 0.9):
        widget.granularity.value = value
        regions.append(len(np.unique(cut.data)))
        assert len(cut.features) == regions[-1]
    assert regions == sorted(regions, reverse=True)
    widget.granularity.value = 0.3
    disc, other = (cut.data == cut.data[30, 25]), (cut.data == cut.data[30, 65])
    assert abs(disc.sum() - np.pi * 15**2) < 30
    top = viewer.layers["selected"]
    click(widget, top, 30, 25)
    np.testing.assert_array_equal(top.data > 0, disc)
    click(widget, top, 30, 65, "mouse_move")  # a drag moves the picture
    np.testing.assert_array_equal(top.data > 0, disc)
    click(widget, cut, 30, 65)
    np.testing.assert_array_equal(top.data > 0, disc | other)
    widget.merge()
    masks = viewer.layers["masks"]
    np.testing.assert_array_equal(masks.data == 1, disc | other)
    assert not top.data.any()
    click(widget, masks, 30, 25)
    click(widget, masks, 30, 65)
    click(widget, masks, 30, 65)  # taken back
    widget.merge()
    np.testing.assert_array_equal(masks.data == 2, disc)
    widget.merge()  # of nothing
    assert masks.data.max() == 2
    widget.add_levels()
    layers = [layer for layer in viewer.layers if layer.name in ("wholes", "parts", "subparts")]
    again = tree_of_layers([(layer.data, layer.metadata) for layer in layers])
    assert set(again.rles) == set(widget._tree.rles)
    assert len(again) == len(widget._tree)
    assert again.dendrogram is widget._tree.dendrogram


def test_layers_that_were_removed_come_back(app, widget):
    widget.segment()
    wait(app, lambda: widget.segment_button.enabled)
    widget._viewer.layers.clear()
    widget.granularity.value = 0.7
    assert {layer.name for layer in widget._viewer.layers} == {"cut", "selected"}


def test_failures_end_and_are_told(app, widget, monkeypatch):
    told = []
    monkeypatch.setattr("napari.utils.notifications.show_error", told.append)
    monkeypatch.setattr("napari.utils.notifications.show_info", told.append)
    monkeypatch.setattr("masktree.napari.widget._segment", lambda picture: "expected more")
    widget.segment()
    wait(app, lambda: widget.segment_button.enabled)
    assert told == ["expected more"]
    widget.image.choices = []
    assert widget.segment() is None
    assert told[1] == "expected an image layer; got none; open an image first"


def test_a_plane_of_a_stack_of_photographs_is_segmented_in_its_place(app, photo):
    viewer = ViewerModel()
    layer = viewer.add_image(np.stack([photo // 2, photo]), rgb=True, scale=(5, 2, 3), translate=(1, 10, 20))
    viewer.dims.set_current_step(0, 1)
    np.testing.assert_array_equal(current_picture(layer, viewer.dims.current_step), photo)
    widget = SegmentWidget(viewer)
    widget.image.choices = [layer]
    widget.image.value = layer
    widget.segment()
    wait(app, lambda: widget.segment_button.enabled)
    cut = viewer.layers["cut"]
    assert (cut.scale.tolist(), cut.translate.tolist()) == ([2, 3], [10, 20])
    assert cut.data.shape == (60, 90)


@pytest.mark.parametrize("kind", ["grey", "16 bit", "float", "stack", "rgba"])
def test_the_picture_is_what_is_shown(app, photo, kind):
    viewer = ViewerModel()
    grey = photo[..., 0]
    data = {
        "grey": grey,
        "16 bit": grey.astype(np.uint16) * 257,
        "float": grey / np.float32(255),
        "stack": np.stack([np.zeros_like(grey), grey, np.zeros_like(grey)]),
        "rgba": np.dstack([photo, np.full(grey.shape, 255, np.uint8)]),
    }[kind]
    limits = {"16 bit": (0, 65535), "float": (0, 1)}.get(kind)
    layer = viewer.add_image(data, contrast_limits=limits)
    viewer.dims.set_current_step(0, 1) if kind == "stack" else None
    picture = current_picture(layer, viewer.dims.current_step)
    np.testing.assert_array_equal(picture, photo if kind == "rgba" else np.repeat(grey[..., None], 3, 2))
