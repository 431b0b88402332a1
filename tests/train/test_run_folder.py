"""A run's folder: what is in it, how it goes on after any end, what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from masktree.errors import FormatError, InputError, TrainingError
from masktree.models.build import read_tensors
from masktree.train.augmentation import Augmentation
from masktree.train.initialisation import Initialisation
from masktree.train.loop import TrainingState
from masktree.train.presets import Preset
from masktree.train.run_folder import LATER_SETTINGS, RunFolder, read_metrics
from tests.models.standins import CONFIG, TinyModel
from tests.train.planted import OPTIMISATION, PRESET, make_labels, run

ROOT = Path(__file__).resolve().parents[2]
FILES = {"config.json", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "losses.png"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def unbroken(labels, tmp_path_factory) -> Path:
    """A run of 12 steps without any interruption."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    assert run(labels, output) == 12
    return output


def start(*command: object) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", *map(str, command)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records(folder: Path) -> list[dict]:
    """Metrics without what the clock says."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_metrics(folder)]


def equal_runs(a: Path, b: Path) -> bool:
    one, two = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (a, b))
    same = all(torch.equal(one[k][n], two[k][n]) for k in ("model", "ema_model") for n in one[k])
    moments = [[v for s in c["optimiser"]["state"].values() for v in s.values()] for c in (one, two)]
    same &= all(torch.equal(x, y) for x, y in zip(*moments, strict=True))
    weights = (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    return same and weights and records(a) == records(b) and one["step"] == two["step"]


def stop_at(step: int, number: int = signal.SIGTERM):
    """Send this process a signal once that step is logged."""
    log = RunFolder.log

    def logged(self, record):
        log(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), number)

    return mock.patch.object(RunFolder, "log", logged)


def test_a_run_leaves_a_model_its_record_and_its_pictures(labels, tmp_path):
    output = tmp_path / "new" / "run"
    assert run(labels, output, sample_every=8, seed=3) == 12
    assert {path.name for path in output.iterdir()} == FILES | {"samples", ".lock"}
    assert sorted(path.name for path in (output / "samples").iterdir()) == ["step-000008.png", "step-000012.png"]
    for name, size in (("samples/step-000008.png", (1164, 1554)), ("losses.png", (900, 480))):
        with Image.open(output / name) as picture:
            assert picture.size == size
    found = list(read_metrics(output))
    assert [record["step"] for record in found] == list(range(1, 13))
    assert found[-1]["loss"] < found[0]["loss"]
    header = json.loads((output / "config.json").read_text())
    assert header["training"]["seed"] == 3
    assert header["training"]["labels"]["images"] == 6
    assert header["step"] == 12
    assert header["record"]["device"] == "cpu"
    assert header["record"]["versions"]["torch"] in torch.__version__
    kept = torch.load(output / "checkpoint.pt", weights_only=True)["ema_model"]
    assert all(torch.equal(kept[name], value) for name, value in read_tensors(output).items())


def test_missing_matplotlib_is_named_before_the_first_step(labels, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"expected matplotlib.*pip install matplotlib"):
        run(labels, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(labels, unbroken, tmp_path, number):
    output = tmp_path / "run"
    with stop_at(5, number), pytest.raises(KeyboardInterrupt):
        run(labels, output)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["step"] == len(records(output)) == 5
    assert run(labels, output) == 7
    assert equal_runs(output, unbroken)


def test_a_killed_run_goes_on_as_if_it_had_not_been(labels, unbroken, tmp_path):
    """Killed at whatever moment, with a checkpoint at every step; the metrics may be ahead of it, or torn."""
    output = tmp_path / "run"
    process = start("tests.train.planted", labels, output)
    deadline = time.monotonic() + 120
    while len(records(output)) < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert records(output), "the run did not get to its first steps"
    with (output / "metrics.jsonl").open("a") as handle:
        handle.write(json.dumps({"step": 13, "loss": 0.0}) + '\n{"step": 14, "lo')
    run(labels, output)
    assert equal_runs(output, unbroken)
    assert not list(output.glob(".*.partial"))


def test_two_processes_are_one(labels, unbroken, tmp_path):
    """torchrun on two CPU processes, each with half of every batch, in two passes."""
    output = tmp_path / "run"
    process = start(
        *("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "tests.train.planted"),
        *(labels, output, 12, 4, 2),
    )
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert json.loads((output / "config.json").read_text())["record"]["processes"] == 2
    for one, two in zip(records(unbroken), records(output), strict=True):
        assert one["num_masks"] == two["num_masks"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_a_finished_run_is_left_as_it_is(labels, unbroken):
    before = (unbroken / "checkpoint.pt").stat().st_mtime_ns
    assert run(labels, unbroken) == 0
    assert (unbroken / "checkpoint.pt").stat().st_mtime_ns == before
    assert len(records(unbroken)) == 12


def test_other_settings_are_refused_by_name_and_passes_are_free(labels, unbroken):
    changed = replace(
        PRESET,
        model=replace(CONFIG, num_queries=7),
        optimisation=replace(OPTIMISATION, lr=0.5),
        augmentation=Augmentation(crop_size=64, scale=(0.5, 1.0), paste_prob=0.5, jitter_prob=0.5),
    )
    with pytest.raises(InputError) as caught:
        run(labels, unbroken, changed, seed=1)
    for part in (
        "model.num_queries (4 there, 7 now)",
        "optimisation.lr (0.01 there, 0.5 now)",
        "augmentation.scale ([0.8, 1.4] there, [0.5, 1.0] now)",
        "seed (0 there, 1 now)",
    ):
        assert part in str(caught.value)
    assert "steps" not in str(caught.value)
    assert run(labels, unbroken, replace(PRESET, optimisation=replace(OPTIMISATION, accumulation_steps=2))) == 0


def test_runs_of_earlier_versions_go_on_and_are_loaded_with_the_values_they_had(labels, unbroken, tmp_path):
    """Their config.json and checkpoint do not name what came later."""

    def without_later(values: dict, path: str) -> dict:
        return {
            name: without_later(value, f"{name}.") if isinstance(value, dict) else value
            for name, value in values.items()
            if path + name not in LATER_SETTINGS
        }

    output = tmp_path / "run"
    with stop_at(6), pytest.raises(KeyboardInterrupt):
        run(labels, output)
    header = json.loads((output / "config.json").read_text())
    header["model"], header["training"] = (
        without_later(header["model"], "model."),
        without_later(header["training"], ""),
    )
    assert "score" not in header["model"]
    (output / "config.json").write_text(json.dumps(header))
    checkpoint = torch.load(output / "checkpoint.pt", weights_only=True)
    known = {k: v for k, v in json.loads(checkpoint["run"]).items() if k not in LATER_SETTINGS}
    assert len(known) < len(json.loads(checkpoint["run"]))
    torch.save(checkpoint | {"run": json.dumps(known, sort_keys=True)}, output / "checkpoint.pt")
    assert run(labels, output) == 6
    assert equal_runs(output, unbroken)
    assert Initialisation.open(output).preset() == PRESET
    changed = replace(PRESET, optimisation=replace(OPTIMISATION, decay_biases=True))
    with pytest.raises(InputError, match=r"optimisation.decay_biases \(False there, True now\)"):
        run(labels, output, changed)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_finished_run_goes_on_to_more_steps(labels, unbroken, tmp_path, schedule):
    def steps(count: int) -> Preset:
        return replace(PRESET, optimisation=replace(OPTIMISATION, steps=count, schedule=schedule))

    output, whole = tmp_path / "run", tmp_path / "whole"
    run(labels, output, steps(4))
    with stop_at(6), pytest.raises(KeyboardInterrupt):  # from here on it resumes as any run
        run(labels, output, steps(8))
    assert run(labels, output, steps(8)) == 2
    header = json.loads((output / "config.json").read_text())
    assert header["training"]["optimisation"]["steps"] == header["step"] == 8
    assert header["record"]["extended_at"] == [4]
    run(labels, whole, steps(8))
    assert equal_runs(output, whole) == (schedule == "constant")  # a cosine of four steps has fallen to 0 by the fourth
    for fewer_or_other in (steps(4), replace(steps(9), model=replace(CONFIG, num_queries=7))):
        with pytest.raises(InputError, match="settings of the run already in"):
            run(labels, output, fewer_or_other)


def test_only_a_finished_run_takes_more_steps(labels, tmp_path):
    output = tmp_path / "run"
    with stop_at(2), pytest.raises(KeyboardInterrupt):
        run(labels, output)
    with pytest.raises(InputError, match=r"optimisation.steps \(12 there, 20 now\); finish that run before"):
        run(labels, output, replace(PRESET, optimisation=replace(OPTIMISATION, steps=20)))


def test_a_run_that_has_saved_nothing_is_not_bound_to_its_settings(labels, tmp_path):
    output = tmp_path / "run"
    with mock.patch.object(RunFolder, "log", side_effect=TrainingError("no memory")), pytest.raises(TrainingError):
        run(labels, output)
    assert (output / "config.json").exists()
    assert run(labels, output, replace(PRESET, optimisation=replace(OPTIMISATION, steps=2, lr=0.02))) == 2


def test_a_model_without_its_checkpoint_is_not_removed(labels, unbroken, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    for name in ("config.json", "model.safetensors"):
        (output / name).write_bytes((unbroken / name).read_bytes())
    with pytest.raises(InputError, match="expected the checkpoint of the run in"):
        run(labels, output)
    assert (output / "model.safetensors").exists()


def test_overwriting_begins_anew_and_leaves_foreign_files(labels, tmp_path):
    output = tmp_path / "run"
    short = replace(PRESET, optimisation=replace(OPTIMISATION, steps=2))
    run(labels, output, short, sample_every=1)
    (output / "notes.txt").write_text("mine")
    assert run(labels, output, short, seed=1, overwrite=True) == 2
    assert len(records(output)) == 2
    assert json.loads((output / "config.json").read_text())["training"]["seed"] == 1
    assert (output / "notes.txt").read_text() == "mine"
    assert not list((output / "samples").iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"architecture": "resnet50"}', "of something else"),
        ("model.safetensors", "weights", "of something else"),
        ("config.json", '{"format": "masktree-model", "version": 1, "model": {}}', "got .* of a model"),
        ("cat.json", '{"format": "masktree", "version": 2}', "got trees of masktree segment in .*; choose another"),
        ("cat.jpg", "", "got images in .*; choose another output folder"),
    ],
)
def test_files_of_others_are_never_touched(labels, tmp_path, name, content, words, overwrite):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        run(labels, tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {name, ".lock"}


def test_damaged_and_foreign_checkpoints_are_refused(labels, tmp_path, unbroken):
    output = tmp_path / "run"
    short = replace(PRESET, optimisation=replace(OPTIMISATION, steps=1))
    run(labels, output, short)
    whole = (output / "checkpoint.pt").read_bytes()
    (output / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"expected a checkpoint; got a damaged file"):
        run(labels, output, short)
    (output / "checkpoint.pt").write_bytes((unbroken / "checkpoint.pt").read_bytes())
    with pytest.raises(FormatError, match="checkpoint of this run; got another"):
        run(labels, output, short)
    assert run(labels, output, short, overwrite=True) == 1


def test_a_full_disk_says_so_and_keeps_the_checkpoint(labels, tmp_path):
    """The limit on the size of files stands for the disk; it is met in the middle of torch's archive."""
    output = tmp_path / "run"
    with stop_at(2), pytest.raises(KeyboardInterrupt):
        run(labels, output)
    checkpoint, before = (output / "checkpoint.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(checkpoint) // 2, before[1]))
    try:
        with pytest.raises(
            TrainingError, match=r"write the checkpoint of step 12 .*File too large.* step 2 is kept: free"
        ):
            run(labels, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (output / "checkpoint.pt").read_bytes() == checkpoint
    assert not list(output.glob(".*.partial"))
    run(labels, output)
    assert len(records(output)) == 12


def test_a_checkpoint_of_another_model_is_refused(labels, tmp_path):
    folder = RunFolder.open(tmp_path, CONFIG, {"a": 1}, {}, overwrite=False)
    folder.prepare()
    folder.save(TrainingState.new(TinyModel(), OPTIMISATION))
    again = RunFolder.open(tmp_path, CONFIG, {"a": 1}, {}, overwrite=False)
    with pytest.raises(FormatError, match="state of this run's model; got another"):
        again.restore(TrainingState.new(torch.nn.Linear(2, 2), OPTIMISATION))


def test_damaged_metrics_are_told_from_torn_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert list(read_metrics(tmp_path)) == [{"step": 1}]
    path.write_text('{"step": 1}\nwords\n{"step": 2}\n')
    with pytest.raises(FormatError, match="JSON in line 2"):
        list(read_metrics(tmp_path))
    assert list(read_metrics(tmp_path / "none")) == []
