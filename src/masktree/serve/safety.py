"""What stands before every request: who may ask, from where, how much and how long."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masktree.serve.answers import RefusalError, error_response

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = ("GET", "HEAD")
UPLOAD_PATH = "/api/upload"
# 'self' for everything: no script or style within the page, nothing from elsewhere; pictures also from memory.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Policy:
    """Who may ask, and limits of requests (all limits are our choice).

    Attributes:
        token: that the address or the cookie has to have; None lets everybody in.
        cookie: name of the cookie.
        hosts: names and addresses by which browsers may call the server.
        any_address: whether IP addresses are allowed too, as on a server for other machines. A page of somebody else
            that has its own name point at this server (DNS rebinding) sends that name.
        max_body: bytes of a request.
        max_upload: bytes of an upload.
        body_seconds, upload_seconds: time that a whole body may take.
        idle_seconds: time between two parts of a body.
        max_requests: requests at work at once; more are answered 503.
    """

    token: str | None
    cookie: str = "masktree"
    hosts: frozenset[str] = _LOOPBACK_NAMES
    any_address: bool = False
    max_body: int = 8 * 2**20
    max_upload: int = 200 * 2**20
    body_seconds: float = 30.0
    upload_seconds: float = 600.0
    idle_seconds: float = 15.0
    max_requests: int = 256

    def knows_host(self, header: str) -> bool:
        """Whether a ``Host`` header names this server, on whatever port (ports may be forwarded)."""
        host = header.rpartition("]")[0].removeprefix("[") if header.startswith("[") else header.partition(":")[0]
        if host.lower() in self.hosts:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return self.any_address


def hosts_of(host: str) -> frozenset[str]:
    """Names by which a server on ``host`` may be called: those of the loopback, its own, and those of this machine."""
    if is_loopback(host):
        return _LOOPBACK_NAMES
    return _LOOPBACK_NAMES | {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address or name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class Guard:
    """ASGI middleware: checks every request before ``app`` sees it, and adds the headers of every answer."""

    app: ASGIApp
    policy: Policy
    _at_work: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send, scope["path"])
        answer = self._refuse(scope, headers) or self._let_in(scope, headers)
        if answer is not None:
            await answer(scope, receive, send)
            return
        self._at_work += 1
        try:
            await self.app(scope, self._limited(receive, scope["path"]), send)
        finally:
            self._at_work -= 1

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is none of ours, or too large."""
        policy, method, path = self.policy, scope["method"], scope["path"]
        if len(headers.getlist("host")) != 1 or not policy.knows_host(headers["host"]):
            return error_response(400, "expected the host that masktree serve has printed; got another; use that one")
        site = headers.get("sec-fetch-site", "none")
        is_navigation = headers.get("sec-fetch-mode") == "navigate" and method == "GET" and path == "/"
        if site not in ("same-origin", "none") and not is_navigation:
            return error_response(403, "expected a request of the page itself; got one of another site")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope.get('scheme', 'http')}://{headers['host']}":
            return error_response(403, "expected a request of the page itself; got one of another origin")
        if method not in _SAFE_METHODS and headers.get("x-masktree") != "1":
            return error_response(403, "expected the header X-Masktree: 1; got none; send it with every change")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or int(length[:20]) > self._max_body(path):
            return error_response(413, self._too_large(path))
        if self._at_work >= policy.max_requests:
            return error_response(
                503, f"expected up to {policy.max_requests} requests at once; got more; try again", retry_after=1
            )
        return None

    def _let_in(self, scope: Scope, headers: Headers) -> Response | None:
        """None for those who have the token; the answer that stores it in the browser, or the refusal."""
        token, cookie = self.policy.token, self.policy.cookie
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token") if scope["path"] == "/" else None
        if token is None:
            return None if given is None else Response(status_code=303, headers={"Location": "/"})
        if given is not None and scope["method"] in _SAFE_METHODS and _are_equal(given[0], token):
            answer = Response(status_code=303, headers={"Location": "/"})
            answer.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
            return answer
        if _are_equal(cookie_parser(headers.get("cookie", "")).get(cookie, ""), token):
            return None
        return error_response(
            403, "expected the address with its token; got none, or another; open the one that masktree serve printed"
        )

    def _max_body(self, path: str) -> int:
        return self.policy.max_upload if path == UPLOAD_PATH else self.policy.max_body

    def _too_large(self, path: str) -> str:
        remedy = "; send fewer at once, or raise --max-upload" if path == UPLOAD_PATH else ""
        return f"expected at most {self._max_body(path) / 2**20:g} MB; got more{remedy}"

    def _limited(self, receive: Receive, path: str) -> Receive:
        """``receive`` that raises ``RefusalError`` when the body is too large or too slow."""
        policy, left, is_complete = self.policy, self._max_body(path), False
        seconds = policy.upload_seconds if path == UPLOAD_PATH else policy.body_seconds
        deadline = time.monotonic() + seconds

        async def limited() -> Message:
            nonlocal left, is_complete
            if is_complete:  # what follows is the end of the connection
                return await receive()
            try:
                wait = min(policy.idle_seconds, deadline - time.monotonic())
                message = await asyncio.wait_for(receive(), max(wait, 0.0))
            except TimeoutError:
                raise RefusalError(
                    408, f"expected the whole request within {seconds:g} seconds; got a part; send it again"
                ) from None
            left -= len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if left < 0:
                raise RefusalError(413, self._too_large(path))
            return message

        return limited


def _are_equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _with_headers(send: Send, path: str) -> Send:
    """``send`` that adds the headers of every answer; only pictures and the files of the page may be kept, and have to
    be asked for again."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-cache" if path.startswith("/static/") else "no-store")
        await send(message)

    return send_with_headers
