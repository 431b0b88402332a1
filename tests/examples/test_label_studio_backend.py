"""The ML backend, called as Label Studio calls one."""

from __future__ import annotations

import http.server
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree.importers.label_studio import decode_brush
from masktree.trees import rle
from tests.examples.load import load_example
from tests.export.planted import SIZE, planted_masks, planted_photo, planted_tree

testclient = pytest.importorskip("starlette.testclient", reason="httpx is not installed: pip install httpx.")

CONFIG = """<View>
  <Image name="photo" value="$picture" zoom="true"/>
  <BrushLabels name="masks" toName="photo">
    <Label value="whole"/><Label value="part"/><Label value="cell"/>
  </BrushLabels>
  <KeyPointLabels name="clicks" toName="photo" smart="true"><Label value="cell" smart="true"/></KeyPointLabels>
</View>"""


@pytest.fixture(scope="module")
def example():
    return load_example("label_studio_backend")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(planted_photo()).save(tmp_path / "photos" / "a b.png")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "photos"


@pytest.fixture
def asked() -> list[tuple[int, int]]:
    """Sizes of the images that were segmented."""
    return []


@pytest.fixture
def backend(example, folder, asked):
    def segmenter(image):
        asked.append(image.size)
        return planted_tree()

    return example.Backend(segmenter, root=folder)


@pytest.fixture
def client(example, backend):
    return testclient.TestClient(example.application(backend))


def request(*addresses: str, config: str = CONFIG, context: object = None) -> dict[str, object]:
    """What Label Studio sends to /predict."""
    tasks = [
        {"id": number, "data": {"picture": address}, "meta": {}, "project": 1, "annotations": [], "predictions": []}
        for number, address in enumerate(addresses, start=1)
    ]
    params = {"login": None, "password": None, "hostname": "http://localhost:8080", "context": context}
    return {"tasks": tasks, "project": "1.1764", "label_config": config, "params": params}


def test_label_studio_connects(client):
    assert client.get("/health").json()["status"] == "UP"
    setup = {"project": "1.1764", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "k"}
    assert client.post("/setup", json=setup).json()["model_version"].startswith("masktree ")
    for path in ("/webhook", "/train"):
        assert client.post(path, json={"action": "ANNOTATION_CREATED"}).status_code == 200


def test_tasks_get_their_masks_as_brush_regions(client, asked):
    answer = client.post("/predict", json=request("/data/local-files/?d=a%20b.png", "/data/local-files/?d=a%20b.png"))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert len(results) == 2
    assert results[0] == results[1]
    assert asked == [(SIZE[1], SIZE[0])]  # once
    found = {region["id"]: region for region in results[0]["result"]}
    assert len(found) == 6
    tree = planted_tree()
    for index, mask in enumerate(planted_masks()):
        region = found[f"mask{index}"]
        assert (region["from_name"], region["to_name"], region["type"]) == ("masks", "photo", "brushlabels")
        assert (region["original_width"], region["original_height"]) == (SIZE[1], SIZE[0])
        np.testing.assert_array_equal(rle.decode(decode_brush(region["value"]["rle"], SIZE), SIZE), mask)
        parent = tree.parents[index]
        assert region.get("parentID") == (None if parent < 0 else f"mask{parent}")
        # subparts have no label of their own in this interface
        assert region["value"]["brushlabels"] == [["whole"], ["part"], ["whole"]][tree.levels[index]]


def test_levels_scores_areas_and_numbers_of_masks_are_limited(client, backend):
    def regions():
        [result] = client.post("/predict", json=request("/data/local-files/?d=a b.png")).json()["results"]
        return [(region["score"], region["meta"]["level"], region.get("parentID")) for region in result["result"]]

    backend.max_masks = 2
    assert regions() == [(1.0, "whole", None), (0.9, "part", "mask0")]
    backend.max_masks, backend.levels, backend.min_area = 30, ("part", "subpart"), 2
    assert [level for _, level, _ in regions()] == ["part", "part", "subpart", "subpart"]
    backend.min_score = 0.85
    assert regions() == [(pytest.approx(0.9), "part", None)]


def test_a_click_of_a_smart_tool_gets_one_mask(client):
    height, width = SIZE
    click = {
        "id": "x",
        "type": "keypointlabels",
        "from_name": "clicks",
        "to_name": "photo",
        "original_width": width,
        "original_height": height,
        "value": {"x": 100 * 10.5 / width, "y": 100 * 5.5 / height, "width": 0.3, "keypointlabels": ["cell"]},
        "is_positive": True,
    }
    answer = client.post("/predict", json=request("/data/local-files/?d=a b.png", context={"result": [click]}))
    [region] = answer.json()["results"][0]["result"]
    assert region["value"]["brushlabels"] == ["cell"]
    assert region["from_name"] == "masks"
    assert rle.decode(decode_brush(region["value"]["rle"], SIZE), SIZE)[5, 10]
    box = click | {"type": "rectanglelabels"}
    box["value"] = {"x": 100 * 2 / width, "y": 10, "width": 100 * 20 / width, "height": 100 * 22 / height}
    box["value"]["rectanglelabels"] = ["cell"]
    answer = client.post("/predict", json=request("/data/local-files/?d=a b.png", context={"result": [box]}))
    [region] = answer.json()["results"][0]["result"]
    mask = rle.decode(decode_brush(region["value"]["rle"], SIZE), SIZE)
    assert (mask & planted_masks()[1]).sum() / (mask | planted_masks()[1]).sum() > 0.9


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (request("/data/local-files/?d=../secret.png"), "expected a file below"),
        (request("/data/local-files/?d=nothing.png"), "expected a file below"),
        (request("http://169.254.169.254/latest/meta-data"), "expected an image of http://localhost:8080"),
        (request("file:///etc/passwd"), "expected an image of http://localhost:8080"),
        (request("/data/local-files/?d=a b.png", config="<View/>"), "labelling interface with BrushLabels"),
        (request("/data/local-files/?d=a b.png", config="<View"), "labelling interface with BrushLabels"),
        (request(*["/data/local-files/?d=a b.png"] * 101), "at most 100 tasks"),
        ({"tasks": [{}]}, "expected tasks and a label_config"),
        ([], "expected tasks and a label_config"),
    ],
)
def test_what_cannot_be_answered_is_said(client, body, match):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 400
    assert match in answer.json()["error"]


def test_uploads_are_fetched_from_label_studio_with_the_token(client, backend):
    buffer = io.BytesIO()
    Image.fromarray(planted_photo()).save(buffer, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_known = self.headers["Authorization"] == "Token key" and self.path == "/data/upload/1/a.png"
            self.send_response(200 if is_known else 401)
            self.end_headers()
            self.wfile.write(buffer.getvalue() if is_known else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend.label_studio, backend.token = f"http://127.0.0.1:{server.server_port}", "wrong"
    try:
        answer = client.post("/predict", json=request("/data/upload/1/a.png"))
        assert "is the --token right?" in answer.json()["error"]
        backend.token = "key"
        for address in ("/data/upload/1/a.png", f"{backend.label_studio}/data/upload/1/a.png"):
            answer = client.post("/predict", json=request(address))
            assert len(answer.json()["results"][0]["result"]) == 6
    finally:
        server.shutdown()
        server.server_close()
