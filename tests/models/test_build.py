from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from masktree.errors import FormatError, InputError, WeightsError
from masktree.models import build, saved
from masktree.models.build import build_model, read_model, save_pretrained
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import CascadeConfig, Mask2FormerConfig
from masktree.models.mask2former.model import Mask2Former
from tests.models.standins import CONFIG, TinyModel

SMALL = {"image_size": 64, "hidden_dim": 32, "max_detections": 20}
QUERIES = {"num_heads": 2, "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 1, "num_queries": 12}
CONFIGS = {
    "sohes": Mask2FormerConfig(kind="sohes", backbone="embedded", **SMALL, **QUERIES),
    "unsam": Mask2FormerConfig(kind="unsam", backbone="embedded", **SMALL, **QUERIES),
    "hassod": CascadeConfig(backbone="embedded", box_head_dim=32, mask_head_layers=1, test_proposals=30, **SMALL),
}


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Folder of a stand-in model, which ``read_model`` builds again."""
    monkeypatch.setattr(build, "build_model", lambda config, *, weights: TinyModel(config))
    torch.manual_seed(1)
    save_pretrained(TinyModel(), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_read_is_what_was_saved(kind, tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIGS[kind], weights=True)
    assert isinstance(model, CascadeMaskRCNN if kind == "hassod" else Mask2Former)
    assert model.training
    assert model.wants_cues
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.99)  # as after training: nothing is as it was first
    save_pretrained(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    state = torch.random.get_rng_state()
    again = read_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.config == model.config
    assert not again.training
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    images, cues = torch.rand(1, 3, 64, 64), torch.rand(1, 10, 32, 32)
    (a,), (b,) = (m.eval().detect(images, cues, [(60, 64)]) for m in (model, again))
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.render(0, len(a.scores), (60, 64)), b.render(0, len(b.scores), (60, 64)))
    wanted = sum(value.numel() for value in before.values())
    assert saved.count_parameters(tmp_path) == wanted


def test_backbone_weights_are_those_of_the_package():
    given, plain = (
        build_model(CONFIGS["unsam"], weights=weights).get_submodule("pyramid") for weights in (True, False)
    )
    from masktree.models.pyramid.build import build_pyramid

    published = build_pyramid("embedded", weights=True).state_dict()
    assert all(torch.equal(value, published[name]) for name, value in given.state_dict().items())
    assert not all(torch.equal(value, published[name]) for name, value in plain.state_dict().items())


def test_saving_again_keeps_what_the_run_wrote_beside(tiny):
    header = json.loads((tiny / "config.json").read_text())
    assert header == {"format": "masktree-model", "version": 1, "model": header["model"]}
    (tiny / "config.json").write_text(json.dumps(header | {"steps": 7, "labels": {"sha256": "ab"}}))
    model = read_model(tiny)
    with torch.no_grad():
        model.masks.bias.fill_(0.5)
    save_pretrained(model, tiny)
    assert saved.read_header(tiny) == header | {"steps": 7, "labels": {"sha256": "ab"}}
    assert (read_model(tiny).masks.bias == 0.5).all()
    assert saved.read_config(tiny) == CONFIG


def test_tied_weights_and_other_types_are_saved_as_they_are(tiny):
    model = TinyModel().to(torch.float64)
    model.again = model.masks  # one tensor under two names
    save_pretrained(model, tiny.parent / "tied")
    written = load_file(tiny.parent / "tied" / "model.safetensors")
    assert torch.equal(written["again.weight"], written["masks.weight"])


def test_foreign_folders_are_not_written_into(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    with pytest.raises(InputError, match=r"config\.json of something else"):
        save_pretrained(TinyModel(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_provenance_names_and_hashes_the_file(tiny):
    origin = saved.provenance(tiny, str(tiny))
    assert (origin.name, origin.kind, origin.backbone, origin.source) == ("run", "unsam", "embedded", str(tiny))
    with torch.no_grad():
        model = read_model(tiny)
        model.masks.bias.add_(1)
    save_pretrained(model, tiny)
    assert len(origin.sha256) == 64
    assert saved.provenance(tiny, str(tiny)).sha256 != origin.sha256


def test_what_is_missing_is_named(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"trained model, with config.json; got nothing at .*none"):
        read_model(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"got an empty folder at .*empty"):
        read_model(tmp_path / "empty")
    (tiny / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"weights .*model.safetensors' beside config.json; got no such file"):
        read_model(tiny)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got a damaged file"),
        ("[1]", "no proper format, version, model"),
        ('{"architecture": "resnet50"}', "no proper format, version, model; .*written by masktree train"),
        ('{"format": "masktree-model", "version": 2, "model": {}}', "in version 1; got 'masktree-model' in version 2"),
        ('{"format": "labels", "version": 1, "model": {}}', "got 'labels' in version 1"),
        ('{"format": "masktree-model", "version": 1, "model": {"kind": "sam"}}', "expected kind .*got 'sam'"),
        ('{"format": "masktree-model", "version": 1, "model": {"kind": "unsam"}}', "expected the keys"),
    ],
)
def test_damaged_and_foreign_configurations_are_refused(tiny, text, message):
    (tiny / "config.json").write_text(text)
    with pytest.raises(FormatError, match=rf"config.json: .*{message}"):
        read_model(tiny)


def test_damaged_and_foreign_tensors_are_refused(tiny):
    path = tiny / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    for damage in (b"", b"words", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        with pytest.raises(WeightsError, match=r"model.safetensors'; got a damaged file"):
            read_model(tiny)
    with pytest.raises(WeightsError, match="got a damaged file"):
        saved.count_parameters(tiny)
    for changed, message in (
        ({name: value for name, value in tensors.items() if name != "masks.bias"}, "Missing key.*masks.bias"),
        (tensors | {"extra": torch.zeros(2)}, "Unexpected key.*extra"),
        (tensors | {"masks.bias": torch.zeros(9)}, "size mismatch for masks.bias"),
        (tensors | {"masks.bias": torch.full((4,), float("nan"))}, "finite weights; got NaN.*'masks.bias'"),
    ):
        save_file(changed, path)
        with pytest.raises(WeightsError, match=message):
            read_model(tiny)


def test_a_full_disk_leaves_the_earlier_model(tiny, monkeypatch):
    before = (tiny / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(TinyModel(), tiny)
    assert (tiny / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tiny.iterdir()) == ["config.json", "model.safetensors"]


# --- names ----------------------------------------------------------------------------------------------------------


def test_folders_of_models_are_told_from_others(tiny, tmp_path):
    assert saved.is_model(tiny)
    (tmp_path / "timm").mkdir()
    assert not saved.is_model(tmp_path / "timm")
    for text in ('{"architecture": "resnet50"}', "{", "[]", '{"format": "labels"}'):
        (tmp_path / "timm" / "config.json").write_text(text)
        assert not saved.is_model(tmp_path / "timm")
    assert saved.find_model(tiny) == tiny


@pytest.mark.parametrize("name", ["dino-vits9", "embedded", "a/b/c", "../run", "./run", "/no/where", "a b/c", ""])
def test_names_that_are_no_model_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not saved.is_hub_id(name)
    if name:
        with pytest.raises(WeightsError, match=r"owner/name on the hub; got .*; give the output folder of masktree tr"):
            saved.find_model(name)


def test_hub_names_come_from_the_cache_or_say_why_not(tiny, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    def cached(name, *, allow_patterns, local_files_only):
        asked.append((name, sorted(allow_patterns), local_files_only))
        if local_files_only and name == "someone/none":
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(tiny)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert saved.find_model("someone/model") == tiny
    assert asked == [("someone/model", ["config.json", "model.safetensors"], True)]
    assert saved.provenance(tiny, "someone/model").name == "someone/model"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"'someone/none'.*HF_HUB_OFFLINE is set; check the spelling"):
        saved.find_model("someone/none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://no-such-host.invalid")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(WeightsError, match=r"no network: the name no-such-host\.invalid cannot be resolved"):
        saved.find_model("someone/none")
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "none").mkdir()
    assert saved.find_model("someone/none") == Path("someone/none")  # a folder of that name comes first
