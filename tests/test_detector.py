"""A trained model as the divide step of UnSAM."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import masktree
from masktree import cli
from masktree.errors import InputError
from masktree.labels import LabelSet
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import CascadeConfig
from masktree.predict.detector import ModelDetector


@pytest.fixture
def folder(tmp_path) -> Path:
    """A detector of random weights, without a record of its training."""
    path = tmp_path / "detector"
    path.mkdir()
    torch.manual_seed(0)
    config = CascadeConfig(
        backbone="embedded",
        image_size=64,
        hidden_dim=16,
        box_head_dim=16,
        mask_head_layers=1,
        test_proposals=20,
        max_detections=5,
        min_area=1,
    )
    save_pretrained(build_model(config, weights=True).eval(), path)
    return path


def test_only_a_detector_without_human_labels_divides(folder, photos, tmp_path, capsys):
    with pytest.raises(InputError, match="trained without human labels"):
        masktree.load("texture", method="unsam", detector=str(folder))
    header = json.loads((folder / "config.json").read_text())
    header["record"] = {"label_weights": {"label_free": True}}
    (folder / "config.json").write_text(json.dumps(header))
    segmenter = masktree.load("texture", method="unsam", detector=str(folder), detector_score=0.0)
    assert isinstance(segmenter, masktree.DiscoverySegmenter)
    detector = segmenter.options["detector"]
    assert isinstance(detector, ModelDetector)
    image = masktree.read_image(photos[0])[:120, :160].copy()
    found, tree = detector(image), detector.segmenter(image)
    assert found.shape == (len(tree), 120, 160)
    assert all((mask == tree.mask(i)).all() for i, mask in enumerate(found))
    assert replace(detector, min_score=1.0)(image).shape == (0, 120, 160)
    source, output = tmp_path / "photos", tmp_path / "labels"
    source.mkdir()
    Image.fromarray(image).save(source / "a.png")
    command = ["discover", str(source), "-o", str(output), "--backbone", "texture", "--detector", str(folder)]
    assert cli.main([*command, "--method", "hassod"]) == 2
    assert "with --method unsam" in capsys.readouterr().err
    assert cli.main([*command, "--method", "unsam", "--detector-score", "0"]) == 0
    recorded = LabelSet.open(output).index["config"]["options"]
    assert recorded == {"detector": str(folder), "detector_score": 0.0}
