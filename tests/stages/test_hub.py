"""Uploads and downloads of models by the hub's own client, against a server on this machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants

import masktree
from masktree.errors import InputError, WeightsError
from masktree.evaluate.result import EvaluationResult
from masktree.models import build
from masktree.models.build import save_pretrained
from tests.models.standins import TinyModel
from tests.stages.hub_server import COMMIT, Hub

HEADER = {
    "training": {
        "optimisation": {"steps": 40, "batch_size": 2},
        "labels": {"key": "0" * 16, "images": 1234, "masks": 56789},
        "seed": 3,
    },
    "record": {
        "labels": "/home/someone/secret project/cells",
        "init_from": "C:\\Users\\someone\\run",
        "label_weights": {
            "name": "embedded",
            "licence": "Apache-2.0",
            "trained_on": "photographs",
            "label_free": True,
            "url": "https://example.org/weights",
        },
        "versions": {"masktree": "0.2.0", "torch": "2.14.1", "numpy": "2.4"},
    },
    "step": 40,
    "score_calibration": {"raw": [0.0, 1.0], "agreement": [0.2, 0.9]},
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """Folder of a stand-in model with what a training run records."""
    monkeypatch.setattr(build, "build_model", lambda config, *, weights: TinyModel(config))
    torch.manual_seed(1)
    save_pretrained(TinyModel(), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | HEADER))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 39, "loss": 9.0}\n{"step": 40, "loss": 8.5}\n')
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not for others")
    return tmp_path / "run"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The client's addresses and cache are those of the server on this machine."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_that_was_pushed_is_loaded_by_its_name(run, hub, tmp_path, monkeypatch):
    address = masktree.push_to_hub(run, "someone/cells", licence="Apache-2.0", private=True, token="secret")
    assert address == f"{hub.address}/someone/cells"
    assert sorted(hub.files) == [f"someone/cells/{name}" for name in ("README.md", "config.json", "model.safetensors")]
    assert hub.private == {"someone/cells": True}
    assert hub.tokens == ["Bearer secret"]
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    here = masktree.load(str(run))(rgb)
    there = masktree.ModelSegmenter.from_pretrained("someone/cells")
    assert there.provenance.name == "someone/cells"
    assert there.provenance.label_free is True
    assert there(rgb).rles == here.rles
    np.testing.assert_array_equal(there(rgb).scores, here.scores)
    cached = tmp_path / "cache" / "models--someone--cells" / "snapshots" / COMMIT
    assert sorted(path.name for path in cached.iterdir()) == ["config.json", "model.safetensors"]
    hub.files.clear()  # once downloaded, no network is asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert masktree.load("someone/cells")(rgb).rles == here.rles


def test_the_card_says_what_the_model_is_and_no_private_path(run, hub, tmp_path):
    metrics = {"ar1000": 0.2871, "ap": None}
    origin = {"ground_truth": "/home/someone/annotations.json"}
    result = EvaluationResult.from_stats("ar", "coco", {}, metrics, ["a.jpg"], [{}], origin)
    result.write(tmp_path / "result.json")
    masktree.push_to_hub(run, "someone/cells", licence="Apache-2.0", evaluations=[tmp_path / "result.json"])
    card = ModelCard(hub.files["someone/cells/README.md"].decode())
    metadata = card.data.to_dict()
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "masktree")
    assert metadata["pipeline_tag"] == "mask-generation"
    for text in (
        "No human label was used",
        'masktree.load("someone/cells")',
        "| training images | 1234 |",
        "| pseudo-labels | 56789 |",
        "| label set | cells |",
        "Training loss at step 40: 8.5",
        "0.2871",
        "Scores are calibrated",
        '"batch_size": 2',
        "`embedded`: Apache-2.0",
    ):
        assert text in card.text
    sent = hub.files["someone/cells/config.json"] + hub.files["someone/cells/README.md"]
    assert b"someone\\\\" not in sent
    assert b"/home" not in sent
    assert b"secret" not in sent
    assert json.loads(hub.files["someone/cells/config.json"])["record"]["init_from"] == "run"
    assert b"https://example.org/weights" in sent


def test_labels_of_unknown_origin_are_said_to_be(run, hub):
    path = run / "config.json"
    header = json.loads(path.read_text())
    del header["record"]["label_weights"], header["training"], header["score_calibration"]
    path.write_text(json.dumps(header))
    (run / "metrics.jsonl").unlink()
    masktree.push_to_hub(run, "someone/cells")
    text = hub.files["someone/cells/README.md"].decode()
    assert "It may depend on human labels" in text
    assert "No human label was used" not in text
    assert "Of this model: not stated." in text
    assert "license: unknown" in text


def test_an_edited_card_stays_unless_it_is_to_be_replaced(run, hub):
    masktree.push_to_hub(run, "someone/cells")
    hub.files["someone/cells/README.md"] = b"edited"
    masktree.push_to_hub(run, "someone/cells")
    assert hub.commits == 2
    assert hub.files["someone/cells/README.md"] == b"edited"
    masktree.push_to_hub(run, "someone/cells", overwrite_card=True)
    assert b"masktree.load" in hub.files["someone/cells/README.md"]


def test_what_cannot_be_pushed_is_said(run, hub, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected owner/name of a repository on the hub; got 'cells'"):
        masktree.push_to_hub(run, "cells")
    with pytest.raises(WeightsError, match="expected the folder of a trained model"):
        masktree.push_to_hub(tmp_path / "nothing", "someone/cells")
    with pytest.raises(WeightsError, match=r"takes the model someone/cells; got .*403.*; log in with hf auth login"):
        masktree.push_to_hub(run, "someone/cells", token="wrong")
    assert hub.files == {}
    with pytest.raises(WeightsError, match=r"'someone/other'.*check the spelling"):
        masktree.load("someone/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"got .*; log in"):
        masktree.push_to_hub(run, "someone/cells")
