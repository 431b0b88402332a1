"""An ML backend for Label Studio: it segments the images of a project, and answers clicks of its smart tools.

    python examples/label_studio_backend.py --root /data/photos --token KEY
    # Label Studio: Settings > Model > Connect Model, http://localhost:9090

The labelling interface needs an Image and BrushLabels; for clicks also KeyPointLabels or RectangleLabels with
smart="true". Labels called whole, part and subpart get the masks of these levels; without such labels, all masks get
the first label. The protocol is that of github.com/HumanSignal/label-studio-ml-backend: /health, /setup, /predict.

Images come from a folder (--root, for addresses /data/local-files/?d=...) or from the Label Studio at --label-studio;
other addresses are refused. The server is for this machine alone unless --host says otherwise, and has no password.
"""

from __future__ import annotations

import argparse
import io
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import masktree
from masktree.errors import MasktreeError
from masktree.export.image import SOFTWARE, LabelledImage
from masktree.export.label_studio import prediction
from masktree.trees.mask_selection import select_masks
from masktree.trees.masktree import LEVELS, MaskTree

MAX_IMAGE_BYTES = 200 * 2**20
MAX_TASKS = 100  # of a request: Label Studio asks for a page of its list at a time
KEPT_TREES = 8  # of the images that were asked for last, for the clicks that follow


@dataclass(frozen=True)
class Interface:
    """What a labelling interface calls its parts.

    Attributes:
        image: name of the tag Image.
        key: of a task's data that has the address of the image.
        brush: name of the tag BrushLabels.
        labels: of BrushLabels.
    """

    image: str
    key: str
    brush: str
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, label_config: str) -> Interface:
        try:
            root = ET.fromstring(label_config)
            [brush] = list(root.iter("BrushLabels"))[:1]
            [image] = [tag for tag in root.iter("Image") if tag.get("name") == brush.get("toName")]
            labels = tuple(tag.attrib["value"] for tag in brush.iter("Label"))
            return cls(image.attrib["name"], image.attrib["value"].removeprefix("$"), brush.attrib["name"], labels)
        except (ET.ParseError, ValueError, KeyError) as error:
            raise MasktreeError("expected a labelling interface with BrushLabels for an Image; got none") from error

    def classes(self, tree: MaskTree) -> tuple[str, ...]:
        """The label of each mask: its level if there is such a label, else the first label."""
        if not self.labels:
            raise MasktreeError("expected BrushLabels with a Label; got none")
        names = (LEVELS[level] for level in tree.levels)
        return tuple(name if name in self.labels else self.labels[0] for name in names)


