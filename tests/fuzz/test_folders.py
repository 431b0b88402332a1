"""The JSON files in folders that masktree writes: label sets, run records, trained models, training runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.predictions import open_predictions
from masktree.io.files import sha256_of
from masktree.io.photos import find_photos
from masktree.jobs.record import RunRecord
from masktree.labels import LabelSet, LabelSetWriter
from masktree.labels.sources import open_source
from masktree.models.config import CONFIG_CLASSES, Mask2FormerConfig, to_json
from masktree.models.saved import is_model, read_config
from masktree.predict import SegmenterConfig
from masktree.train.initialisation import Initialisation
from masktree.train.label_store import LabelStore
from masktree.train.presets import PRESETS
from masktree.train.run_folder import RunFolder, read_metrics
from tests.evaluate.planted import NAMES, write_trees
from tests.train.labelled import write_collection

from .mutations import mutated_bytes, mutated_json
from .target import fuzz

SIZES = {"a.png": (20, 30), "b/c.png": (16, 16), "d.png": (8, 20)}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FOLDER/photos and FOLDER/labels."""
    folder = tmp_path_factory.mktemp("collection")
    write_collection(folder, SIZES, count=3)
    return folder


def restored(folder: Path) -> Callable[[], None]:
    """A function that gives the files in a folder the content that they have now."""
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for path, data in content.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return restore


def error_of(use: Callable[[], object]) -> MasktreeError | None:
    """masktree's error that ``use`` ends in."""
    try:
        use()
    except MasktreeError as error:
        return error
    return None


def test_label_sets(collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    shutil.copytree(collection / "labels", folder)
    index = json.loads((folder / "index.json").read_text()) | {"config": {"method": "masktree"}}
    (folder / "index.json").write_text(json.dumps(index))
    restore = restored(folder)
    shard = folder / index["shards"][0]["file"]
    photos, _ = find_photos([collection / "photos"])
    files = [folder / "index.json", shard, folder / "plan.json"]
    inputs = st.one_of(
        *(st.tuples(st.just(file), mutated_json([json.loads(file.read_text())])) for file in (shard, *files))
    )

    def read(mutated: tuple[Path, bytes]) -> None:
        file, data = mutated
        restore()
        file.write_bytes(data)
        if file == shard:  # its hash fits: what reads it goes on
            (folder / "index.json").write_text(
                json.dumps(index | {"shards": [index["shards"][0] | {"sha256": sha256_of(shard)}]})
            )
        errors = [
            error
            for use in (iterate, merge, lambda: SegmenterConfig.from_folder(folder), store, resume)
            if (error := error_of(use)) is not None
        ]
        if errors:
            raise errors[0]

    def iterate() -> None:
        labels = LabelSet.open(folder, root=tmp_path)
        for image, tree in labels:
            assert labels.image_path(image).is_relative_to(tmp_path)
            assert len(tree.boxes) == len(tree)

    def merge() -> None:
        source = open_source(folder)
        for name in source.images:
            source.read(name, 0)

    def store() -> None:
        opened = LabelStore.of(LabelSet.open(folder))
        assert all(len(opened[i].rles) for i in opened.images_with_masks())

    def resume() -> None:
        record = RunRecord(folder, {"method": "masktree"}, {})
        LabelSetWriter.open(folder, collection / "photos", photos).close(record)

    fuzz("label sets", inputs, read, cost=3)


def test_a_label_set_names_no_file_outside_of_it(collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    shutil.copytree(collection / "labels", folder)
    index = json.loads((folder / "index.json").read_text())
    shard = folder / index["shards"][0]["file"]
    document = json.loads(shard.read_text())
    for name in ("../secret.json", "/etc/passwd", "annotations/../../x.json", "", ".", "a\0b", 5):
        (folder / "index.json").write_text(json.dumps(index | {"shards": [index["shards"][0] | {"file": name}]}))
        with pytest.raises(FormatError, match="expected shards with a file below the folder"):
            LabelSet.open(folder)
        (folder / "index.json").write_text(json.dumps(index))
        shard.write_text(json.dumps(document | {"images": [document["images"][0] | {"file_name": name}]}))
        with pytest.raises(FormatError, match="expected a file_name below the folder"):
            next(iter(LabelSet.open(folder)))


def test_run_records(tmp_path: Path) -> None:
    folder = write_trees(tmp_path / "trees")
    config, weights = {"method": "masktree", "options": {}, "seed": 0}, {"name": "embedded", "sha256": "5de1"}
    record = RunRecord.open(folder, config, weights, overwrite=False)
    record.seconds = {name.rsplit(".", 1)[0]: 0.5 for name in NAMES}
    record.close("complete")
    path = folder / "run.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert set(open_predictions(folder).origin) <= {"config", "weights", "versions"}
        RunRecord.open(folder, config, weights, overwrite=True)
        try:
            opened = RunRecord.open(folder, config, weights, overwrite=False)
        except InputError:  # of another configuration
            return
        assert opened.seconds_per_image >= 0

    fuzz("run records", mutated_json([json.loads(path.read_text())]), read)


def test_configurations_of_models(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    training = {"optimisation": {"steps": 12, "milestones": [0.5]}, "augmentation": {"crop_size": 64}, "seed": 0}
    documents = [
        {"format": "masktree-model", "version": 1, "model": to_json(kind()), "training": training, "step": 12}
        for kind in dict.fromkeys(CONFIG_CLASSES.values())
    ]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        is_model(tmp_path)
        read_config(tmp_path)

    fuzz("configurations of models", mutated_json(documents), read)


def test_training_runs(tmp_path: Path) -> None:
    from masktree.models.saved import read_header

    preset = PRESETS["sohes"]
    training = {"optimisation": vars(preset.optimisation), "augmentation": vars(preset.augmentation)}
    run = RunFolder.open(tmp_path, preset.model, training, {"device": "cpu"}, overwrite=False)
    run.header["step"] = 12
    (tmp_path / "config.json").write_text(json.dumps(run.header))
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"")

    def read(data: bytes) -> None:
        (tmp_path / "config.json").write_bytes(data)
        start = Initialisation(tmp_path, read_header(tmp_path), "0")
        start.unfinished_warning()
        assert start.pretrained_sha256 is None or isinstance(start.pretrained_sha256, str)
        start.preset()
        RunFolder.open(tmp_path, preset.model, training, {"device": "cpu"}, overwrite=False)

    fuzz("training runs", mutated_json([document]), read)


def test_metrics_of_training_runs(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0 / step, "grad_norm": None}) for step in range(1, 4)]

    def read(data: bytes) -> None:
        (tmp_path / "metrics.jsonl").write_bytes(data)
        assert all(line["step"] >= 0 for line in read_metrics(tmp_path))

    fuzz("metrics of training runs", mutated_bytes(["\n".join([*lines, ""]).encode()]), read)


def test_label_stores(collection: Path, tmp_path: Path) -> None:
    store = LabelStore.of(LabelSet.open(collection / "labels"), tmp_path)
    path = store.folder / "store.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        opened = LabelStore(store.folder)
        assert [opened[i].name for i in range(len(opened))]

    fuzz("label stores", mutated_json([json.loads(path.read_text())]), read)


@pytest.mark.parametrize("size", [10**6, 10**400])
def test_a_model_of_any_size_is_not_built(size: int) -> None:
    with pytest.raises(InputError, match="expected hidden_dim of at most 1,024"):
        Mask2FormerConfig(hidden_dim=size)
