"""Files that once ended in another error than masktree's own: made here, and the samples of the reference data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masktree.errors import MasktreeError
from masktree.evaluate.harness import evaluate
from masktree.evaluate.predictions import open_predictions
from masktree.io.files import sha256_of
from masktree.jobs.record import RunRecord
from masktree.labels import LabelSet
from masktree.models.build import read_model
from masktree.models.config import Mask2FormerConfig, to_json
from masktree.models.saved import read_config
from masktree.train.label_store import LabelStore
from masktree.trees.masktree import MaskTree
from tests.evaluate.planted import results, tree, write_ground_truth, write_trees
from tests.train.labelled import write_collection


def read_tree(path: Path, folder: Path) -> None:
    MaskTree.load(path)


def read_ground_truth(path: Path, folder: Path) -> None:
    predictions = folder / "results.json"
    predictions.write_text(json.dumps(results()))
    evaluate("ar", predictions, path, workers=1)


def read_predictions(path: Path, folder: Path) -> None:
    evaluate("ar", path, write_ground_truth(folder), workers=1)


def read_model_folder(path: Path, folder: Path) -> None:
    shutil.copy(path, folder / "config.json")
    read_config(folder)
    read_model(folder)


def read_run(path: Path, folder: Path) -> None:
    trees = write_trees(folder / "trees")
    shutil.copy(path, trees / "run.json")
    open_predictions(trees)
    RunRecord.open(trees, {}, {}, overwrite=False)


def read_labels(path: Path, folder: Path) -> None:
    """The file is a shard, or the run record of a label set."""
    write_collection(folder, {"a.png": (20, 30)})
    labels = LabelSet.open(folder / "labels").index
    if "status" in path.read_text(errors="replace")[:20]:
        shutil.copy(path, folder / "labels" / "run.json")
        RunRecord.open(folder / "labels", {}, {}, overwrite=False)
        return
    shard = labels["shards"][0]
    shutil.copy(path, folder / "labels" / shard["file"])
    shard["sha256"] = sha256_of(path)
    (folder / "labels" / "index.json").write_text(json.dumps(labels))
    opened = LabelSet.open(folder / "labels", verify=True)
    failed: list[MasktreeError] = []
    for use in (lambda: list(opened), lambda: LabelStore.of(opened), lambda: open_predictions(folder / "labels")):
        try:
            use()
        except MasktreeError as error:
            failed.append(error)
    if failed:
        raise failed[0]


READERS: dict[str, Callable[[Path, Path], None]] = {
    "tree": read_tree,
    "gt": read_ground_truth,
    "pred": read_predictions,
    "model": read_model_folder,
    "run": read_run,
    "lab": read_labels,
}
SAMPLES = (
    *("gt_247", "lab_0", "lab_109", "lab_15", "model_248", "model_65", "pred_151", "pred_172", "run_11", "run_36"),
    "tree_248",
)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_end_in_an_error_of_masktree(shared: Path, tmp_path: Path, sample: str) -> None:
    path = shared / "cases" / "faults" / f"{sample}.bin"
    if not path.exists():
        pytest.skip("The samples are not on this machine.")
    with pytest.raises(MasktreeError, match=r"expected .+; got |differs from the hash"):
        READERS[sample.partition("_")[0]](path, tmp_path)


def documents(folder: Path) -> dict[str, Any]:
    """A good document of each kind."""
    tree().save(folder / "tree.json", image={"file_name": "a.jpg"})
    record = RunRecord(folder, {"method": "masktree"}, {"name": "embedded"}, seconds={"a": 1.0})
    record.close("complete")
    labels = write_collection(folder, {"a.png": (20, 30)})
    shard = labels.folder / labels.index["shards"][0]["file"]
    return {
        "tree": json.loads((folder / "tree.json").read_text()),
        "gt": json.loads(write_ground_truth(folder).read_text()),
        "pred": results(),
        "model": {"format": "masktree-model", "version": 1, "model": to_json(Mask2FormerConfig())},
        "run": json.loads((folder / "run.json").read_text()),
        "lab": json.loads(shard.read_text()),
    }


# kind, keys that lead to a value, and the JSON text there; None removes the key
FAULTS: tuple[tuple[str, tuple[Any, ...], str | None], ...] = (
    ("tree", ("image", "height"), "9" * 5001),
    ("tree", ("masks", 0, "score"), "1e999"),
    ("tree", ("masks", 0, "score"), "9" * 400),
    ("tree", ("masks", 0, "id"), "[]"),
    ("tree", ("masks", 0, "level"), None),
    ("tree", ("masks",), "[" * 900 + "]" * 900),
    ("gt", ("annotations", 0, "segmentation", "counts"), f"[92, {'9' * 5001}]"),
    ("gt", ("annotations", 0, "segmentation", "counts"), f"[92, {'9' * 400}]"),
    ("gt", ("annotations", 0, "segmentation"), "[[5, 5, 1e999, 5, 15, 15]]"),
    ("gt", ("annotations", 0, "bbox"), f"[5, 5, 1, {'9' * 400}]"),
    ("gt", ("images", 0, "file_name"), '"\\u0000"'),
    ("pred", (0, "score"), "9" * 400),
    ("pred", (0, "score"), "-Infinity"),
    ("pred", (0, "bbox"), "[1e999, 0, 1, 1]"),
    ("pred", (0, "segmentation", "size"), "[-40, -60]"),
    ("pred", (0, "image_id"), "{}"),
    ("model", ("model", "num_queries"), "9" * 400),
    ("model", ("model", "kind"), "[]"),
    ("model", ("step",), "[1000000000, 1000000000]"),
    ("model", ("record",), "[]"),
    ("run", ("seconds", "a"), "-Infinity"),
    ("run", ("seconds", "a"), '"0"'),
    ("run", ("seconds", "a"), "1e999"),
    ("run", ("seconds",), None),
    ("lab", ("images", 0, "id"), None),
    ("lab", ("images", 0, "height"), "1e999"),
    ("lab", ("images", 0, "file_name"), '"../a.png"'),
    ("lab", ("annotations", 0, "score"), None),
    ("lab", ("annotations", 0, "score"), "9" * 400),
    ("lab", ("annotations", 0, "granularity"), '"a"'),
    ("lab", ("annotations", 0, "image_id"), "[]"),
    ("lab", ("annotations", 0, "segmentation"), None),
    ("lab", ("annotations",), "[5]"),
)


@pytest.mark.parametrize(("kind", "keys", "text"), FAULTS, ids=lambda value: str(value)[:40])
def test_faults_end_in_an_error_of_masktree(tmp_path: Path, kind: str, keys: tuple[Any, ...], text: str | None) -> None:
    (tmp_path / "good").mkdir()
    document = documents(tmp_path / "good")[kind]
    holder = document
    for key in keys[:-1]:
        holder = holder[key]
    if text is None:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = "@here@"
    path, folder = tmp_path / "fault.json", tmp_path / "use"
    path.write_text(json.dumps(document).replace('"@here@"', text or ""))
    folder.mkdir()
    with pytest.raises(MasktreeError, match=r"expected .+; got "):
        READERS[kind](path, folder)
