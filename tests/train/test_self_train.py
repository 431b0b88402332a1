"""Self-training: its settings, its steps, how it goes on, what it refuses, and that it finds what labels miss."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from masktree import cli
from masktree.errors import FormatError, InputError, TrainingError, WeightsError
from masktree.models.build import build_model, read_tensors
from masktree.models.config import CascadeConfig, Mask2FormerConfig
from masktree.models.structures import Batch, Targets
from masktree.train.distributed import make_accelerator
from masktree.train.initialisation import Initialisation
from masktree.train.loop import TrainingState, WeightedBatch, fit
from masktree.train.optimiser import Optimisation, lr_factor
from masktree.train.presets import PRESETS, find_preset
from masktree.train.run_folder import RunFolder, read_metrics
from masktree.train.self_training_settings import METHODS, find_method
from tests.models.standins import CONFIG, TinyModel
from tests.oracles import released as released_oracle
from tests.train.planted import CORRECTION, OPTIMISATION, PRESET, correct, make_labels, run
from tests.train.test_run_folder import ROOT, equal_runs, records, stop_at

STEPS = 8
SETTINGS = find_method("sohes", steps=STEPS, batch_size=4, **CORRECTION)


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def first(labels, tmp_path_factory) -> Path:
    """The run that is corrected, as short as may be."""
    output = tmp_path_factory.mktemp("first") / "run"
    run(labels, output, replace(PRESET, optimisation=replace(OPTIMISATION, steps=4)))
    return output


@pytest.fixture(scope="module")
def unbroken(first, labels, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    assert correct(first, labels, output, SETTINGS) == STEPS
    return output


def same_teacher(a: Path, b: Path) -> bool:
    one, two = (torch.load(path / "checkpoint.pt", weights_only=True)["teacher"] for path in (a, b))
    assert torch.equal(one["thresholds"]["histogram"], two["thresholds"]["histogram"])
    assert torch.equal(one["monitor"].pop("history"), two["monitor"].pop("history"))
    return one["monitor"] == two["monitor"]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_methods_have_the_published_numbers():
    sohes, hassod = METHODS["sohes"], METHODS["hassod"]
    assert (hassod.score_threshold, hassod.label_weight, hassod.teacher_weight) == (0.7, (1.0, 0.0), (2.0, 3.0))
    assert (hassod.burn_in, hassod.mask_loss, hassod.paste) == (0, True, False)
    assert (sohes.score_threshold, sohes.label_weight, sohes.teacher_weight) == (None, (1.0, 1.0), (1.0, 1.0))
    after = hassod.optimisation(PRESETS["hassod"].optimisation)
    assert (after.lr, after.schedule, after.batch_size, after.ema_decay) == (0.01, "cosine", 8, 0.9996)
    assert after.result == "average"


def test_the_released_teacher_has_the_numbers_of_the_code():
    released = find_method("hassod", setting="released")
    assert (released.mask_loss, released.views, released.paste) == (False, "weak_and_strong", False)
    assert (released.label_weight, released.teacher_weight, released.score_threshold) == ((1.0, 0.0), (2.0, 3.0), 0.7)
    preset = released.preset(PRESETS["hassod"])
    o = preset.optimisation
    assert (o.steps, o.batch_size, o.lr, o.warmup_steps, o.result) == (2000, 8, 0.01, 1000, "last")
    assert (preset.model.drop_loss, preset.augmentation.paste_prob) == (False, 0.0)
    assert PRESETS["hassod"].model.drop_loss
    rates = [o.lr * lr_factor(step, o) for step in range(2000)]
    expected = [o.lr * released_oracle.warmup_cosine(step, 2000, 1000) for step in range(2000)]
    np.testing.assert_allclose(rates, expected, atol=1e-9)
    assert max(rates) == pytest.approx(0.005)
    assert np.argmax(rates) == 1000
    with pytest.raises(InputError, match="latter of the method hassod; got 'released' of sohes"):
        find_method("sohes", setting="released")


def test_a_run_is_gone_on_with_as_it_was_trained_unless_told_otherwise():
    before = PRESETS["sohes"].optimisation
    after = METHODS["sohes"].optimisation(before)
    assert (after.steps, after.batch_size, after.warmup_steps) == (25_000, 16, 0)
    assert after.lr == pytest.approx(5e-6)
    assert (after.optimiser, after.weight_decay, after.clip_norm, after.backbone_lr_factor) == (
        "adamw",
        0.05,
        0.01,
        0.1,
    )
    given = {"steps": 7, "batch_size": 3, "lr": 0.5, "ema_decay": 0.5, "accumulation_steps": 3}
    after = find_method("hassod", **given).optimisation(before)
    assert {name: getattr(after, name) for name in given} == given
    assert after.warmup_steps == 0
    assert find_method(None, "hassod") == METHODS["hassod"]
    assert find_method(None, "unsam", lr=None) == METHODS["sohes"]


def test_weights_follow_half_a_cosine_after_the_burn_in():
    settings = find_method("hassod", burn_in=10)
    for step in range(10):
        assert settings.weights(step, 30) == (1.0, 0.0)
    for step in range(10, 30):  # formulas of the code of HASSOD
        label = 0.5 * (1 + math.cos(math.pi * (step - 10) / 20))
        assert settings.weights(step, 30) == pytest.approx((label, 2 + 1 - label))
    assert METHODS["sohes"].weights(3, 9) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"score_threshold": 1.0}, r"score threshold in \[0, 1\)"),
        ({"label_weight": (1.0, -1.0)}, "loss weights of 0 or more"),
        ({"teacher_weight": (0.0, 0.0)}, "a teacher weight above 0"),
        ({"burn_in": -1}, "burn-in of 0 steps or more"),
    ],
)
def test_values_out_of_range_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        find_method("sohes", **values)


def test_other_methods_and_endless_burn_ins_are_refused():
    with pytest.raises(InputError, match="expected a method sohes, hassod; got 'freesolo'"):
        find_method("freesolo")
    with pytest.raises(InputError, match="shorter than the run; got 9 of 9 steps"):
        find_method("sohes", burn_in=9, steps=9).optimisation(OPTIMISATION)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_corrected_run_is_a_run_with_a_record_of_its_teacher(first, unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert {"config.json", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "thresholds.png"} <= names
    found = records(unbroken)
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    teacher = {"label_weight", "teacher_weight", "collapsed"}
    teacher |= {f"{what}_{size}" for what in ("threshold", "kept") for size in ("small", "medium", "large")}
    assert set(found[0]) == {"step", "lr", "loss", "mask", "teacher_mask", "grad_norm", "num_masks"} | teacher
    assert found[0]["loss"] == pytest.approx(found[0]["mask"] + found[0]["teacher_mask"])
    assert found[0]["kept_small"] > 0
    header = json.loads((unbroken / "config.json").read_text())
    assert header["training"]["init_sha256"] == Initialisation.open(first).sha256
    assert header["training"]["self_training"]["method"] == "sohes"
    assert header["training"]["augmentation"]["scale"] == list(PRESET.augmentation.scale)
    assert (header["training"]["optimisation"]["schedule"], header["step"]) == ("cosine", STEPS)
    assert header["record"]["loaded_tensors"] == "all 6 tensors"


def test_the_teacher_begins_as_the_run_ended_and_follows_slowly(first, labels, tmp_path):
    """After one step it is the fixed mean of the earlier run's weights and the student's."""
    correct(first, labels, tmp_path / "run", replace(SETTINGS, steps=1, ema_decay=0.75))
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    for name, before in read_tensors(first).items():
        expected = 0.75 * before + 0.25 * content["model"][name]
        torch.testing.assert_close(content["ema_model"][name], expected)
        assert not torch.equal(content["model"][name], before)


def test_the_first_teacher_teaches_what_the_run_found(first, labels, tmp_path):
    """With the labels' weight at 0, the student learns from the teacher alone; in the burn-in from the labels alone."""
    alone = replace(SETTINGS, steps=2, burn_in=1, label_weight=(0.0, 0.0), teacher_weight=(2.0, 2.0))
    correct(first, labels, tmp_path / "run", alone)
    one, two = records(tmp_path / "run")
    assert (one["label_weight"], one["teacher_weight"], one["loss"], one["grad_norm"]) == (0, 0, 0, 0)
    assert "teacher_mask" not in one
    assert two["loss"] == pytest.approx(2 * two["teacher_mask"])
    assert two["teacher_mask"] > 0


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(first, labels, unbroken, tmp_path):
    output = tmp_path / "run"
    with stop_at(3), pytest.raises(KeyboardInterrupt):
        correct(first, labels, output, SETTINGS)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["step"] == 3
    assert correct(first, labels, output, SETTINGS) == STEPS - 3
    assert equal_runs(output, unbroken)
    assert same_teacher(output, unbroken)
    assert correct(first, labels, output, SETTINGS) == 0


