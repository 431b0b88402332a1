"""Downloads: from the local cache without asking the network, else downloaded once."""

from __future__ import annotations

import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path


class DownloadError(OSError):
    """A file is neither cached nor downloadable; the text is the reason in one line."""


def from_cache_or_network(cached: Callable[[], Path | None], download: Callable[[], Path], url: str, what: str) -> Path:
    """The path that ``cached`` returns, else that of ``download``.

    Args:
        cached: the local path, None where it is not cached; asks no network.
        download: downloads from the host of ``url``.
        what: is downloaded, for a message on a terminal.

    Raises:
        DownloadError: not cached, and ``HF_HUB_OFFLINE`` is set, the host is unknown, or the download fails.
    """
    from huggingface_hub import constants

    if (path := cached()) is not None:
        return path
    if constants.HF_HUB_OFFLINE:
        raise DownloadError("no cached file while HF_HUB_OFFLINE is set")
    host = urllib.parse.urlsplit(url).hostname
    if host is not None and not urllib.request.getproxies():  # behind a proxy names are resolved elsewhere
        try:
            socket.getaddrinfo(host, None)  # fails at once; the hub's client would retry for half a minute
        except OSError as error:
            raise DownloadError(f"no network: the name {host} cannot be resolved") from error
    if sys.stderr.isatty():  # a bar follows: the hub's client and torch have one
        print(f"downloading {what}, once", file=sys.stderr, flush=True)
    try:
        return download()
    except Exception as error:  # the hub's client passes on many error types of its HTTP library
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise DownloadError(f"{type(error).__name__}: {line}") from error
