"""The auto-annotation function for CVAT, with CVAT's own package where it is installed."""

from __future__ import annotations

import json
import logging
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import masktree
from tests.examples.load import FOLDER, load_example
from tests.export.planted import SIZE, fill, planted_masks, planted_photo, planted_tree

masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed: pip install cvat-sdk.")


@pytest.fixture(scope="module")
def example():
    return load_example("cvat_function")


@pytest.fixture
def create(example, monkeypatch):
    monkeypatch.setattr(masktree, "load", lambda model: lambda image: planted_tree())
    return example.create


def detect(function, **context):
    given = {"frame_name": "a.png", "conf_threshold": None, "conv_mask_to_poly": False} | context
    return function.detect(SimpleNamespace(**given), Image.fromarray(planted_photo()))


def test_masks_have_levels_as_labels_and_their_hierarchy_as_attributes(create):
    function = create()
    assert [(label.name, label.id) for label in function.spec.labels] == [("whole", 0), ("part", 1), ("subpart", 2)]
    names = [attribute.name for attribute in function.spec.labels[0].attributes]
    tree = planted_tree()
    shapes = detect(function)
    assert len(shapes) == 6
    assert [shape.z_order for shape in shapes] == sorted(tree.depths.tolist())
    for shape in shapes:
        assert shape.type.value == "mask"
        values = dict(zip(names, (attribute.value for attribute in shape.attributes), strict=True))
        index = int(values["id"])
        decoded = masks.decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
        np.testing.assert_array_equal(decoded, planted_masks()[index])
        assert shape.label_id == tree.levels[index]
        assert values["parent_id"] == ("" if tree.parents[index] < 0 else str(tree.parents[index]))


def test_masks_are_limited_by_what_cvat_and_the_command_line_ask_for(create):
    assert len(detect(create(), conf_threshold=0.75)) == 3
    assert {shape.label_id for shape in detect(create(levels="part,subpart"))} == {1, 2}
    assert len(detect(create(min_area=2))) == 5
    assert [shape.label_id for shape in detect(create(levels="part,subpart", max_masks=2))] == [1, 2]


def test_outlines_replace_masks_where_they_are_asked_for(create):
    shapes = detect(create(levels="subpart"), conv_mask_to_poly=True)
    assert {shape.type.value for shape in shapes} == {"polygon"}
    drawn = np.any([fill([np.reshape(shape.points, (-1, 2))]) for shape in shapes], axis=0)
    np.testing.assert_array_equal(drawn, planted_masks()[2] | planted_masks()[3])


def test_labels_of_the_project_are_those_of_the_function(create, capsys):
    runpy.run_path(str(FOLDER / "cvat_function.py"), run_name="__main__")
    labels = json.loads(capsys.readouterr().out)
    for label, spec in zip(labels, create().spec.labels, strict=True):
        assert label["name"] == spec.name
        assert [a["name"] for a in label["attributes"]] == [a.name for a in spec.attributes]


@pytest.mark.parametrize("conv_mask_to_poly", [False, True])
def test_the_package_takes_what_the_function_returns(create, conv_mask_to_poly):
    """Labels and attributes by name, as ``cvat-cli task auto-annotate`` does it before it uploads them."""
    driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
    from cvat_sdk import models

    function = create()
    labels = [
        models.Label(
            id=70 + label.id,
            name=label.name,
            type="any",
            sublabels=[],
            attributes=[
                models.Attribute(id=10 * label.id + a.id, name=a.name, mutable=False, input_type="text", values=[""])
                for a in label.attributes
            ],
        )
        for label in function.spec.labels
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger("cvat"),
        function.spec.labels,
        labels,
        allow_unmatched_labels=False,
        conv_mask_to_poly=conv_mask_to_poly,
    )
    shapes = detect(function, conv_mask_to_poly=conv_mask_to_poly)
    mapper.validate_and_remap(shapes, 5)
    assert {shape.label_id for shape in shapes} == {70, 71, 72}
    assert {shape.frame for shape in shapes} == {5}