def test_a_killed_run_goes_on_as_if_it_had_not_been(first, labels, unbroken, tmp_path):
    """The record is ahead of the checkpoint, as after a kill; what ends the run here is caught by nothing."""
    output, log = tmp_path / "run", RunFolder.log

    def killed(self, record):
        log(self, record)
        if record["step"] == 4:
            raise SystemExit

    with mock.patch.object(RunFolder, "log", killed), pytest.raises(SystemExit):
        correct(first, labels, output, SETTINGS, save_every=0)
    assert torch.load(output / "checkpoint.pt", weights_only=True)["step"] == 3
    assert len(records(output)) == 4
    assert correct(first, labels, output, SETTINGS) == STEPS - 3
    assert equal_runs(output, unbroken)
    assert same_teacher(output, unbroken)


def test_two_processes_are_one(first, labels, unbroken, tmp_path):
    """Each with half of both batches: losses, masks and thresholds are those of one."""
    output = tmp_path / "run"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "tests.train.planted")
    command = [sys.executable, *launch, labels, output, STEPS, 4, 1, first]
    found = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads((output / "config.json").read_text())["record"]["processes"] == 2
    for one, two in zip(records(unbroken), records(output), strict=True):
        assert one["num_masks"] == two["num_masks"]
        assert one["kept_small"] == two["kept_small"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_the_released_setting_learns_both_views_and_keeps_the_student(first, labels, tmp_path):
    settings = replace(SETTINGS, views="weak_and_strong", keep_student=True, whole_cosine=True)
    assert correct(first, labels, tmp_path / "run", settings) == STEPS
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    saved = read_tensors(tmp_path / "run")
    assert all(torch.equal(value, saved[name]) for name, value in state["model"].items())
    assert any(not torch.equal(value, saved[name]) for name, value in state["ema_model"].items())
    masks = [record["num_masks"] for record in records(tmp_path / "run")]
    assert all(count >= 2 * 4 for count in masks)  # four labelled images in two views, of two masks each at most
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert training["self_training"]["views"] == "weak_and_strong"
    with pytest.raises(InputError, match=r"self_training.views \('weak_and_strong' there, 'plain' now\)"):
        correct(first, labels, tmp_path / "run", SETTINGS)


def test_a_teacher_gone_blind_ends_the_run_and_leaves_the_checkpoint(first, labels, tmp_path):
    """No score of the model is that high; a window of two steps sees it."""
    blind = replace(SETTINGS, score_threshold=0.999)
    with pytest.raises(TrainingError, match=r"masks from the teacher; got 0 per image .* starting again from .*run"):
        correct(first, labels, tmp_path / "run", blind, save_every=0, collapse_window=3)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert [record["teacher_mask"] for record in records(tmp_path / "run")] == [0, 0]


def test_other_settings_and_another_source_are_refused_by_name(first, labels, unbroken, tmp_path):
    with pytest.raises(InputError, match=r"self_training.mask_loss \(True there, False now\)"):
        correct(first, labels, unbroken, replace(SETTINGS, mask_loss=False))
    other = tmp_path / "other"
    run(labels, other, replace(PRESET, optimisation=replace(OPTIMISATION, steps=2)))
    with pytest.raises(InputError, match=r"init_sha256 .* there, .* now"):
        correct(other, labels, unbroken, SETTINGS)


def test_what_is_no_run_or_the_same_one_is_refused(first, labels, tmp_path):
    with pytest.raises(InputError, match="another folder than that of the earlier run"):
        correct(first, labels, first / ".." / first.name, SETTINGS)
    with pytest.raises(WeightsError, match="the folder of a trained model"):
        correct(tmp_path, labels, tmp_path / "out", SETTINGS)
    model = tmp_path / "model"
    model.mkdir()
    header = json.loads((first / "config.json").read_text())
    (model / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    (model / "config.json").write_text(json.dumps({k: header[k] for k in ("format", "version", "model")}))
    with pytest.raises(InputError, match="a model without record of its training"):
        correct(model, labels, tmp_path / "out", SETTINGS)
    header["training"]["optimisation"]["lr"] = "fast"
    (model / "config.json").write_text(json.dumps(header))
    with pytest.raises(FormatError, match="expected the settings of a training run"):
        correct(model, labels, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_taken_with_a_warning(first, tmp_path):
    assert Initialisation.open(first).unfinished_warning() is None
    half = replace(Initialisation.open(first), header={"step": 3, "training": {"optimisation": {"steps": 4}}})
    assert "was stopped at step 3 of 4" in half.unfinished_warning()


# --- parts of a step --------------------------------------------------------------------------------------------------


def batch_of(*counts: int, size: int = 64) -> Batch:
    draw = torch.Generator().manual_seed(len(counts))
    targets = []
    for count in counts:
        masks = torch.zeros(count, size, size, dtype=torch.bool)
        for mask in masks:
            y, x = torch.randint(0, size // 2, (2,), generator=draw).tolist()
            mask[y : y + 20, x : x + 20] = True
        targets.append(Targets(masks, torch.full((count,), -1), torch.zeros(count, dtype=torch.int64)))
    images = torch.rand(len(counts), 3, size, size, generator=draw)
    return Batch(images, None, targets, torch.arange(len(counts)), [str(i) for i in range(len(counts))])


def gradient_of(part: WeightedBatch) -> tuple[dict[str, float], torch.Tensor]:
    torch.manual_seed(0)

    class Double(TinyModel):
        def losses(self, batch, masks=None):
            found = super().losses(batch, masks)
            return found | {"other": self.masks.bias.square().sum() + 1}

    settings = Optimisation(optimiser="sgd", lr=1.0, weight_decay=0.0, steps=1, batch_size=1, ema_decay=0.0)
    state = TrainingState.new(Double(CONFIG), settings)
    before = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach().clone()
    accelerator = make_accelerator(torch.device("cpu"), "float32")
    [record] = fit(state, ["x"], accelerator, settings, device=torch.device("cpu"), make_batches=lambda _: [part])
    return record, before - torch.nn.utils.parameters_to_vector(state.model.parameters()).detach()


def test_losses_left_out_are_recorded_but_not_learned():
    batch = batch_of(1, 2)
    both, moved = gradient_of(WeightedBatch(batch))
    left, moved_by_other = gradient_of(WeightedBatch(batch, ignored_losses=frozenset({"mask"})))
    assert (left["mask"], left["other"]) == (both["mask"], both["other"])
    assert left["loss"] == pytest.approx(both["other"])
    _, moved_by_mask = gradient_of(WeightedBatch(batch, ignored_losses=frozenset({"other"})))
    torch.testing.assert_close(moved_by_mask + moved_by_other, moved)
    assert moved_by_mask.abs().sum() > 0
    assert moved_by_other.abs().sum() > 0


@pytest.mark.parametrize(
    "config",
    [
        Mask2FormerConfig(
            image_size=64,
            hidden_dim=32,
            num_heads=2,
            feedforward_dim=32,
            pixel_decoder_layers=1,
            decoder_layers=1,
            num_queries=6,
        ),
        CascadeConfig(
            backbone="embedded", image_size=64, hidden_dim=16, box_head_dim=16, mask_head_layers=1, roi_batch_size=8
        ),
    ],
)
def test_images_without_teachers_masks_teach_nothing(config):
    """Of a batch the gradient is that of its other images, whose part in the means stays; alone it is 0."""
    torch.manual_seed(0)
    model = build_model(config, weights=False)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(batch: Batch, masks: float) -> torch.Tensor:
        total = torch.stack(list(model.losses(batch, torch.tensor(masks)).values())).sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return torch.cat(
            [(g if g is not None else torch.zeros_like(p)).flatten() for g, p in zip(found, parameters, strict=True)]
        )

    cues = torch.zeros(2, *_cues_shape(model)) if model.wants_cues else None
    mixed = replace(batch_of(2, 0), cues=cues)
    silent = replace(mixed, learn_from_empty=False)
    assert not torch.allclose(gradient(mixed, 2.0), gradient(silent, 2.0), atol=1e-6)
    changed = replace(silent, images=torch.cat([silent.images[:1], torch.rand_like(silent.images[:1])]))
    torch.testing.assert_close(gradient(changed, 2.0), gradient(silent, 2.0), rtol=1e-3, atol=1e-5)
    empty = replace(batch_of(0, 0), cues=cues, learn_from_empty=False)
    assert gradient(empty, 0.0).abs().max() == 0
    assert gradient(replace(empty, learn_from_empty=True), 0.0).abs().max() > 0


def _cues_shape(model: object) -> tuple[int, int, int]:
    from masktree.backbones.texture import NUM_CUES

    return NUM_CUES, 32, 32


# --- beginning with another run ---------------------------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_another(first, labels, tmp_path):
    output, short = tmp_path / "run", replace(PRESET, optimisation=replace(OPTIMISATION, steps=1, lr=1e-30))
    run(labels, output, short, init_from=first)
    weights = torch.load(output / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.allclose(weights[name], value) for name, value in read_tensors(first).items())
    header = json.loads((output / "config.json").read_text())
    assert (header["training"]["init_sha256"], header["record"]["loaded_tensors"]) == (
        Initialisation.open(first).sha256,
        "all 6 tensors",
    )
    assert run(labels, output, short, init_from=first) == 0
    with pytest.raises(InputError, match=r"init_sha256 \('[0-9a-f]{64}' there, None now\)"):
        run(labels, output, short)


def test_of_another_architecture_what_fits_is_taken_if_the_pyramid_does(tmp_path):
    from masktree.models.build import save_pretrained

    shape = {
        "image_size": 64,
        "hidden_dim": 32,
        "num_heads": 2,
        "feedforward_dim": 32,
        "pixel_decoder_layers": 1,
        "decoder_layers": 1,
    }
    torch.manual_seed(0)
    source = build_model(Mask2FormerConfig(kind="sohes", num_queries=6, **shape), weights=False)
    save_pretrained(source, tmp_path)
    target = build_model(Mask2FormerConfig(kind="unsam", num_queries=5, **shape), weights=False)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    said = Initialisation.open(tmp_path).load_into(target)
    given, after = source.state_dict(), target.state_dict()
    fitting = [name for name, value in after.items() if name in given and given[name].shape == value.shape]
    assert all(torch.equal(after[name], given[name]) for name in fitting)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in fitting)
    assert 0 < len(after) - len(fitting) < 5  # what belongs to a query
    assert said.startswith(f"{len(fitting)} of {len(after)} tensors (all of pyramid, ")
    assert "some of decoder (" in said
    other = build_model(Mask2FormerConfig(kind="unsam", num_queries=6, backbone="embedded", **shape), weights=False)
    other.add_module("pyramid", torch.nn.Linear(2, 2))
    with pytest.raises(
        WeightsError, match=r"feature pyramid; got no fitting 'pyramid.weight' and 1 more.*--backbone emb"
    ):
        Initialisation.open(tmp_path).load_into(other)


def test_a_run_of_another_size_is_told_the_size_that_fits_before_anything_is_read(tmp_path, capsys):
    from masktree.models.build import save_pretrained

    tiny = build_model(find_preset("sohes", "tiny").model, weights=False)
    save_pretrained(tiny, tmp_path / "tiny")
    start = Initialisation.open(tmp_path / "tiny")
    for preset in (find_preset("sohes", "tiny"), find_preset("unsam", "tiny", image_size=256, num_queries=50)):
        assert start.check(preset, build_model) is None
    advice = start.check(find_preset("promptable", "small"), build_model)
    assert advice is not None
    assert "is as wide as --size tiny, which would start with 139 of 226 tensors (all of pyramid, " in advice
    assert "this run starts with 70 of 258 tensors (all of pyramid; none of " in advice
    cascade = build_model(find_preset("hassod", "tiny").model, weights=False)
    save_pretrained(cascade, tmp_path / "cascade")  # has nothing but the backbone in common with the others
    assert Initialisation.open(tmp_path / "cascade").check(find_preset("sohes", "small"), build_model) is None


# --- the verb ---------------------------------------------------------------------------------------------------------


def masktree(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_verb_corrects_real_models(labels, tmp_path, capsys):
    small = ("--size", "tiny", "--image-size", 64, "--batch-size", 2, "--device", "cpu", "--sample-every", 0)
    assert masktree("train", labels, "-o", tmp_path / "a", "--num-queries", 8, *small, "--steps", 1) == 0
    further = ("--steps", 2, "--score-threshold", 0.05, "--no-teacher-mask-loss", "--device", "cpu")
    command = ("self-train", tmp_path / "a", labels, "-o", tmp_path / "b", *further)
    capsys.readouterr()
    assert masktree(*command) == 0
    said = capsys.readouterr()
    assert "2 steps done" in said.out
    assert "initialised with all" in said.err
    assert "tensors of" in said.err
    assert (tmp_path / "b" / "samples" / "step-000002.png").exists()
    assert masktree("info", "model", tmp_path / "b") == 0
    shown = capsys.readouterr().out
    assert Initialisation.open(tmp_path / "a").sha256 in shown
    assert "self_training.method" in shown
    photo = labels.parent / "photos" / "0.png"
    assert masktree("segment", photo, "-o", tmp_path / "out", "--model", tmp_path / "b", "--device", "cpu") == 0
    assert (
        masktree(
            "self-train", tmp_path / "a", labels, "-o", tmp_path / "b", "--score-threshold", 0.1, "--device", "cpu"
        )
        == 2
    )
    assert "self_training.score_threshold (0.05 there, 0.1 now)" in capsys.readouterr().err
    assert masktree("train", labels, "-o", tmp_path / "c", "--preset", "hassod", *small, "--steps", 1) == 0
    hassod = ("self-train", tmp_path / "c", labels, "-o", tmp_path / "d", "--steps", 1, "--score-threshold", 0.02)
    assert masktree(*hassod, "--device", "cpu", "--precision", "bfloat16", "--sample-every", 0) == 0
    [record] = read_metrics(tmp_path / "d")
    assert np.isfinite(record["loss"])
    assert (record["label_weight"], record["teacher_weight"]) == (1, 2)
    assert json.loads((tmp_path / "d" / "config.json").read_text())["training"]["augmentation"]["paste_prob"] == 0
