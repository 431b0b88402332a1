"""Answers to requests: JSON, refusals of one line, and texts without paths that are nobody's business."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from masktree.errors import FormatError, InputError
from masktree.io.files import parse_json

_GZIP_LEVEL = 1  # a label map of 16 megapixels in a tenth of the time of level 6, a fifth larger
_SMALL_BYTES = 1024  # of answers that are not worth compressing (our choice)
_PATH = re.compile(r"(?<![\w.:/\\-])(?:/|[A-Za-z]:\\)(?:[^\s/\\:;,'\"]+[/\\])*([^\s/\\:;,'\"]*)")


class RefusalError(Exception):
    """A request that is not answered: the status, and one line that says what was expected, what was got, what to do.

    ``retry_after``: seconds after which the same request may succeed. ``version``: the present one of the tree, where
    another was named.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: int | None = None, version: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.version = status, message, retry_after, version


def error_response(
    status: int, message: str, *, retry_after: int | None = None, version: int | None = None
) -> Response:
    """The JSON answer of a refusal; arguments as of ``RefusalError``."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return JSONResponse({"error": message} | ({} if version is None else {"version": version}), status, headers)


def public_text(text: str, folders: Sequence[Path]) -> str:
    """A message in which paths below ``folders`` are relative and others have lost their folders."""
    for folder in sorted((str(folder) for folder in folders), key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
    return _PATH.sub(r"\1", " ".join(text.split()))


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        InputError: no JSON, or another value: NaN, numbers of more than 4300 digits and deep nesting included.
    """
    try:
        value = parse_json(await request.body(), "the request")
    except FormatError as error:
        raise InputError("expected a body of JSON in UTF-8, without NaN; got other text; mend the request") from error
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object; got {type(value).__name__}; mend the request")
    return value


def take(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """A value of a request by name, of a type; ``default`` where it is missing or null.

    Raises:
        InputError: missing without a default, or of another type.
    """
    value = body.get(name)
    if value is None and default is not ...:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"expected {name} as {expected}; got {type(value).__name__}; mend the request")
    return value


def compress(data: bytes) -> bytes:
    """gzip, fast, without a time stamp, so that equal data give equal bytes."""
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


def compressed(data: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of bytes that :func:`compress` has made; the browser unpacks them."""
    return Response(data, media_type=media_type, headers={"Content-Encoding": "gzip", **(headers or {})})
