"""Photographs in tar files, Parquet files, lists and at addresses."""

from __future__ import annotations

import http.server
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.io.stored import StoredPhoto, find_stored
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.segment import segment
from tests.faults.injection import files

CONFIG = SegmenterConfig(method="masktree", backbone="texture")
NAMES = ("a/000001.png", "a/000002.png", "b/000001.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of two folders, and a tar file of each beside them, as of WebDataset."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        blocks = rng.integers(0, 256, (2, 3, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(blocks).save(folder / name)
    for stem in ("a", "b"):
        with tarfile.open(folder / f"{stem}.tar", "w") as archive:
            for path in sorted((folder / stem).iterdir()):
                archive.add(path, path.name)
                text = tarfile.TarInfo(f"{path.stem}.json")
                text.size = 2
                archive.addfile(text, io.BytesIO(b"{}"))
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, bytes]:
    """The label set of the folder."""
    output = tmp_path_factory.mktemp("labels")
    discover(photos, output, CONFIG, workers=1)
    return files(output / "annotations")


def test_tar_files_give_the_labels_of_the_folder_that_they_are_unpacked_to(photos, expected, tmp_path):
    outcome = discover(f"{photos}/*.tar", tmp_path / "out", CONFIG, workers=1)
    assert (outcome.completed, outcome.failures) == (3, [])
    assert files(tmp_path / "out/annotations") == expected
    assert discover(f"{photos}/*.tar", tmp_path / "out", CONFIG, workers=1).skipped == 3


def test_a_list_gives_the_labels_of_the_folder(photos, expected, tmp_path):
    (photos / "list.txt").write_text("\n".join((*NAMES[:1], "", str(photos / NAMES[1]), "b.tar")))
    outcome = discover(photos / "list.txt", tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    assert files(tmp_path / "out/annotations") == expected


def test_addresses_give_the_labels_of_the_folder(photos, expected, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(photos / "a.tar"), "/bucket/a.tar")
    store.put(str(photos / "b"), "/bucket/b", recursive=True)
    outcome = discover("memory://bucket/", tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    assert files(tmp_path / "out/annotations") == expected
    assert json.loads((tmp_path / "out/index.json").read_text())["root"] == "memory://bucket"


class Store(http.server.SimpleHTTPRequestHandler):
    """Files of ``directory``, parts of them as well; what is called refused fails."""

    sends_parts = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        part = self.headers.get("Range")
        if "refused" in path.name:
            self.send_error(503)
        elif part is None or not self.sends_parts or not path.is_file():
            super().do_GET()
        else:
            data = path.read_bytes()
            first, _, last = part.removeprefix("bytes=").partition("-")
            chunk = data[int(first) : int(last or len(data)) + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(chunk)))
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(chunk) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(chunk)

    def log_message(self, *_: object) -> None:
        pass


class WholeFileStore(Store):
    sends_parts = False


@contextmanager
def served(folder: Path, handler: type[Store] = Store) -> Iterator[str]:
    """The address of a server of the folder."""
    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_gives_the_labels_of_the_folder(photos, expected, tmp_path):
    with served(photos) as address:
        (tmp_path / "list.txt").write_text(f"{address}/a.tar\n{address}/b/000001.png\n")
        found = find_stored(f"{address}/a.tar")[1] + find_stored(f"{address}/b/")[1]
        for photo, name in zip(found, NAMES, strict=True):
            with photo.local() as path:
                assert path.read_bytes() == (photos / name).read_bytes()
        outcome = segment([tmp_path / "list.txt"], tmp_path / "out", CONFIG, workers=2)
        assert (outcome.completed, outcome.failures) == (3, [])
        discover(f"{address}/b/", tmp_path / "labels", CONFIG, workers=1)
    discover(photos / "b", tmp_path / "local", CONFIG, workers=1)
    assert files(tmp_path / "labels/annotations") == files(tmp_path / "local/annotations")


def test_a_bucket_gives_the_labels_of_the_folder(photos, expected, tmp_path, monkeypatch):
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    import fsspec

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        account = {"endpoint_url": f"http://{host}:{port}", "key": "a", "secret": "b"}
        monkeypatch.setitem(fsspec.config.conf, "s3", account)
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        store.put(str(photos / "a.tar"), "bucket/in/a.tar")
        store.put(str(photos / NAMES[2]), f"bucket/in/{NAMES[2]}")
        outcome = discover("s3://bucket/in/", tmp_path / "out", CONFIG, workers=1)
    finally:
        server.stop()
    assert outcome.failures == []
    assert files(tmp_path / "out/annotations") == expected


def test_a_server_that_fails_says_nothing_of_the_image(photos, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "refused.png", "gone.png"):
        (tmp_path / "in" / name).write_bytes((photos / NAMES[0]).read_bytes())
    with served(tmp_path / "in") as address:
        (tmp_path / "list.txt").write_text("".join(f"{address}/{name}.png\n" for name in ("a", "gone", "refused")))
        (tmp_path / "in/gone.png").unlink()
        for _ in range(2):
            outcome = segment([tmp_path / "list.txt"], tmp_path / "out", CONFIG, workers=1, tries=1)
            assert [failure["path"].rpartition("/")[2] for failure in outcome.failures] == ["gone.png", "refused.png"]
            assert "503" in outcome.failures[1]["error"]
        assert outcome.skipped == 1
    assert outcome.notes == ()


def test_a_server_that_sends_whole_files_only_is_said(photos, tmp_path):
    with served(photos, WholeFileStore) as address:
        outcome = segment([f"{address}/a.tar", f"{address}/b/000001.png"], tmp_path / "out", CONFIG, workers=1)
    assert outcome.completed == 1
    assert [failure["path"] for failure in outcome.failures] == [
        f"{address}/a.tar/{n}.png" for n in ("000001", "000002")
    ]
    assert "download it and give the file" in outcome.failures[0]["error"]


@pytest.mark.parametrize(
    ("address", "module", "remedy"),
    [
        ("s3://bucket/a.tar", "s3fs", "pip install s3fs"),
        ("gs://bucket/photos/", "gcsfs", "pip install gcsfs"),
        ("https://host/a.tar", "aiohttp", r"pip install 'fsspec\[http\]'"),
        ("s3://bucket/a.tar", "fsspec", "pip install fsspec"),
    ],
)
def test_a_package_that_is_missing_for_an_address_is_named(tmp_path, monkeypatch, address, module, remedy):
    if module != "fsspec":
        pytest.importorskip("fsspec")
        loaded = sys.modules["fsspec.registry"]._registry
        monkeypatch.delitem(loaded, address.partition("://")[0], raising=False)
        monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"expected the package that reads .*; got none .*; install it: {remedy}$"):
        segment([address], tmp_path / "out", CONFIG, workers=1)


def test_rows_of_parquet_files_are_photographs(photos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in NAMES]
    parquet.write_table(pyarrow.table({"image": images, "label": [1, 2, 3]}), tmp_path / "p.parquet", row_group_size=2)
    outcome = segment([tmp_path / "p.parquet"], tmp_path / "out", CONFIG, workers=1)
    assert outcome.failures == []
    segment([photos / "b"], tmp_path / "whole", CONFIG, workers=1)
    last = json.loads((tmp_path / "out/p/00000002.json").read_text())
    whole = json.loads((tmp_path / "whole/000001.json").read_text())
    assert last["masks"] == whole["masks"]
    assert last["image"]["sha256"] == whole["image"]["sha256"]
    assert last["image"]["file_name"] == f"{tmp_path}/p.parquet/00000002"


def test_a_member_that_changes_is_segmented_again(photos, tmp_path):
    archive = tmp_path / "c.tar"
    archive.write_bytes((photos / "a.tar").read_bytes())
    assert segment([archive], tmp_path / "out", CONFIG, workers=1).completed == 2
    with tarfile.open(archive, "w") as tar:
        tar.add(photos / "b/000001.png", "000001.png")
        tar.add(photos / "a/000002.png", "000002.png")
    outcome = segment([archive], tmp_path / "out", CONFIG, workers=1)
    assert (outcome.completed, outcome.skipped) == (1, 1)


def test_a_tar_that_is_cut_off_fails_its_last_photograph(photos, tmp_path):
    [*_, last] = find_stored(f"{photos}/a.tar")[1]
    assert isinstance(last, StoredPhoto)
    (tmp_path / "d.tar").write_bytes((photos / "a.tar").read_bytes()[: last.start + 20])
    photos_found, failures = find_stored(f"{tmp_path}/d.tar")[1:]
    assert [photo.name for photo in photos_found] + [f["path"] for f in failures]
    outcome = segment([tmp_path / "d.tar"], tmp_path / "out", CONFIG, workers=1)
    assert len(outcome.failures) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.tar", "got nothing at"),
        ("empty.txt", "expected images in"),
        ("nosuchkind://bucket/a.tar", "expected"),
    ],
)
def test_sources_without_images_are_said(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=message):
        discover(source, tmp_path / "out", CONFIG, workers=1)


def test_two_photographs_of_one_name_are_refused(photos, tmp_path):
    with pytest.raises(InputError, match="one output name per image"):
        segment([photos / "a.tar", photos / "a.tar"], tmp_path / "out", CONFIG, workers=1)
