"""Measuring a run on images held out of it, and its best weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from masktree import cli, predict
from masktree.errors import ImageError, InputError
from masktree.io.images import read_image
from masktree.models.build import read_tensors
from masktree.stages.validation import PseudoLabelRecall, read_validation
from masktree.train.run_folder import read_metrics
from masktree.train.self_training_settings import find_method
from masktree.train.train import train
from masktree.train.validation import Validation, hold_out
from masktree.trees.masktree import MaskTree
from tests.train.planted import CORRECTION, OPTIMISATION, PRESET, build, correct, make_labels, run, run_options
from tests.train.test_run_folder import stop_at


@dataclass
class Planned:
    """A measure whose values are given; ``seen``: names of the images, ``asked``: how often it was asked."""

    values: list[float]
    name: str = "planned"
    seen: set[str] = field(default_factory=set)
    asked: int = 0

    def score(self, labels, tree: MaskTree, number: int) -> int:
        assert tree.size == labels.size
        self.seen.add(labels.name)
        return number

    def summarise(self, scores) -> float:
        self.asked += 1
        return self.values[self.asked - 1]


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("others"), count=3)


def measured(labels: Path, output: Path, validation: Validation, preset=PRESET, **options: object) -> int:
    return train(labels, output, preset, run_options(options), validation=validation, build_model=build)


def test_the_best_weights_stay_beside_the_last(labels, others, tmp_path):
    measure = Planned([0.1, 0.3, 0.2])
    measured(labels, tmp_path / "run", Validation(measure=measure, labels=others, every=5))
    values = {line["step"]: line["val_planned"] for line in read_metrics(tmp_path / "run") if "val_planned" in line}
    assert values == {5: 0.1, 10: 0.3, 12: 0.2}
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    best = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    found = {"step": 10, "measure": "planned", "value": 0.3, "images": 3}
    assert header["record"]["best"] == best["validation"] == found
    assert (header["step"], best["step"]) == (12, 10)
    # Measuring changes nothing: the last weights are those of a run without it, the best those of a run of ten steps.
    run(labels, tmp_path / "plain")
    with stop_at(10), pytest.raises(KeyboardInterrupt):
        run(labels, tmp_path / "ten")
    for one, other in (("run", "plain"), ("run/best", "ten")):
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in (one, other)]
        assert weights[0] == weights[1]


def test_held_out_images_are_not_learned_from(labels, tmp_path, monkeypatch):
    from masktree.train.labelled_dataset import LabelledDataset

    learned: set[str] = set()
    unpack = LabelledDataset.unpack

    def spy(self, packed):
        learned.update(packed.names)
        return unpack(self, packed)

    monkeypatch.setattr(LabelledDataset, "unpack", spy)
    no_paste = replace(PRESET, augmentation=replace(PRESET.augmentation, paste_prob=0.0))
    measure = Planned([0.5])
    validation = Validation(measure=measure, share=0.34, every=12)
    measured(labels, tmp_path / "run", validation, no_paste)
    assert len(measure.seen) == 2
    assert len(learned) == 4
    assert not measure.seen & learned
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert header["training"]["held_out"] == {"share": 0.34}
    assert header["training"]["labels"]["images"] == 4
    with pytest.raises(InputError, match=r"held_out\.share"):
        run(labels, tmp_path / "run", no_paste)


@pytest.mark.parametrize("setting", ["paper", "released"])
def test_self_training_is_measured_and_its_teacher_does_not_see_held_out_images(labels, tmp_path, monkeypatch, setting):
    from masktree.train.teacher_views import StrongLabelledDataset, TwoViewDataset

    seen: set[str] = set()
    for dataset in (TwoViewDataset, StrongLabelledDataset):

        def spy(self, packed, unpack=dataset.unpack):
            seen.update(packed.names)
            return unpack(self, packed)

        monkeypatch.setattr(dataset, "unpack", spy)
    run(labels, tmp_path / "first", replace(PRESET, optimisation=replace(OPTIMISATION, steps=2)))
    views = "plain" if setting == "paper" else "weak_and_strong"
    settings = replace(
        find_method("sohes", steps=4, batch_size=4, **CORRECTION), views=views, keep_student=setting == "released"
    )
    measure = Planned([0.2, 0.1])
    validation = Validation(measure=measure, share=0.34, every=2)
    correct(tmp_path / "first", labels, tmp_path / "run", settings, validation=validation)
    assert len(measure.seen) == 2
    assert len(seen) == 4
    assert not measure.seen & seen
    values = {line["step"]: line["val_planned"] for line in read_metrics(tmp_path / "run") if "val_planned" in line}
    assert values == {2: 0.2, 4: 0.1}
    assert json.loads((tmp_path / "run" / "best" / "config.json").read_text())["step"] == 2


def test_a_resumed_run_keeps_the_best_weights_so_far(labels, others, tmp_path):
    output = tmp_path / "run"
    with stop_at(7), pytest.raises(KeyboardInterrupt):
        measured(labels, output, Validation(measure=Planned([0.4]), labels=others, every=5))
    first = read_tensors(output / "best")
    measured(labels, output, Validation(measure=Planned([0.3, 0.4]), labels=others, every=5))
    again = read_tensors(output / "best")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert json.loads((output / "config.json").read_text())["record"]["best"]["step"] == 5
    run(labels, output, overwrite=True)
    assert not (output / "best" / "model.safetensors").exists()


def test_what_cannot_be_measured_on_is_refused(labels, others, tmp_path):
    measure = Planned([0.1, 0.1])
    with pytest.raises(InputError, match="label set of other images"):
        measured(labels, tmp_path / "run", Validation(measure=measure, labels=labels))
    for values in ({}, {"labels": others, "share": 0.1}, {"share": 1.0}):
        with pytest.raises(InputError, match="share of the images above 0"):
            Validation(measure=measure, **values)
    with pytest.raises(InputError, match="0 or more; got -1"):
        Validation(measure=measure, share=0.1, every=-1)
    with pytest.raises(InputError, match=r"such as 0\.05; got 5"):
        read_validation("5", 0)
    broken = make_labels(tmp_path / "broken", count=2)
    shutil.move(broken.parent / "photos" / "0.png", tmp_path / "0.png")
    validation = Validation(measure=measure, labels=broken, every=12)
    with pytest.raises(ImageError, match=r"0\.png"):
        measured(labels, tmp_path / "run", validation)
    measured(labels, tmp_path / "skipping", validation, skip_broken=True)
    assert measure.seen == {"1.png"}


def test_the_share_is_at_least_one_image_and_depends_on_the_seed():
    indices = np.arange(100, 140)
    kept, out = hold_out(indices, 0.1, 3)
    assert len(out) == 4
    assert sorted([*kept, *out]) == list(indices)
    assert list(hold_out(indices, 0.1, 3)[1]) == list(out) != list(hold_out(indices, 0.1, 4)[1])
    assert len(hold_out(indices, 0.001, 0)[1]) == 1
    assert len(hold_out(indices, 0.0, 0)[1]) == 0


def test_recall_of_pseudo_labels_is_that_of_annotations():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4], masks[1, 4:, :4] = True, True
    tree = MaskTree.from_masks(masks)
    from masktree.train.label_store import ImageLabels

    labels = ImageLabels("a.png", (8, 8), tree.rles, tree.parents, tree.levels, tree.scores)
    measure = PseudoLabelRecall()
    assert measure.summarise([measure.score(labels, tree, 0)]) == 1.0
    assert measure.summarise([measure.score(labels, tree[np.array([True, False])], 0)]) == 0.5


def test_from_the_command_line(labels, tmp_path, capsys):
    command = f"train {labels} -o {tmp_path / 'run'} --preset unsam --size tiny --image-size 64 --batch-size 2"
    command += " --device cpu --steps 2 --num-queries 4 --sample-every 0"
    assert cli.main([*command.split(), "--val-every", "1"]) == 2
    assert "--val-every with --val" in capsys.readouterr().err
    assert cli.main([*command.split(), "--val", "0.3", "--val-every", "1"]) == 0
    assert "ar1000 of pseudo-labels held out, at step 2" in capsys.readouterr().err
    best = tmp_path / "run" / "best"
    assert len(json.loads((best / "config.json").read_text())["score_calibration"]["raw"])
    assert predict.load_model(best, device="cpu")(read_image(labels.parent / "photos" / "0.png")).size == (64, 64)
