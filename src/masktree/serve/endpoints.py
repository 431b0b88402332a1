"""What answers each address of the interface; ``app.py`` lists them."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.from_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from masktree.discover.methods import METHODS
from masktree.errors import InputError, MasktreeError
from masktree.serve.answers import RefusalError, compress, compressed, public_text, read_object, take
from masktree.serve.documents import Applied, Snapshot
from masktree.serve.folder import Entry
from masktree.serve.jobs import Job
from masktree.serve.jobs import Request as SegmentRequest
from masktree.serve.picture import DEFAULT_SIDE, Encoded
from masktree.serve.site import Site

if TYPE_CHECKING:
    from masktree.export.image import LabelledImage

_MAX_EXPORTED = 100_000  # images of an export (our choice)


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def _entry(request: Request) -> Entry:
    return _site(request).folder[request.path_params["id"]]


def _whole_number(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"expected {name} as a whole number; got {text[:40]!r}")
    return int(text)


# --- looking ----------------------------------------------------------------------------------------------------------


async def list_images(request: Request) -> Response:
    """All images with what is known of them."""
    site = _site(request)

    def work() -> bytes:
        from masktree.serve.exports import formats

        folder = site.folder
        folder.look_again()
        return json.dumps(
            {
                "folder": (folder.root or folder.output).name,
                "methods": list(METHODS),
                "formats": formats(),
                "images": [_describe(site, entry) for entry in folder.entries()],
            }
        ).encode()

    body = await site.threads.run(work, site.threads.lists)
    return Response(body, media_type="application/json")


def _describe(site: Site, entry: Entry) -> dict[str, Any]:
    facts, job = site.folder.facts(entry), site.jobs.find(entry)
    status = "done" if facts.masks is not None else "none"
    error = facts.error
    if job is not None:
        status, error = job.status, job.error
    elif error is not None:
        status = "failed"
    return {
        "id": entry.id,
        "name": entry.label,
        "width": facts.width,
        "height": facts.height,
        "status": status,
        "progress": None if job is None else job.progress,
        "masks": facts.masks,
        "edits": facts.edits,
        "error": None if error is None else public_text(error, site.folder.folders),
    }


async def picture(request: Request) -> Response:
    """The photograph, reduced to ``side``."""
    site, entry, side = _site(request), _entry(request), _whole_number(request, "side", DEFAULT_SIDE)
    assert side is not None
    return _encoded(await site.threads.run(lambda: site.pictures.picture(entry, side), site.threads.pictures))


async def thumbnail(request: Request) -> Response:
    """A small picture of the photograph."""
    site, entry = _site(request), _entry(request)
    return _encoded(await site.threads.run(lambda: site.pictures.thumbnail(entry), site.threads.pictures))


def _encoded(picture: Encoded) -> Response:
    height, width = picture.full_size
    return Response(picture.data, media_type=picture.media_type, headers={"X-Full-Size": f"{width} {height}"})


async def tree(request: Request) -> Response:
    """The masks with their edits."""
    site = _site(request)
    snapshot = await site.documents.read(_entry(request))
    response = await _json_response(request, snapshot.record)

    async def prepare_clicks() -> None:
        site.clicks.prepare(snapshot)

    response.background = BackgroundTask(prepare_clicks)
    return response


async def _json_response(request: Request, record: Callable[[], dict[str, Any]]) -> Response:
    threads = _site(request).threads
    body = await threads.run(lambda: compress(json.dumps(record(), separators=(",", ":")).encode()), threads.maps)
    return compressed(body, "application/json")


async def smallest_mask_map(request: Request) -> Response:
    """For each pixel the smallest mask on it."""
    snapshot = await _snapshot_at(request)

    def work() -> bytes:
        from masktree.serve.maps import smallest_masks

        found = smallest_masks(snapshot.tree, snapshot.ids)
        assert found is not None  # of the whole image
        return compress(found.labels.tobytes())

    from masktree.serve.maps import reduced_size, reduction

    factor = reduction(snapshot.tree.size)
    height, width = reduced_size(snapshot.tree.size, factor)
    body = await _mapped(request, (*snapshot.key, "map"), work)
    return compressed(
        body, "application/octet-stream", {"X-Map-Size": f"{width} {height}", "X-Map-Factor": str(factor)}
    )


async def overlaps(request: Request) -> Response:
    """What of overlapping masks the chain of the smallest mask does not reach."""
    snapshot = await _snapshot_at(request)

    def work() -> bytes:
        from masktree.serve.maps import overlaps_json

        return compress(overlaps_json(snapshot.tree, snapshot.ids))

    return compressed(await _mapped(request, (*snapshot.key, "overlaps"), work), "application/json")


async def regions(request: Request) -> Response:
    """The dendrogram for the slider."""
    snapshot = await _site(request).documents.read(_entry(request))
    dendrogram = snapshot.tree.dendrogram
    if dendrogram is None:
        raise RefusalError(404, "expected a tree with a dendrogram, as of the method masktree; got masks only")

    def work() -> bytes:
        from masktree.serve.maps import regions as leaf_map

        return compress(leaf_map(dendrogram))

    return compressed(await _mapped(request, (*snapshot.key[:2], "regions"), work), "application/octet-stream")


async def _snapshot_at(request: Request) -> Snapshot:
    """The tree, if it is the version that is asked for."""
    version, snapshot = _whole_number(request, "version", None), await _site(request).documents.read(_entry(request))
    if version is not None and version != snapshot.version:
        raise RefusalError(
            409,
            f"expected version {snapshot.version}; got {version}; load the tree again",
            version=snapshot.version,
        )
    return snapshot


async def _mapped(request: Request, key: tuple[Any, ...], work: Callable[[], bytes]) -> bytes:
    site = _site(request)
    return await site.threads.run(lambda: site.maps.get(key, work), site.threads.maps)


# --- segmenting and clicking ------------------------------------------------------------------------------------------


async def segment(request: Request) -> Response:
    """Queue an image."""
    site, entry, body = _site(request), _entry(request), await read_object(request)
    wanted = SegmentRequest(
        take(body, "method", str, "masktree"), take(body, "quality", str, "fast"), take(body, "detail", str, "auto")
    )
    await site.threads.run(lambda: site.folder.photo(entry, for_segmenting=True), site.threads.lists)
    async with site.documents.alone(entry):
        if entry.log.exists():
            raise RefusalError(
                409,
                f"expected an image without edits; got those in {entry.log.name}; move that file away",
            )
        job = site.jobs.submit(entry, wanted)
    return JSONResponse(_job_record(job), 202)


def _job_record(job: Job) -> dict[str, Any]:
    return {"id": job.entry.id, "status": job.status, "progress": job.progress}


async def cancel(request: Request) -> Response:
    """Take an image out of the queue, or end the process that works on it."""
    _site(request).jobs.cancel(_entry(request))
    return JSONResponse({})


async def click(request: Request) -> Response:
    """Masks for clicks and a box."""
    site, entry, body = _site(request), _entry(request), await read_object(request)
    points, labels = take(body, "points", list, []), take(body, "labels", list, [])
    box, granularity = take(body, "box", list, None), take(body, "granularity", (int, float), None)
    snapshot = await site.documents.read(entry)
    masks = await site.threads.run(
        lambda: site.clicks.answer(snapshot, points, labels, box, granularity), site.threads.clicks
    )
    return JSONResponse({"masks": masks})


# --- changing ---------------------------------------------------------------------------------------------------------


async def edit(request: Request) -> Response:
    """Apply an edit to a version of the tree; answered when it is on disk."""
    site, entry, body = _site(request), _entry(request), await read_object(request)
    version, wanted = take(body, "version", int), take(body, "edit", dict)
    job = site.jobs.find(entry)
    if job is not None and job.status != "failed":
        raise RefusalError(409, "expected no edit while the image is segmented; got one; wait, or cancel that")
    applied = await site.documents.apply(entry, version, wanted)
    return await _json_response(request, lambda: {**applied.record(), "map": _map_record(applied)})


def _map_record(applied: Applied) -> dict[str, Any] | None:
    """The part of the map that an edit has changed; None if it has changed no pixel."""
    from masktree.serve.maps import smallest_masks

    found = None if applied.box is None else smallest_masks(applied.after.tree, applied.after.ids, applied.box)
    if found is None:
        return None
    height, width = found.labels.shape
    labels = base64.b64encode(compress(found.labels.tobytes())).decode()
    return {"box": [found.left, found.top, width, height], "labels": labels}


async def upload(request: Request) -> Response:
    """Store images that were dropped on the page."""
    from masktree.serve.uploads import MAX_FILES, store

    site = _site(request)
    stored: list[str] = []
    refused: list[dict[str, str]] = []
    async with request.form(max_files=MAX_FILES, max_fields=0) as form:
        for _, value in form.multi_items():
            if isinstance(value, str):
                continue
            name, content = value.filename or "", value.file
            try:
                entry = await site.threads.run(
                    lambda name=name, content=content: store(site.folder, name, content),  # type: ignore[misc]
                    site.threads.files,
                )
                stored.append(entry.id)
            except (MasktreeError, OSError) as error:
                text = str(error) if isinstance(error, MasktreeError) else f"cannot store it: {error.strerror}"
                refused.append({"name": Path(name).name[:200], "error": public_text(text, site.folder.folders)})
    return JSONResponse({"images": stored, "refused": refused})


async def export(request: Request) -> Response:
    """The trees with their edits as files of another tool."""
    from masktree.serve import exports
    from masktree.stages.export import check_options

    site, body = _site(request), await read_object(request)
    to, ids = take(body, "format", str), take(body, "images", list, None)
    options = exports.read_options(take(body, "options", dict, {}))
    entries = [e for e in site.folder.entries() if e.tree.is_file()] if ids is None else _chosen(site, ids)
    if not 0 < len(entries) <= _MAX_EXPORTED:
        raise InputError("expected images that are segmented; got none; segment them first")
    saved = exports.saved_masks(entries, to)
    check_options(to, options)

    def images() -> Iterator[LabelledImage]:
        """One after the other, in the thread of the export."""
        for entry, masks in zip(entries, saved, strict=True):
            yield anyio.from_thread.run(site.documents.call, entry, masks.label)

    folder = Path(tempfile.mkdtemp(prefix="masktree-export-"))
    clean = lambda: shutil.rmtree(folder, ignore_errors=True)  # noqa: E731
    with contextlib.ExitStack() as stack:
        stack.callback(clean)
        path = await site.threads.run(lambda: exports.write(images(), to, options, folder), site.threads.files)
        stack.pop_all()
    return FileResponse(path, filename=path.name, background=BackgroundTask(clean))


def _chosen(site: Site, ids: list[Any]) -> list[Entry]:
    if not all(isinstance(id, str) for id in ids):
        raise InputError("expected images as a list of ids, or null for all; got other values; mend the request")
    return [site.folder[id] for id in dict.fromkeys(ids)]
