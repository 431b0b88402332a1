"""The verb, with the real models at their smallest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from masktree import cli, predict
from masktree.io.images import read_image
from masktree.models.saved import is_model
from masktree.train.run_folder import read_metrics
from tests.train.planted import make_labels

SMALL = ("--size", "tiny", "--image-size", "64", "--batch-size", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"))


def masktree(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("preset", "further"),
    [
        ("sohes", ("--num-queries", 12, "--precision", "bfloat16")),
        ("hassod", ()),
    ],
)
def test_a_label_set_becomes_a_model_that_segments(labels, tmp_path, capsys, preset, further):
    command = ("train", labels, "-o", tmp_path / "run", "--preset", preset, *SMALL, "--steps", 3, *further)
    assert masktree(*command) == 0
    assert "3 steps done, 3 in total" in capsys.readouterr().out
    assert is_model(tmp_path / "run")
    records = list(read_metrics(tmp_path / "run"))
    assert len(records) == 3
    assert all(np.isfinite(record["loss"]) for record in records)
    assert (tmp_path / "run" / "samples" / "step-000003.png").exists()
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert header["model"]["kind"] == preset
    assert len(header["record"]["pretrained_sha256"]) == 64
    assert header["score_calibration"]["raw"][-1] == 1
    tree = predict.load(str(tmp_path / "run"), device="cpu")(read_image(labels.parent / "photos" / "0.png"))
    assert tree.size == (64, 64)
    assert masktree(*command) == 0
    assert "0 steps done, 3 in total" in capsys.readouterr().out
    assert masktree(*command, "--lr", 0.5) == 2
    assert "optimisation.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("LABELS/none", "-o", "OUT"), "expected the folder of a finished label set, with index.json; got nothing at"),
        (
            ("LABELS", "-o", "OUT", *SMALL, "--batch-size", 16),
            "at least 16 images with masks, one batch; got 6",
        ),
        (("LABELS", "-o", "OUT", *SMALL, "--backbone", "dino-vitb9"), "did you mean dino-vitb8"),
        (("LABELS", "-o", "OUT", "--preset", "hassod", "--num-queries", 5), "no number of queries for hassod"),
        (("LABELS", "-o", "OUT", *SMALL, "--device", "cuda:99"), "expected a device of this machine"),
        (("LABELS", "-o", "OUT", *SMALL, "--accumulation-steps", 3), "3 accumulation steps; got 2"),
        (("LABELS", "-o", "OUT", *SMALL, "--precision", "float16"), "float16 on a CUDA device"),
        (("LABELS", "-o", "OUT", *SMALL, "--root", "/none"), "expected the folder of the images; got /none"),
        (("LABELS", "-o", "OUT", *SMALL, "--workers", -1), "workers of 0 or more"),
        (("LABELS", "-o", "OUT", *SMALL, "--seed", -1), "seed from 0"),
    ],
)
def test_wrong_arguments_say_what_to_do_and_leave_nothing(labels, tmp_path, capsys, arguments, words):
    names = {"LABELS": labels, "LABELS/none": labels / "none", "OUT": tmp_path / "out"}
    assert masktree("train", *(names.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_unfinished_label_set_is_refused(labels, tmp_path, capsys):
    (tmp_path / "plan.json").write_text((labels / "plan.json").read_text())
    assert masktree("train", tmp_path, "-o", tmp_path / "out") == 2
    assert "run the same discover command again" in capsys.readouterr().err


def test_labels_of_other_photographs_are_another_run(labels, tmp_path, capsys):
    other = make_labels(tmp_path, count=3)
    command = (
        "-o",
        tmp_path / "run",
        "--preset",
        "unsam",
        *SMALL,
        "--steps",
        1,
        "--num-queries",
        4,
        "--sample-every",
        0,
    )
    assert masktree("train", labels, *command) == 0
    assert masktree("train", other, *command) == 2
    assert "labels.images (6 there, 3 now)" in capsys.readouterr().err
