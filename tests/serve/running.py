"""A server in a thread, and requests to it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from masktree.io.files import sha256_of
from masktree.serve.app import create_app
from masktree.serve.folder import Folder
from masktree.serve.safety import Policy
from masktree.serve.server import TimedProtocol, listen
from masktree.serve.site import Site
from masktree.trees.masktree import MaskTree
from tests.edits.planted import SIZE, planted_tree, random_tree

TOKEN = "secret"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        text: str = self.json["error"]
        return text


@dataclass
class Running:
    """A running server."""

    port: int
    site: Site

    @property
    def ids(self) -> dict[str, str]:
        """Ids of the images by name."""
        return {entry.name: entry.id for entry in self.site.folder.entries()}

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """One request with all that the page sends; ``headers`` replace these, None leaves one out."""
        sent: dict[str, str | None] = {"Cookie": f"masktree={TOKEN}", "X-Masktree": "1", **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, data, {name: value for name, value in sent.items() if value is not None})
            answer = connection.getresponse()
            content = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content)

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)


@contextlib.contextmanager
def running(site: Site, **limits: Any) -> Iterator[Running]:
    """The server of a site, with a policy of these limits."""
    policy = Policy(**{"token": TOKEN, **limits})
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(site, policy),
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Running(listener.getsockname()[1], site)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()


def write_photo(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """A photograph of noise."""
    rgb = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return rgb


def write_tree(tree: MaskTree, path: Path, photo: Path) -> None:
    """The tree file of a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tree.save(path, image={"file_name": str(photo), "sha256": sha256_of(photo)})


def planted_site(folder: Path) -> Site:
    """Photographs with trees: ``planted`` of nested masks, ``sub/random`` with a dendrogram; ``bare`` has none."""
    photos, output = folder / "photos", folder / "out"
    for number, name in enumerate(("planted.png", "sub/random.png", "bare.png")):
        write_photo(photos / name, (24, 31) if "random" in name else SIZE, number)
    write_tree(planted_tree(), output / "planted.json", photos / "planted.png")
    write_tree(random_tree(0), output / "sub" / "random.json", photos / "sub" / "random.png")
    return Site.open(Folder.open(photos, output))
