"""Options of reading in a run: notes once per kind, the record, resuming, and pictures drawn again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from masktree.cli import main
from masktree.errors import InputError
from masktree.io.read_options import ReadOptions
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.pictures import Pictures
from masktree.stages.segment import segment

CONFIG = SegmenterConfig(backbone="texture")


@pytest.fixture
def photos(tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    bands = np.zeros((48, 64, 5), np.uint16)
    bands[10:30, 10:30, 3] = 4000
    bands += rng.integers(0, 400, bands.shape).astype(np.uint16)
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(folder / name, bands, photometric="minisblack", planarconfig="contig")
    return folder


def test_a_run_says_and_records_how_it_read(tmp_path, photos, capsys):
    out = tmp_path / "out"
    first = segment([photos], tmp_path / "first", CONFIG, workers=1)
    assert first.notes == ("a.tif (and 1 more): 0, 1, 2 of 5 channels shown, 3, 4 not looked at; --channels chooses",)
    run = json.loads((tmp_path / "first" / "run.json").read_text())
    assert run["notes"]["channels"]["images"] == 2
    assert "read" not in run["config"]
    options = ReadOptions((3, 1), value_range=(1, 99))
    outcome = segment([photos], out, CONFIG, pictures=Pictures(), read_options=options, workers=1)
    assert (outcome.failures, outcome.notes) == ([], ())  # the channels were chosen
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["read"] == {"channels": [3, 1], "value_range": [1, 99]}
    image = json.loads((out / "a.json").read_text())["image"]
    assert image["read"] == run["config"]["read"]
    assert image["channels"] == ["3", "1"]
    assert np.shape(image["value_range"]) == (2, 2)
    again = segment([photos], out, CONFIG, pictures=Pictures(), read_options=options, workers=1)
    assert (again.completed, again.skipped) == (0, 2)
    with pytest.raises(InputError, match=r"got other values for read"):
        segment([photos], out, CONFIG, pictures=Pictures(), workers=1)
    picture = (out / "a.png").read_bytes()
    (out / "a.png").unlink()
    assert main(["draw", str(out)]) == 0
    assert (out / "a.png").read_bytes() == picture


def test_labels_are_made_with_the_options(tmp_path, photos):
    outcome = discover(photos, tmp_path / "labels", CONFIG, read_options=ReadOptions((3,)), workers=1)
    assert outcome.failures == []
    assert outcome.notes == ()
    index = json.loads((tmp_path / "labels" / "index.json").read_text())
    assert index["config"]["read"] == {"channels": [3]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--range", "9"], "two percentiles after --range, such as 1,99; got 9"),
        (["--channels", "0,1,2,3"], "one, two or three channels"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, photos, capsys, arguments, message):
    assert main(["segment", str(photos), "-o", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
