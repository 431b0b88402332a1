from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.io.files import lock_folder
from masktree.labels import LabelSet
from masktree.labels.card import write_card
from masktree.predict import SegmenterConfig, load
from masktree.stages.discover import discover as discover_in_workers

discover = partial(discover_in_workers, workers=1)  # starting processes takes longer than a few small photographs
CONFIG = SegmenterConfig(method="masktree", backbone="texture")  # starts without torch


@pytest.fixture
def collection(tmp_path, photos) -> Path:
    """Seven small crops in two folders; two files share a stem, so names alone are not unique."""
    folder = tmp_path / "in"
    for index, name in enumerate(["a.png", "a.jpg", "x/a.png", "x/ü.png", "x/c.png", "y.png", "z.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        crop = np.asarray(Image.open(photos[index % len(photos)]).convert("RGB"))[40:120, 50 : 150 + index]
        Image.fromarray(crop).save(folder / name)
    return folder


def content(labels: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (labels / "annotations").iterdir()}


def test_a_label_set_reads_with_the_coco_tools_and_with_ours(collection, tmp_path):
    from pycocotools.coco import COCO

    outcome = discover(collection, tmp_path / "labels", CONFIG, shard_size=3)
    assert (outcome.completed, outcome.skipped, outcome.failures) == (7, 0, [])
    labels = LabelSet.open(tmp_path / "labels", verify=True)
    assert len(labels) == 7
    assert len(labels.index["shards"]) == 3
    seen_images, seen_annotations = set(), set()
    for shard in labels.index["shards"]:
        coco = COCO(str(tmp_path / "labels" / shard["file"]))
        assert not seen_images & set(coco.imgs)
        assert not seen_annotations & set(coco.anns)
        seen_images |= set(coco.imgs)
        seen_annotations |= set(coco.anns)
        for annotation in coco.anns.values():
            assert coco.annToMask(annotation).sum() == annotation["area"]
            parent = annotation["parent_id"]
            assert parent is None or coco.anns[parent]["image_id"] == annotation["image_id"]
            assert annotation["level"] in ("whole", "part", "subpart")
            assert 0 <= annotation["score"] <= 1
    assert len(seen_images) == 7
    segmenter = load("texture", method="masktree", masks="nodes")
    for image, tree in labels:
        path = labels.image_path(image)
        assert path.exists()
        fresh = segmenter(path)
        assert tree.rles == fresh.rles
        np.testing.assert_array_equal(tree.parents, fresh.parents)


def test_the_card_and_the_manifest_say_what_is_there(collection, tmp_path):
    discover(collection, tmp_path / "labels", CONFIG)
    labels = LabelSet.open(tmp_path / "labels")
    summary = labels.index["summary"]
    trees = [tree for _, tree in labels]
    assert summary["images"] == 7
    assert summary["masks"] == sum(len(t) for t in trees)
    assert summary["levels"] == {
        name: total
        for level, name in enumerate(("whole", "part", "subpart"))
        if (total := int(sum((t.levels == level).sum() for t in trees)))
    }
    union = [np.any([t.mask(i) for i in range(len(t))], axis=0).mean() for t in trees]
    assert summary["coverage"] == pytest.approx(np.mean(union), abs=1e-4)
    assert sum(summary["sizes"].values()) == sum(summary["log2_area"].values()) == summary["masks"]
    card = (tmp_path / "labels" / "card.md").read_text()
    assert f"| masks | {summary['masks']} |" in card
    assert labels.index["shards"][0]["sha256"] in card
    origins = {True: "without human labels", None: "of which it is unknown", False: "human labels, or"}
    for label_free, origin in origins.items():
        labels.index["weights"]["label_free"] = label_free
        write_card(tmp_path / "card.md", labels.index, [])
        assert origin in (tmp_path / "card.md").read_text()
    assert not (tmp_path / "labels" / "pending").exists()


def test_an_interrupted_label_set_goes_on_to_the_same_result(collection, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    discover(collection, whole, CONFIG, shard_size=3)

    from masktree.jobs import batch

    real = batch.run

    def stops_after_five(*arguments, **options):
        for count, result in enumerate(real(*arguments, **options)):
            if count == 5:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(batch, "run", stops_after_five)
    with pytest.raises(KeyboardInterrupt):
        discover(collection, broken, CONFIG, shard_size=3, workers=1)
    assert (broken / "annotations" / "00000.json").exists()
    assert not (broken / "index.json").exists()
    with pytest.raises(FormatError, match=r"unfinished one at .*; run the same discover command again"):
        LabelSet.open(broken)
    monkeypatch.setattr(batch, "run", real)
    outcome = discover(collection, broken, CONFIG, shard_size=3)
    assert outcome.skipped >= 5
    assert content(broken) == content(whole)
    LabelSet.open(broken, verify=True)


def test_a_command_that_made_nothing_does_not_bind_the_corrected_one(collection, tmp_path):
    """Every image fails at first; then thresholds, method, shard size and images are others."""
    output, texts = tmp_path / "labels", tmp_path / "texts"
    texts.mkdir()
    (texts / "a.png").write_text("words")
    for shard_size in (2, 3):  # refused after thresholds were chosen
        with pytest.raises(InputError, match="expected workers"):
            discover(collection, output, CONFIG, average_labels=shard_size, shard_size=shard_size, workers=-1)
    outcome = discover(texts, output, replace(CONFIG, method="hassod"), shard_size=2)
    assert (outcome.completed, len(outcome.failures)) == (0, 1)
    outcome = discover(collection, output, CONFIG, average_labels=4, shard_size=4)
    assert (outcome.completed, outcome.failures) == (7, [])
    assert len(LabelSet.open(output, verify=True)) == 7
    for changes in ({"average_labels": 5}, {"average_labels": 4, "shard_size": 3}, {"images": texts}):
        folder, options = changes.get("images", collection), {k: v for k, v in changes.items() if k != "images"}
        with pytest.raises(InputError, match="choose another output folder, or --overwrite"):
            discover(folder, output, CONFIG, **options)
    assert len(LabelSet.open(output, verify=True)) == 7


def test_a_finished_set_is_not_done_again(collection, tmp_path):
    discover(collection, tmp_path / "labels", CONFIG)
    outcome = discover(collection, tmp_path / "labels", CONFIG)
    assert (outcome.completed, outcome.skipped) == (0, 7)


def test_unreadable_images_are_left_out_and_named(collection, tmp_path):
    (collection / "b.png").write_bytes(b"words")
    outcome = discover(collection, tmp_path / "labels", CONFIG)
    assert outcome.completed == 7
    assert [Path(f["path"]).name for f in outcome.failures] == ["b.png"]
    labels = LabelSet.open(tmp_path / "labels")
    assert len(labels) == 7
    assert [f["file_name"] for f in labels.index["shards"][0]["failures"]] == ["b.png"]


def test_a_photograph_that_failed_is_tried_again(collection, tmp_path):
    """And the shard that was already folded without it is folded anew, the other images unchanged."""
    good = (collection / "x/c.png").read_bytes()
    (collection / "x/c.png").write_bytes(b"words")
    labels = tmp_path / "labels"
    assert len(discover(collection, labels, CONFIG, shard_size=3).failures) == 1
    before = {image["file_name"]: tree.rles for image, tree in LabelSet.open(labels)}
    again = discover(collection, labels, CONFIG, shard_size=3)
    assert (again.completed, again.skipped, len(again.failures)) == (0, 6, 1)  # still broken: still said
    (collection / "x/c.png").write_bytes(good)
    mended = discover(collection, labels, CONFIG)
    assert (mended.completed, mended.skipped, mended.failures) == (1, 6, [])
    after = {image["file_name"]: tree.rles for image, tree in LabelSet.open(labels, verify=True)}
    assert after.pop("x/c.png")
    assert after == before
    discover(collection, tmp_path / "unbroken", CONFIG, shard_size=3)
    assert content(labels) == content(tmp_path / "unbroken")


def test_a_refused_overwrite_leaves_the_earlier_set(collection, tmp_path):
    discover(collection, tmp_path / "labels", CONFIG)
    before = content(tmp_path / "labels")
    for wrong in (
        {"config": SegmenterConfig(method="masktree", backbone="no-such")},
        {"config": CONFIG, "workers": -1},
        {"config": CONFIG, "average_labels": float("inf")},
    ):
        with pytest.raises(MasktreeError):
            discover(collection, tmp_path / "labels", overwrite=True, **wrong)
    assert content(tmp_path / "labels") == before
    LabelSet.open(tmp_path / "labels", verify=True)


def test_moved_photographs_are_found_by_a_new_root(collection, tmp_path):
    discover(collection, tmp_path / "labels", CONFIG, shard_size=4)
    collection.rename(tmp_path / "moved")
    labels = LabelSet.open(tmp_path / "labels", root=tmp_path / "moved")
    assert all(labels.image_path(image).exists() for image, _ in labels)
    assert discover(tmp_path / "moved", tmp_path / "labels", CONFIG).skipped == 7


@pytest.mark.parametrize("name", ["plan.json", "run.json", "annotations/00000.json"])
@pytest.mark.parametrize("content", ["[]", "{}", "null", "[" * 50_000])
def test_damaged_records_are_named_not_thrown(collection, tmp_path, name, content):
    discover(collection, tmp_path / "labels", CONFIG)
    (tmp_path / "labels" / name).write_text(content)
    with pytest.raises(FormatError, match=Path(name).name):
        discover(collection, tmp_path / "labels", CONFIG)


def test_one_run_at_a_time_writes_to_a_folder(collection, tmp_path):
    with lock_folder(tmp_path / "labels"), pytest.raises(InputError, match="no other run writes to"):
        discover(collection, tmp_path / "labels", CONFIG)
    assert discover(collection, tmp_path / "labels", CONFIG).completed == 7


def test_a_changed_collection_or_configuration_is_refused(collection, tmp_path):
    discover(collection, tmp_path / "labels", CONFIG)
    shutil.copy(collection / "a.png", collection / "new.png")
    with pytest.raises(InputError, match="images changed"):
        discover(collection, tmp_path / "labels", CONFIG)
    assert discover(collection, tmp_path / "labels", CONFIG, overwrite=True).completed == 8
    with pytest.raises(InputError, match="min_area"):
        discover(collection, tmp_path / "labels", SegmenterConfig(method="masktree", backbone="texture", min_area=9))


@pytest.mark.parametrize(("method", "wanted"), [("masktree", 5), ("unsam", 20)])
def test_a_target_number_of_labels_is_met(collection, tmp_path, method, wanted):
    for name in ("x/a.png", "x/ü.png", "y.png", "z.png"):  # three are enough, and quicker
        (collection / name).unlink()
    config = SegmenterConfig(method=method, backbone="texture")
    assert discover(collection, tmp_path / "labels", config, average_labels=wanted).completed == 3
    index = LabelSet.open(tmp_path / "labels").index
    assert index["summary"]["masks_per_image_mean"] == pytest.approx(wanted, abs=3)
    assert index["config"]["options"]
    assert discover(collection, tmp_path / "labels", config, average_labels=wanted).skipped == 3
    with pytest.raises(InputError, match="average_labels changed"):
        discover(collection, tmp_path / "labels", config, average_labels=wanted + 4)


def test_the_best_masks_of_each_image_are_kept(collection, tmp_path):
    """A plain image has few masks, a busy one many: a threshold over the set would leave the plain one without."""
    discover(collection, tmp_path / "all", CONFIG)
    discover(collection, tmp_path / "five", CONFIG, labels_per_image=5)
    everything = {image["file_name"]: tree for image, tree in LabelSet.open(tmp_path / "all")}
    five = LabelSet.open(tmp_path / "five")
    for image, tree in five:
        scores = np.sort(everything[image["file_name"]].scores)[::-1]
        np.testing.assert_array_equal(np.sort(tree.scores)[::-1], scores[:5])
    assert five.index["config"]["labels_per_image"] == 5
    with pytest.raises(InputError, match="labels_per_image"):
        discover(collection, tmp_path / "five", CONFIG, labels_per_image=6)
    for wrong in ({"labels_per_image": 0}, {"labels_per_image": 5, "average_labels": 5}):
        with pytest.raises(InputError, match=r"labels per image|got both"):
            discover(collection, tmp_path / "wrong", CONFIG, **wrong)


def test_the_card_lists_images_without_masks(collection, tmp_path):
    discover(collection, tmp_path / "full", CONFIG)
    assert "## Images without masks" not in (tmp_path / "full" / "card.md").read_text()
    highest = {image["file_name"]: tree.scores.max() for image, tree in LabelSet.open(tmp_path / "full")}
    min_score = float(np.mean(np.unique(list(highest.values()))[:2]))  # files have rounded scores
    discover(collection, tmp_path / "labels", replace(CONFIG, options={"min_score": min_score}), shard_size=3)
    without = [image["file_name"] for image, tree in LabelSet.open(tmp_path / "labels") if not len(tree)]
    assert without == [name for name, score in highest.items() if score < min_score]
    assert without
    card = (tmp_path / "labels" / "card.md").read_text()
    listed = card.partition("## Images without masks\n\n")[2].partition("\n\n")[0]
    assert listed.splitlines() == [f"- `{name}`" for name in without]


def test_what_labelled_a_set_labels_other_photographs_alike(collection, tmp_path):
    config = SegmenterConfig(method="masktree", backbone="texture", options={"masks": "nodes", "min_score": 0.05})
    discover(collection, tmp_path / "labels", replace(config, options={"min_score": 0.05}))
    own = SegmenterConfig.from_folder(tmp_path / "labels")
    assert own.record() | {"device": config.device} == config.record()
    trees = {image["file_name"]: tree for image, tree in LabelSet.open(tmp_path / "labels")}
    assert own.load()(collection / "a.png").rles == trees["a.png"].rles


@pytest.mark.parametrize("wanted", [0, -3, 100_000])
def test_impossible_numbers_of_labels_are_refused(collection, tmp_path, wanted):
    with pytest.raises(InputError, match="labels per image"):
        discover(collection, tmp_path / "labels", CONFIG, average_labels=wanted)


def test_damaged_label_sets_are_named(collection, tmp_path):
    labels = tmp_path / "labels"
    with pytest.raises(FormatError, match="got nothing at"):
        LabelSet.open(labels)
    discover(collection, labels, CONFIG)
    shard = labels / "annotations" / "00000.json"
    document = json.loads(shard.read_text())
    document["annotations"][0]["parent_id"] = 5
    shard.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="differs from the hash"):
        LabelSet.open(labels, verify=True)
    with pytest.raises(
        FormatError, match="expected parent_id as the id of an annotation of the same image, or null; got 5"
    ):
        list(LabelSet.open(labels))
    document["annotations"][0] |= {"parent_id": None, "image_id": 99}
    shard.write_text(json.dumps(document))
    with pytest.raises(FormatError, match="expected an image of the file; got an unknown image id 99"):
        list(LabelSet.open(labels))
    shard.unlink()
    with pytest.raises(FormatError, match="not in the folder"):
        LabelSet.open(labels)


def test_a_config_is_unchanged_by_json():
    assert json.loads(json.dumps(asdict(CONFIG))) == asdict(CONFIG)
