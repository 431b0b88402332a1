"""Rounds of labelling anew and training, with the smallest model that can be saved and read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from masktree import cli
from masktree.errors import InputError, TrainingError
from masktree.labels import LabelSet
from masktree.models.config import CascadeConfig, Mask2FormerConfig
from masktree.models.saved import is_model
from masktree.predict import load_model
from masktree.stages.rounds import run_rounds, summarise
from masktree.train.options import RunOptions
from masktree.train.presets import PRESETS
from masktree.train.run_folder import read_metrics
from masktree.train.self_training_settings import RoundsSettings, cutler_rounds
from masktree.train.train import train
from masktree.trees import rle
from tests.conftest import ROOT
from tests.oracles import label_merge as oracle
from tests.train.planted import OPTIMISATION, PRESET, make_labels

MODEL = Mask2FormerConfig(
    kind="unsam",
    image_size=64,
    hidden_dim=32,
    num_heads=1,
    feedforward_dim=32,
    pixel_decoder_layers=1,
    decoder_layers=1,
    num_queries=4,
)
SETTINGS = RoundsSettings(steps=3, score_threshold=0.5, iou=0.5)
QUIET = RunOptions(device="cpu", sample_every=0)


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"), count=4, shard_size=2)  # few enough for one process


@pytest.fixture(scope="module")
def first(labels, tmp_path_factory) -> Path:
    return first_run(labels, tmp_path_factory.mktemp("first") / "run")


def first_run(labels: Path, output: Path) -> Path:
    """A run from which rounds start, of steps so few and small that it finds masks as at its beginning."""
    preset = replace(PRESET, model=MODEL, optimisation=replace(OPTIMISATION, steps=2, lr=1e-5))
    train(labels, output, preset, QUIET)
    return output


def rounds(first: Path, labels: Path, output: Path, settings: RoundsSettings = SETTINGS, **options: object) -> int:
    return run_rounds(first, labels, output, settings, replace(QUIET, **options))


def written_annotations(folder: Path) -> list[dict]:
    return [a for p in sorted((folder / "annotations").iterdir()) for a in json.loads(p.read_text())["annotations"]]


@pytest.fixture(scope="module")
def scores(first, labels) -> np.ndarray:
    """Of all that the first run predicts."""
    segmenter = load_model(first, device="cpu")
    return np.concatenate([segmenter(path).scores for path in sorted((labels.parent / "photos").iterdir())])


@pytest.fixture(scope="module")
def done(first, labels, scores, tmp_path_factory) -> tuple[Path, RoundsSettings]:
    """Two rounds, with a least score that predictions have."""
    output = tmp_path_factory.mktemp("rounds") / "out"
    settings = replace(SETTINGS, rounds=2, score_threshold=0.5 * float(scores.min()))
    assert rounds(first, labels, output, settings) == 6
    return output, settings


def test_rounds_leave_labels_runs_and_a_record(done, first):
    output, _ = done
    record = json.loads((output / "rounds.json").read_text())
    assert record["model"] == "round-2/run"
    assert [item["name"] for item in record["rounds"]] == ["round-1", "round-2"]
    for number, item in enumerate(record["rounds"], start=1):
        folder = output / f"round-{number}"
        merged = LabelSet.open(folder / "labels", verify=True).index
        sources = [a["source"] for a in written_annotations(folder / "labels")]
        assert (sources.count(0), sources.count(1)) == (item["predictions"], item["kept_labels"])
        assert merged["sources"][0]["path"] == str(folder / "predictions")
        assert item["label_free"] is False  # of planted labels it is not known
        assert is_model(folder / "run")
        assert len(list(read_metrics(folder / "run"))) == 3
        header = json.loads((folder / "run/config.json").read_text())
        before = first if number == 1 else output / "round-1/run"
        assert header["record"]["init_from"] == str(before.resolve())
    assert record["rounds"][0]["replaced_labels"] + record["rounds"][0]["kept_labels"] == 8
    assert record["rounds"][1]["model_sha256"] != record["rounds"][0]["model_sha256"]
    assert "round-2: " in summarise(output)
    assert summarise(output).endswith(f"the model is in {output}/round-2/run")


def test_the_labels_are_those_of_the_rule(done, labels):
    """Every prediction above the score, and the old labels whose IoU with all of them is below one half."""
    output, settings = done
    predictions = {i["file_name"]: t for i, t in LabelSet.open(output / "round-1/predictions")}
    merged = {i["file_name"]: t for i, t in LabelSet.open(output / "round-1/labels")}
    old = {i["file_name"]: t for i, t in LabelSet.open(labels)}
    assert sum(map(len, predictions.values())) > 0
    for name, tree in merged.items():
        found = predictions[name]
        assert (found.scores > np.float32(settings.score_threshold) - 1e-5).all()
        dense = [[rle.decode(text, tree.size) for text in t.rles] for t in (found, old[name])]
        kept = oracle.fill(dense[0], dense[1], 0.5, strict=True)
        assert sorted(tree.rles) == sorted([*found.rles, *(old[name].rles[k] for k in kept)])


def test_finished_rounds_are_left_and_further_ones_added(done, first, labels):
    output, settings = done
    before = (output / "round-1/labels/index.json").stat().st_mtime_ns
    assert rounds(first, labels, output, settings) == 0
    assert rounds(first, labels, output, replace(settings, rounds=3)) == 3
    assert (output / "round-1/labels/index.json").stat().st_mtime_ns == before
    assert json.loads((output / "rounds.json").read_text())["model"] == "round-3/run"


def test_changed_settings_are_refused_by_name(done, first, labels):
    output, settings = done
    for change, name in (({"iou": 0.4}, "iou"), ({"steps": 5}, "steps"), ({"score_threshold": 0.9}, "score_threshold")):
        with pytest.raises(InputError, match=rf"the rounds already in .*got other values for {name} \("):
            rounds(first, labels, output, replace(settings, **change))
    with pytest.raises(InputError, match=r"other values for seed \(0 there, 4 now\)"):
        rounds(first, labels, output, settings, seed=4)
    with pytest.raises(InputError, match=r"other values for earlier_run \("):
        rounds(output / "round-1/run", labels, output, settings)


@pytest.mark.parametrize("stage_name", ["merge", "train"])
def test_rounds_that_are_stopped_go_on_to_the_same(done, first, labels, tmp_path, monkeypatch, stage_name):
    output, settings = done

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"masktree.stages.rounds.{stage_name}", stop)
        with pytest.raises(KeyboardInterrupt):
            rounds(first, labels, tmp_path / "out", replace(settings, rounds=1))
    assert not (tmp_path / "out/rounds.json").exists()
    assert rounds(first, labels, tmp_path / "out", replace(settings, rounds=1)) == 3
    names = ("predictions/annotations/00000.json", "labels/annotations/00000.json", "run/model.safetensors")
    for name in names:
        assert (tmp_path / "out/round-1" / name).read_bytes() == (output / "round-1" / name).read_bytes()


def test_two_processes_are_one(done, first, labels, tmp_path):
    """torchrun on two CPU processes: each relabels one of two COCO files, and takes half of every batch."""
    single, settings = done
    others = make_labels(tmp_path / "others", count=2)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "masktree", "self-train")
    values = ("--rounds", 2, "--steps", 3, "--score-threshold", settings.score_threshold, "--iou", settings.iou)
    command = [sys.executable, *launch, first, labels, "-o", tmp_path / "out", "--method", "rounds", *values]
    found = subprocess.run(
        [*map(str, command), "--device", "cpu", "--sample-every", "0", "--val", str(others)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("6 steps done") == 1
    for number in (1, 2):
        one, two = (folder / f"round-{number}" for folder in (single, tmp_path / "out"))
        for name in ("predictions", "labels"):
            files = sorted(path.name for path in (one / name / "annotations").iterdir())
            assert files == ["00000.json", "00001.json"]
            if number == 1:  # later ones are those of a model that is equal to rounding
                assert all(
                    (one / name / "annotations" / file).read_bytes() == (two / name / "annotations" / file).read_bytes()
                    for file in files
                )
        for a, b in zip(read_metrics(one / "run"), read_metrics(two / "run"), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-2)
            assert 0 <= b["val_ar1000"] <= 1
        assert is_model(two / "run/best")
        assert json.loads((two / "run/config.json").read_text())["record"]["processes"] == 2
    parts = tmp_path / "out/round-1/predictions/parts"
    assert [len(list((parts / f"{k}-of-2/annotations").iterdir())) for k in (1, 2)] == [1, 1]
    assert json.loads((tmp_path / "out/rounds.json").read_text())["model"] == "round-2/run"


def test_without_any_sure_prediction_there_is_advice(first, labels, scores, tmp_path):
    """A prediction with exactly the least score is none."""
    with pytest.raises(TrainingError, match=r"a score above 0.\d+ in 4 images; got none; lower --score-threshold"):
        rounds(first, labels, tmp_path / "out", replace(SETTINGS, score_threshold=float(scores.max())))
    assert not (tmp_path / "out/round-1").exists()
    # The score can be chosen by a wanted number instead: rounds that have made nothing do not bind the next ones.
    wanted = replace(SETTINGS, average_predictions=1.0, from_backbone=True, crops=True, snap=True)
    assert rounds(first, labels, tmp_path / "out", wanted) == 3
    record = json.loads((tmp_path / "out/rounds.json").read_text())
    assert 4 <= record["rounds"][0]["predictions"] <= 8
    header = json.loads((tmp_path / "out/round-1/run/config.json").read_text())
    assert "init_from" not in header["record"]
    config = LabelSet.open(tmp_path / "out/round-1/predictions").index["config"]
    assert config["options"]["crops"] is config["options"]["snap"] is True


def test_files_of_others_are_refused(first, labels, tmp_path):
    (tmp_path / "out/round-1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no files of something else; got .*round-1"):
        rounds(first, labels, tmp_path / "out", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/plan.json").write_text('{"format": "x", "settings": {}}')
    with pytest.raises(InputError, match=r"no files of something else; got .*plan.json"):
        rounds(first, labels, tmp_path / "other")
    with pytest.raises(InputError, match="expected the folder of the images; got"):
        rounds(first, labels, tmp_path / "new", root=tmp_path / "none")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rounds": 0}, "at least one round"),
        ({"score_threshold": 1.0}, r"in \[0, 1\); got 1.0"),
        ({"iou": 2}, r"an IoU in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(values, match):
    with pytest.raises(InputError, match=match):
        RoundsSettings(**values)


def test_rounds_of_cutler_have_the_released_numbers():
    settings = cutler_rounds()
    preset = settings.preset(PRESETS["cutler"])
    o = preset.optimisation
    assert (settings.rounds, settings.score_threshold, settings.iou) == (3, 0.7, 0.5)
    assert (o.steps, o.lr, o.schedule, o.weight_decay, o.batch_size) == (80_000, 0.005, "constant", 1e-4, 16)
    assert isinstance(preset.model, CascadeConfig)
    assert (preset.model.drop_loss, preset.model.roi_positive_fraction) == (False, 0.25)
    assert (preset.augmentation.paste_prob, preset.augmentation.paste_scale) == (1.0, (0.5, 1.0))
    assert cutler_rounds(rounds=2, steps=7).preset(PRESETS["cutler"]).optimisation.steps == 7
    with pytest.raises(InputError, match="with a run of cutler or hassod; got unsam"):
        settings.preset(PRESETS["unsam"])


def test_the_command_runs_rounds_of_a_real_model(labels, tmp_path, capsys):
    small = ["--size", "tiny", "--image-size", "64", "--num-queries", "8", "--batch-size", "2", "--steps", "1"]
    further = ["--device", "cpu", "--sample-every", "0"]
    assert cli.main(["train", str(labels), "-o", str(tmp_path / "first"), *small, *further]) == 0
    command = ["self-train", str(tmp_path / "first"), str(labels), "-o", str(tmp_path / "out"), "--method", "rounds"]
    assert cli.main([*command, "--steps", "2", "--average-predictions", "1", *further]) == 0
    text = capsys.readouterr().out
    assert "round-1: " in text
    assert "2 steps done" in text


def test_options_of_another_method_are_refused(first, labels, tmp_path, capsys):
    command = ["self-train", str(first), str(labels), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--method", "rounds", "--burn-in", "3"]) == 2
    assert "options of the method rounds; got --burn-in" in capsys.readouterr().err
    assert cli.main([*command, "--rounds", "3", "--from-backbone"]) == 2
    assert "options of the method sohes or hassod; got --rounds, --from-backbone" in capsys.readouterr().err
