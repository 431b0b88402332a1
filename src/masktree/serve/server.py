"""Runs the page: binds the address, prints it, serves until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from masktree.errors import InputError
from masktree.io.files import lock_folder
from masktree.serve.app import create_app
from masktree.serve.folder import Folder, choose_output
from masktree.serve.safety import Policy, hosts_of, is_loopback
from masktree.serve.site import Site

HEADER_SECONDS = 10.0  # that a client may take for the head of a request (our choice)
MAX_CONNECTIONS = 1024  # that are open at once (our choice)
_SHUTDOWN_SECONDS = 3  # that requests have to end after Ctrl-C (our choice)
_MIB = 2**20


@dataclass(frozen=True)
class ServeOptions:
    """Where the page is served, and to whom.

    Attributes:
        host: address to listen on.
        port: number; 0 takes any free one.
        token: that the address has to have; ``none`` lets everybody of this machine in; None makes one.
        open_browser: whether to open the page.
        max_upload: MB of an upload.
        workers: processes that segment.

    Raises:
        InputError: a value out of range, or no token on an address that other machines reach.
    """

    host: str = "127.0.0.1"
    port: int = 8799
    token: str | None = None
    open_browser: bool = True
    max_upload: int = 200
    workers: int = 1

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--port", self.port, 0, 65535),
            ("--max-upload", self.max_upload, 1, 100_000),
            ("--workers", self.workers, 1, 256),
        ):
            if not low <= value <= high:
                raise InputError(f"expected {name} from {low} to {high}; got {value}")
        if self.token is not None and not (self.token.isascii() and self.token.isalnum()):
            raise InputError(
                "expected --token as letters and digits, or none; got another; leave it out to have one made"
            )
        if self.token == "none" and not is_loopback(self.host):
            raise InputError(
                f"expected a token with --host {self.host}, which other machines reach; got none; omit --token"
            )

    def policy(self, port: int) -> Policy:
        """Who is let in."""
        token = None if self.token == "none" else self.token or secrets.token_urlsafe(16)
        return Policy(
            token=token,
            cookie=f"masktree_{port}",  # browsers do not tell ports apart
            hosts=hosts_of(self.host),
            any_address=not is_loopback(self.host),
            max_upload=self.max_upload * _MIB,
        )


def serve(
    source: Path | None,
    output: Path | None = None,
    options: ServeOptions | None = None,
    *,
    images: Path | None = None,
) -> int:
    """Serve a folder until Ctrl-C; returns the exit code.

    Args:
        source: folder of images or of trees, or an image; None serves uploads only.
        output: folder of trees, edits and uploads; None is ``source`` if it holds trees, else out/serve.
        options: address, token and limits.
        images: folder of the photographs of trees.

    Raises:
        InputError: the port is in use, there are no images, or another process writes to ``output``.
    """
    options = options or ServeOptions()
    output = choose_output(source, output)
    listener = listen(options.host, options.port)
    with listener, lock_folder(output):
        folder = Folder.open(source, output, images)
        port = listener.getsockname()[1]
        policy = options.policy(port)
        _announce(folder, options, policy, port)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(Site.open(folder, options.workers), policy),
                http=TimedProtocol,
                ws="none",
                lifespan="on",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        # Raised once uvicorn has stopped, but not where a shell has started this in its background.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        print("stopped; all edits are saved", file=sys.stderr)
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is in use or needs other rights, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"expected --host as an address of this machine; got {host}; omit it for 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        remedy = "; stop what uses it, or give another --port" if error.errno == errno.EADDRINUSE else ""
        raise InputError(f"expected a free port; got {host} port {port}: {error.strerror}{remedy}") from error
    return listener


def _announce(folder: Folder, options: ServeOptions, policy: Policy, port: int) -> None:
    """Print the address, and what the user should know."""
    if not is_loopback(options.host):
        print(
            f"masktree: warning: everybody who reaches {options.host} and has the address with its token can see these "
            "images and change their trees, and nothing is encrypted",
            file=sys.stderr,
        )
    if folder.refused:
        names = ", ".join(path.name for path in sorted(folder.refused)[:3])
        print(f"masktree: {len(folder.refused)} left out, as they are links to elsewhere ({names})", file=sys.stderr)
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    address += f"?token={policy.token}" if policy.token else ""
    count = f"{len(folder)} image{'s' * (len(folder) != 1)}"
    print(f"{count}; results in {folder.output}; open {address} (Ctrl-C stops)", flush=True)
    if options.open_browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, with a time limit for the head of a request, which uvicorn does not have."""

    _head_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        """Start the clock when a head is expected, stop it when there is one."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._close)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