@dataclass
class Backend:
    """The segmenter, where images come from, and which masks are answered.

    Attributes:
        segmenter: from ``masktree.load``.
        root: folder of local files, or None.
        label_studio: address of the server that has the images.
        token: for it, or "".
        levels, min_score, min_area, max_masks: of the masks to give; Label Studio is slow with many brush regions.
    """

    segmenter: Any
    root: Path | None = None
    label_studio: str = "http://localhost:8080"
    token: str = ""
    levels: tuple[str, ...] = LEVELS
    min_score: float = 0.0
    min_area: float = 0
    max_masks: int = 30
    _trees: dict[str, MaskTree] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # one image at a time

    def predict(self, tasks: list[dict[str, Any]], label_config: str, context: Any) -> list[dict[str, Any]]:
        """A prediction for each task; for clicks the mask that they mean, of the one task."""
        interface = Interface.parse(label_config)
        with self._lock:
            return [self._predict(task, interface, context) for task in tasks]

    def _predict(self, task: dict[str, Any], interface: Interface, context: Any) -> dict[str, Any]:
        tree = self._tree(task["data"][interface.key])
        prompts = context.get("result") if isinstance(context, dict) else None
        if prompts:
            tree, classes = clicked(tree, prompts)
        else:
            keep = select_masks(
                tree,
                levels=self.levels,
                min_score=self.min_score,
                min_area=self.min_area,
                max_masks=self.max_masks,
            )
            tree = replace(tree[keep], levels=tree.levels[keep])
            classes = interface.classes(tree)
        image = LabelledImage("image", "image", Path("image"), 1, tree, classes)
        return prediction(image, from_name=interface.brush, to_name=interface.image)

    def _tree(self, address: str) -> MaskTree:
        if address not in self._trees:
            self._trees[address] = self.segmenter(Image.open(io.BytesIO(self.read(address))))
            for old in list(self._trees)[:-KEPT_TREES]:
                del self._trees[old]
        return self._trees[address]

    def read(self, address: str) -> bytes:
        """The file of an image."""
        parts = urllib.parse.urlsplit(address)
        if parts.path == "/data/local-files/" and not parts.netloc and self.root is not None:
            path = (self.root / urllib.parse.parse_qs(parts.query).get("d", [""])[0]).resolve()
            if not path.is_relative_to(self.root.resolve()) or not path.is_file():
                raise MasktreeError(f"expected a file below {self.root}; got {address}")
            return path.read_bytes()
        server = urllib.parse.urlsplit(self.label_studio)
        if parts.netloc not in ("", server.netloc) or parts.scheme not in ("", server.scheme):
            raise MasktreeError(f"expected an image of {self.label_studio}, or a local file (--root); got {address}")
        url = urllib.parse.urljoin(self.label_studio, address)
        request = urllib.request.Request(url, headers={"Authorization": f"Token {self.token}"} if self.token else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content: bytes = answer.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise MasktreeError(f"expected an image at {url}; got {error}; is the --token right?") from error
        if len(content) > MAX_IMAGE_BYTES:
            raise MasktreeError(f"expected an image of at most {MAX_IMAGE_BYTES:,} bytes; got more at {url}")
        return content


def clicked(tree: MaskTree, prompts: list[dict[str, Any]]) -> tuple[MaskTree, tuple[str, ...]]:
    """The mask that clicks and a box mean, as a tree of one mask, and its label.

    Coordinates are percentages of the image's sides. A click that is not ``is_positive`` is one outside.
    """
    height, width = tree.size
    points, labels, box = [], [], None
    for prompt in prompts:
        value = prompt["value"]
        x, y = value["x"] * width / 100, value["y"] * height / 100
        if prompt["type"].startswith("rectangle"):
            box = [x, y, x + value["width"] * width / 100, y + value["height"] * height / 100]
        else:
            points.append([min(x, width - 1e-3), min(y, height - 1e-3)])
            labels.append(int(bool(prompt.get("is_positive", 1))))
    masks, scores, _ = masktree.Predictor(tree).predict(points or None, labels or None, box=box, multimask_output=False)
    names = prompts[-1]["value"].get(prompts[-1]["type"]) or [""]
    return MaskTree.from_masks(masks, scores=scores), (names[0],)


def application(backend: Backend) -> Starlette:
    """The endpoints that Label Studio calls."""

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "masktree"})

    async def setup(_: Request) -> JSONResponse:
        return JSONResponse({"model_version": SOFTWARE})

    async def predict(request: Request) -> JSONResponse:
        try:
            asked = await request.json()
            tasks, config, params = asked["tasks"], asked["label_config"], asked.get("params") or {}
            if len(tasks) > MAX_TASKS:
                raise MasktreeError(f"expected at most {MAX_TASKS} tasks at once; got {len(tasks)}")
            results = await run_in_threadpool(backend.predict, tasks, config, params.get("context"))
        except MasktreeError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse({"error": f"expected tasks and a label_config as of Label Studio; got {error!r}"}, 400)
        return JSONResponse({"results": results, "model_version": SOFTWARE})

    async def nothing(_: Request) -> JSONResponse:
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/", health),
            Route("/health", health),
            Route("/setup", setup, methods=["POST"]),
            Route("/predict", predict, methods=["POST"]),
            Route("/train", nothing, methods=["POST"]),
            Route("/webhook", nothing, methods=["POST"]),
        ]
    )


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="backbone or trained model, as for masktree.load")
    parser.add_argument("--root", type=Path, help="folder that Label Studio serves local files from")
    parser.add_argument("--label-studio", default="http://localhost:8080", help="address of Label Studio")
    parser.add_argument("--token", default=os.environ.get("LABEL_STUDIO_API_KEY", ""), help="its access token")
    parser.add_argument("--level", nargs="+", choices=LEVELS, default=LEVELS, help="levels of the masks to give")
    parser.add_argument("--min-score", type=float, default=0.0)
    parser.add_argument("--min-area", type=float, default=0)
    parser.add_argument("--max-masks", type=int, default=30, help="of an image, best first")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    given = parser.parse_args()
    backend = Backend(
        masktree.load(given.model),
        given.root,
        given.label_studio,
        given.token,
        tuple(given.level),
        given.min_score,
        given.min_area,
        given.max_masks,
    )
    uvicorn.run(application(backend), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
