"""The addresses of the interface, and what errors become."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from masktree.errors import MasktreeError
from masktree.serve import endpoints
from masktree.serve.answers import RefusalError, error_response, public_text
from masktree.serve.safety import UPLOAD_PATH, Guard, Policy
from masktree.serve.site import Site

STATIC = Path(__file__).parent / "static"


def create_app(site: Site, policy: Policy) -> Guard:
    """The ASGI application of a site."""
    image = "/api/images/{id:str}"
    routes = [
        Route("/", _index),
        Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        Route("/api/images", endpoints.list_images),
        Route(f"{image}/picture", endpoints.picture),
        Route(f"{image}/thumbnail", endpoints.thumbnail),
        Route(f"{image}/tree", endpoints.tree),
        Route(f"{image}/map", endpoints.smallest_mask_map),
        Route(f"{image}/overlaps", endpoints.overlaps),
        Route(f"{image}/regions", endpoints.regions),
        Route(f"{image}/segment", endpoints.segment, methods=["POST"]),
        Route(f"{image}/segment", endpoints.cancel, methods=["DELETE"]),
        Route(f"{image}/click", endpoints.click, methods=["POST"]),
        Route(f"{image}/edits", endpoints.edit, methods=["POST"]),
        Route(UPLOAD_PATH, endpoints.upload, methods=["POST"]),
        Route("/api/export", endpoints.export, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        lifespan=_lifespan,
        exception_handlers={
            RefusalError: _refusal,
            MasktreeError: _wrong_input,
            OSError: _system_error,
            ClientDisconnect: _gone,
            HTTPException: _http_error,
            Exception: _failure,
        },
    )
    app.state.site = site
    return Guard(app, policy)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    threading.Thread(target=_import_early, daemon=True).start()
    yield
    app.state.site.jobs.close()
    app.state.site.clicks.close()


def _import_early() -> None:
    """Import what the first image needs while the user looks at the list: half a second."""
    for name in ("masktree.edits", "masktree.serve.maps", "masktree.prompt.predictor"):
        import_module(name)


async def _index(request: Request) -> Response:
    if not (STATIC / "index.html").is_file():
        raise RefusalError(404, "expected the files of the page; got none; install masktree again")
    return FileResponse(STATIC / "index.html")


def _public(request: Request, text: str) -> str:
    site: Site = request.app.state.site
    return public_text(text, site.folder.folders)


async def _refusal(request: Request, error: Any) -> Response:
    return error_response(
        error.status, _public(request, error.message), retry_after=error.retry_after, version=error.version
    )


async def _wrong_input(request: Request, error: Exception) -> Response:
    return error_response(400, _public(request, str(error)))


async def _system_error(request: Request, error: Any) -> Response:
    print(f"masktree: {request.url.path}: {error}", file=sys.stderr)
    return error_response(503, f"expected to read and write the files of the image; got: {error.strerror}; try again")


async def _gone(request: Request, error: Exception) -> Response:
    return error_response(400, "expected the whole request; got a part")  # nobody reads it


async def _http_error(request: Request, error: Any) -> Response:
    messages = {
        404: "expected an address of masktree serve; got another; load the page again",
        405: "expected another method for this address; got one that it does not have",
    }
    return error_response(error.status_code, messages.get(error.status_code, f"cannot answer: {error.detail}"))


async def _failure(request: Request, error: Exception) -> Response:
    """A fault of ours, whose details go to the terminal."""
    return error_response(500, "expected an answer; got a fault of the server; its terminal tells more")
