"""Every verb, killed at its changes of the file system or left without disk space, then run again.

What is on disk after the fault is complete, and what the same command makes of it equals an unbroken run to the bit.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.errors import FormatError
from masktree.labels import LabelSet
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.export import export
from masktree.stages.merge import merge
from masktree.stages.rounds import run_rounds
from masktree.stages.segment import segment
from masktree.train.options import RunOptions
from masktree.train.self_training_settings import RoundsSettings, find_method
from masktree.trees.masktree import MaskTree
from tests.faults.injection import CrashError, count_changes, crash_at, disk_full_after, files
from tests.stages.test_rounds import first_run
from tests.train.labelled import random_tree, write_labels
from tests.train.planted import CORRECTION, OPTIMISATION, PRESET, correct, make_labels, run
from tests.train.test_run_folder import equal_runs

# What a crash leaves unfinished, such as generators, is collected later, and complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = SegmenterConfig(method="masktree", backbone="texture")
TIMES = ("seconds", "seconds_per_image", "platform")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/a.png"):
        blocks = rng.integers(0, 256, (3, 4, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(blocks).save(folder / name)
    return folder


def without_times(value: Any) -> Any:
    """A JSON value without what the clock says."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    """Content of all result files; card.md is left out, which repeats the time of index.json."""
    return {
        name: without_times(json.loads(data)) if name.endswith(".json") else data
        for name, data in files(folder).items()
        if not name.endswith("card.md")
    }


def check_crashes(
    command: Callable[[Path], object], folder: Path, check: Callable[[Path], None], *, step: int = 1
) -> None:
    """Crash at every ``step``-th change, check what is there, run again, compare with an unbroken run."""
    command(folder / "warm-up")  # compiles kernels, which changes files of their cache
    number = count_changes(lambda: command(folder / "whole"))
    expected = results(folder / "whole")
    assert number > 3
    for change in range(1, number + 1, step):
        output = folder / f"crash-{change}"
        with crash_at(change), pytest.raises(CrashError):
            command(output)
        check(output)
        command(output)
        assert results(output) == expected, f"crash at change {change} of {number}"


def check_full_disk(command: Callable[[Path], object], folder: Path, check: Callable[[Path], None]) -> None:
    """Let the disk be full after each number of files, check what is there, free it, run again, compare."""
    command(folder / "whole")
    expected = results(folder / "whole")
    for number in range(20):
        output = folder / f"full-{number}"
        outcome = None
        with disk_full_after(number):
            outcome = command(output)
        if outcome is not None and not getattr(outcome, "failures", None):
            break  # all files found room
        check(output)
        command(output)
        assert results(output) == expected
    assert number > 2


def check_trees(output: Path) -> None:
    """Every tree there is complete, and an overlay has its tree."""
    for path in output.rglob("*.json"):
        if path.name not in ("run.json", "failures.json"):
            MaskTree.load(path)
    for path in output.rglob("*.png"):
        assert path.with_suffix(".json").exists()
        with Image.open(path) as picture:
            picture.load()


def check_labels(output: Path) -> None:
    """A label set that can be opened is whole; one that cannot says that it is unfinished."""
    if (output / "index.json").exists():
        labels = LabelSet.open(output, verify=True)
        assert len(list(labels)) == len(labels)
    else:
        with pytest.raises(FormatError, match=r"got (an unfinished one|none|nothing at|an empty folder)"):
            LabelSet.open(output)


def segment_photos(photos: Path, output: Path) -> object:
    return segment([photos], output, CONFIG, workers=1)


def discover_photos(photos: Path, output: Path) -> object:
    return discover(photos, output, CONFIG, shard_size=2, workers=1)


@pytest.fixture(scope="module")
def sources(photos, tmp_path_factory) -> list[Path]:
    """Two label sets of the photographs."""
    folder, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    names = ("a.png", "b.png", "sub/a.png")
    for name in ("first", "second"):
        write_labels(folder / name, photos, {image: random_tree((36, 48), 4, rng) for image in names})
    return [folder / "first", folder / "second"]


def test_segment_survives_a_crash_at_any_change(photos, tmp_path):
    check_crashes(partial(segment_photos, photos), tmp_path, check_trees)


def test_segment_survives_a_full_disk(photos, tmp_path):
    check_full_disk(partial(segment_photos, photos), tmp_path, check_trees)


def test_a_read_error_fails_one_photograph_and_is_tried_again(photos, tmp_path, monkeypatch):
    segment_photos(photos, tmp_path / "whole")
    read_bytes = Path.open

    def broken(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "b.png" and path.parent == photos and arguments[:1] == ("rb",):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        outcome = segment([photos], tmp_path / "out", CONFIG, workers=1)
    assert [Path(failure["path"]).name for failure in outcome.failures] == ["b.png"]
    assert "Input/output error" in outcome.failures[0]["error"]
    segment_photos(photos, tmp_path / "out")
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_discover_survives_a_crash_at_any_change(photos, tmp_path):
    check_crashes(partial(discover_photos, photos), tmp_path, check_labels)


def test_discover_survives_a_full_disk(photos, tmp_path):
    check_full_disk(partial(discover_photos, photos), tmp_path, check_labels)


def test_relabelling_a_changed_photograph_survives_a_crash(photos, tmp_path):
    """The finished set says that it is unfinished before its shard is replaced."""
    names = ("a.png", "b.png", "sub/a.png")
    changed = np.zeros((36, 48, 3), np.uint8)
    changed[8:20, 10:30] = 200

    def prepare(folder: Path) -> Path:
        (folder / "photos/sub").mkdir(parents=True)
        for name in names:
            (folder / "photos" / name).write_bytes((photos / name).read_bytes())
        discover_photos(folder / "photos", folder / "labels")
        Image.fromarray(changed).save(folder / "photos/b.png")
        return folder

    warm_up = prepare(tmp_path / "warm-up")
    discover_photos(warm_up / "photos", warm_up / "labels")  # compiles the kernels of flat images
    whole = prepare(tmp_path / "whole")
    number = count_changes(lambda: discover_photos(whole / "photos", whole / "labels"))
    expected = files(whole / "labels/annotations")
    assert b"[36, 48]" in expected["00000.json"]
    for change in range(1, number + 1, 3):
        folder = prepare(tmp_path / f"crash-{change}")
        with crash_at(change), pytest.raises(CrashError):
            discover_photos(folder / "photos", folder / "labels")
        check_labels(folder / "labels")
        discover_photos(folder / "photos", folder / "labels")
        LabelSet.open(folder / "labels", verify=True)
        assert files(folder / "labels/annotations") == expected


def test_merge_survives_a_crash_at_any_change(sources, photos, tmp_path):
    def command(output: Path) -> object:
        output.mkdir(exist_ok=True)
        return merge(sources, output / "merged", images=photos, workers=1)

    def check(output: Path) -> None:
        check_labels(output / "merged")

    check_crashes(command, tmp_path, check, step=1)


@pytest.mark.parametrize("to", ["sa1b", "yolo", "cvat"])
def test_export_survives_a_crash_at_any_change(sources, tmp_path, to):
    def command(output: Path) -> object:
        output.mkdir(exist_ok=True)
        return export(sources[0], output / ("masks.xml" if to == "cvat" else "masks"), to, workers=1)

    def check(output: Path) -> None:
        pass

    check_crashes(command, tmp_path, check, step=2)


def test_evaluate_writes_its_files_whole_or_not_at_all(photos, sources, tmp_path):
    segment_photos(photos, tmp_path / "trees")
    images, annotations = [], []
    for number, name in enumerate(("a", "b", "sub/a"), start=1):
        tree = MaskTree.load(tmp_path / "trees" / f"{name}.json")
        images.append({"id": number, "file_name": f"{name}.png", "height": tree.size[0], "width": tree.size[1]})
        annotations += tree.coco_annotations(image_id=number, first_id=1000 * number)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))

    def command(output: Path) -> int:
        written = ["--json", output / "result.json", "--html", output / "report.html"]
        given = ["--protocol", "ar", "--pred", tmp_path / "trees", "--gt", truth, "--images", photos, *written]
        return cli.main(["evaluate", *map(str, given)])

    assert command(tmp_path / "whole") == 0
    whole = files(tmp_path / "whole")
    number = count_changes(lambda: command(tmp_path / "counted"))
    for change in range(1, number + 1):
        output = tmp_path / f"crash-{change}"
        with crash_at(change), pytest.raises(CrashError):
            command(output)
        for name, data in files(output).items():
            assert len(data) > 0.9 * len(whole[name])
        assert command(output) == 0
        assert files(output).keys() == whole.keys()


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    return make_labels(tmp_path_factory.mktemp("planted"), count=4)


STEPS = 2
SHORT = replace(PRESET, optimisation=replace(OPTIMISATION, steps=STEPS))


@pytest.fixture(scope="module")
def first(planted, tmp_path_factory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("first") / "run"
    run(planted, output, SHORT)
    return output


def check_training_crashes(command: Callable[[Path], object], folder: Path, last: int) -> None:
    """Crash at an early change, in the middle, and at each of the ``last`` ones."""
    command(folder / "warm-up")  # writes the label store, which later runs find
    number = count_changes(lambda: command(folder / "whole"))
    for change in sorted({2, number // 2, *range(number - last + 1, number + 1)}):
        output = folder / f"crash-{change}"
        with crash_at(change), pytest.raises(CrashError):
            command(output)
        command(output)
        assert equal_runs(output, folder / "whole"), f"crash at change {change} of {number}"
        assert json.loads((output / "config.json").read_text())["step"] == STEPS


def test_train_survives_a_crash_at_any_change(planted, tmp_path):
    """The last changes, between checkpoint and model of the last save, are all tried."""
    check_training_crashes(lambda output: run(planted, output, SHORT, save_every=0), tmp_path, 7)


def test_self_train_survives_a_crash_at_any_change(planted, first, tmp_path):
    settings = find_method("sohes", steps=STEPS, batch_size=4, **CORRECTION)
    check_training_crashes(lambda output: correct(first, planted, output, settings, save_every=0), tmp_path, 3)


def test_a_full_disk_during_the_last_save_is_reported_and_made_good(planted, tmp_path):
    run(planted, tmp_path / "whole", SHORT)
    for number in range(1, 8, 2):
        output = tmp_path / f"full-{number}"
        with disk_full_after(number):
            run(planted, output, SHORT)
        run(planted, output, SHORT)
        assert equal_runs(output, tmp_path / "whole")


def test_rounds_survive_a_crash(planted, tmp_path):
    first = first_run(planted, tmp_path / "first")
    settings = RoundsSettings(steps=2, score_threshold=0.0, iou=0.5, rounds=1)
    options = RunOptions(device="cpu", sample_every=0)

    def command(output: Path) -> object:
        return run_rounds(first, planted, output, settings, options)

    number = count_changes(lambda: command(tmp_path / "whole"))
    for change in np.linspace(2, number, 5).astype(int):
        output = tmp_path / f"crash-{change}"
        with crash_at(change), pytest.raises(CrashError):
            command(output)
        command(output)
        assert equal_runs(output / "round-1/run", tmp_path / "whole/round-1/run")
        labels = "round-1/labels/annotations"
        assert files(output / labels) == files(tmp_path / "whole" / labels)
