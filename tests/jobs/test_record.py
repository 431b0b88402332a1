from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from masktree.errors import InputError
from masktree.io.photos import Photo
from masktree.jobs import record as runs
from masktree.jobs.batch import JobResult
from masktree.jobs.record import RunRecord

CONFIG = {"method": "sohes", "options": {"thresholds": (0.4, 0.2)}, "overlay": True}
WEIGHTS = {"name": "painted", "sha256": "abc"}


def result(name: str, seconds: float = 1.0, error: str | None = None) -> JobResult:
    return JobResult(Photo(Path(f"{name}.jpg"), name), seconds, error)


def make_result(folder: Path, **options) -> None:
    record = begin(folder, **options)
    record.add(result("a"))
    record.close("complete")


def begin(folder: Path, config=CONFIG, weights=WEIGHTS, overwrite=False, **options) -> RunRecord:
    return RunRecord.open(folder, config, weights, overwrite=overwrite, **options)


def content(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_run_is_recorded_from_beginning_to_end(tmp_path):
    folder = tmp_path / "out"
    record = begin(folder)
    record.write()
    assert content(folder)["status"] == "running"
    record.add(result("a", 1.5))
    record.add(result("b", 2.5))
    record.add(result("c", error="expected an image"))
    record.close("complete")
    written = content(folder)
    assert written["status"] == "complete"
    assert written["seconds"] == {"a": 1.5, "b": 2.5}
    assert (written["images"], written["failed"], written["seconds_per_image"]) == (2, 1, 2.0)
    assert written["config"]["options"] == {"thresholds": [0.4, 0.2]}
    assert written["weights"] == WEIGHTS
    assert json.loads((folder / "failures.json").read_text()) == [{"path": "c.jpg", "error": "expected an image"}]


def test_a_continued_run_keeps_the_seconds_of_the_first(tmp_path):
    record = begin(tmp_path)
    record.add(result("a", 1.5))
    record.close("interrupted")
    record = begin(tmp_path)  # tuples of the configuration are lists in the file, and still the same
    record.add(result("b", 0.5))
    record.close("complete")
    assert content(tmp_path)["seconds"] == {"a": 1.5, "b": 0.5}


def test_failures_are_of_the_last_run_and_the_file_goes_when_there_are_none(tmp_path):
    record = begin(tmp_path)
    record.add(result("a", error="broken"))
    record.close("complete")
    assert (tmp_path / "failures.json").exists()
    record = begin(tmp_path)
    record.add(result("a"))
    record.close("complete")
    assert not (tmp_path / "failures.json").exists()
    assert content(tmp_path)["failed"] == 0


@pytest.mark.parametrize(
    ("config", "weights", "named"),
    [
        (CONFIG | {"method": "unsam"}, WEIGHTS, r"method \('sohes' there, 'unsam' now\)"),
        (CONFIG | {"options": {"thresholds": (0.4, 0.1)}}, WEIGHTS, "options"),
        (CONFIG | {"seed": 1}, WEIGHTS, r"seed \(None there, 1 now\)"),
        ({k: v for k, v in CONFIG.items() if k != "overlay"}, WEIGHTS, "overlay"),
        (CONFIG, WEIGHTS | {"sha256": "abd"}, "weights"),
        (CONFIG, WEIGHTS | {"name": "other"}, "weights"),
    ],
)
def test_another_configuration_is_refused_and_the_record_stays(tmp_path, config, weights, named):
    make_result(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(
        InputError, match=rf"got other values for {named}.*choose another output folder, or --overwrite"
    ):
        begin(tmp_path, config, weights)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("status", ["running", "interrupted", "complete"])
def test_a_run_without_results_does_not_bind_the_next_one(tmp_path, status):
    record = begin(tmp_path)
    record.add(result("b", error="expected an image"))
    record.close(status)
    assert begin(tmp_path).is_resumed
    corrected = begin(tmp_path, CONFIG | {"method": "unsam"})
    assert not corrected.is_resumed
    corrected.add(result("b"))
    with pytest.raises(InputError, match="method"):
        begin(tmp_path)


def test_all_changed_keys_are_named(tmp_path):
    make_result(tmp_path)
    with pytest.raises(InputError, match=r"method .*, weights "):
        begin(tmp_path, CONFIG | {"method": "unsam"}, WEIGHTS | {"sha256": "x"})


def test_free_keys_may_change_and_overwriting_starts_anew(tmp_path):
    record = begin(tmp_path)
    record.add(result("a"))
    record.close("complete")
    changed = begin(tmp_path, CONFIG | {"overlay": False}, ignored_keys=frozenset({"overlay"}))
    assert changed.seconds == {"a": 1.0}
    changed.write()
    assert content(tmp_path)["config"]["overlay"] is False
    anew = begin(tmp_path, CONFIG | {"method": "unsam"}, overwrite=True)
    assert anew.seconds == {}
    anew.write()
    assert content(tmp_path)["config"]["method"] == "unsam"


def test_the_files_follow_every_few_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    record = begin(tmp_path)
    record.write()
    record.add(result("a"))
    assert content(tmp_path)["images"] == 1
    record.add(result("b"))
    assert content(tmp_path)["images"] == 1
    now[0] += 11
    record.add(result("c"))
    assert content(tmp_path)["images"] == 3


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    record = begin(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "write_json", full)
    record.add(result("a"))
    assert record.seconds == {"a": 1.0}
    with pytest.raises(OSError, match="No space left"):
        record.close("complete")


def test_nothing_done_is_no_division_by_zero(tmp_path):
    begin(tmp_path).close("complete")
    assert content(tmp_path)["seconds_per_image"] == 0


def test_versions_name_what_results_depend_on(monkeypatch):
    found = runs.package_versions()
    assert {"python", "masktree", "numpy", "torch", "numba"} <= found.keys()
    monkeypatch.setattr(runs, "_PACKAGES", ("surely-not-installed",))
    assert runs.package_versions()["surely-not-installed"] == "not installed"
