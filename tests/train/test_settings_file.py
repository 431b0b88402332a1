"""Settings of a run from a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from masktree import cli
from masktree.errors import FormatError, InputError
from masktree.models.config import CascadeConfig
from masktree.train.presets import PRESETS, find_preset
from masktree.train.settings_file import read_settings, with_settings

TEXT = """
[model]
norm = "batch"
roi_positive_fraction = 1
drop_loss = false
[optimisation]
weight_decay = 0.5
milestones = [0.25, 1]
warmup_steps = 7
lr = 3
[augmentation]
scale = [0.5, 2]
short_sides = [100, 200, 256]
max_side = 256
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_values_of_a_file_replace_those_of_the_preset_and_options_replace_both(tmp_path):
    settings = read_settings(write(tmp_path, TEXT))
    preset = find_preset("hassod", "tiny", settings=settings, lr=0.25, steps=9)
    model, o, augmentation = preset.model, preset.optimisation, preset.augmentation
    assert isinstance(model, CascadeConfig)
    assert (model.norm, model.roi_positive_fraction, model.drop_loss) == ("batch", 1.0, False)
    assert isinstance(model.roi_positive_fraction, float)
    assert (o.weight_decay, o.milestones, o.warmup_steps, o.lr, o.steps) == (0.5, (0.25, 1.0), 7, 0.25, 9)
    assert (augmentation.scale, augmentation.short_sides) == ((0.5, 2.0), (100, 200, 256))
    before = find_preset("hassod", "tiny")
    assert model.backbone == before.model.backbone
    assert o.batch_size == before.optimisation.batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\nlr = 1.0", "the tables model, optimisation, augmentation; got optimizer"),
        ("lr = 1.0", "the tables model, optimisation, augmentation; got lr"),
        ("[optimisation]\nlearning = 1.0", r"a setting of \[optimisation\] for this preset; got learning"),
        ("[optimisation]\nwarmup_step = 1", "got warmup_step; did you mean warmup_steps?"),
        ("[model]\nnum_queries = 5", "got num_queries; "),
        ("[model]\nkind = 'sohes'", "got kind; "),
        ("[optimisation]\nsteps = 1.5", "optimisation.steps as a value of type int; got 1.5"),
        ("[optimisation]\nsteps = true", "optimisation.steps as a value of type int; got True"),
        ("[optimisation]\nschedule = 'cos'", "optimisation.schedule to be one of constant, cosine, step, whole_cosine"),
        ("[augmentation]\nscale = [1.0]", "augmentation.scale as a list of numbers"),
        ("[augmentation]\nflip_prob = 2.0", r"flip_prob in \[0, 1\]"),
        ("[optimisation]\nbatch_size = 0", "batch_size of at least 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        find_preset("hassod", "tiny", settings=read_settings(write(tmp_path, text)))


def test_files_that_are_no_toml_are_refused(tmp_path):
    with pytest.raises(FormatError, match="expected TOML"):
        read_settings(write(tmp_path, "lr: 1"))
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="expected TOML"):
        read_settings(tmp_path / "my.toml")
    with pytest.raises(InputError, match="No such file"):
        read_settings(tmp_path / "other.toml")


@pytest.mark.parametrize("kind", PRESETS)
def test_all_values_of_a_preset_are_a_file_that_is_read_back(kind, tmp_path, capsys):
    assert cli.main(["info", "preset", f"{kind}-base"]) == 0
    (tmp_path / "all.toml").write_text(capsys.readouterr().out)
    settings = read_settings(tmp_path / "all.toml")
    preset = find_preset(kind, "base")
    assert with_settings(preset, settings) == preset
    assert with_settings(find_preset(kind, "tiny"), settings) == preset
    values = sum(len(table) for table in settings.values())
    assert values > 40


def test_an_unknown_preset_is_refused(capsys):
    assert cli.main(["info", "preset", "hasod-base"]) == 2
    assert "expected a preset sohes" in capsys.readouterr().err
    assert cli.main(["info", "preset"]) == 2
