"""A server with the part of the Hugging Face hub's HTTP interface that an upload and a download of a model take."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        files: content by ``owner/name/path``.
        private: of each repository that was made.
        commits: number of uploads.
        tokens: that came with uploads.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.commits = 0
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            is_private = wanted.get("private") or wanted.get("visibility") == "private"
            self.server.private.setdefault(name, bool(is_private))
            self._answer({"url": f"{self.server.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif self.headers.get("Authorization") == "Bearer wrong":
            self._answer({"error": "You may not write here"}, 403)
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    name = "/".join([*parts[2:4], line["value"]["path"]])
                    self.server.files[name] = base64.b64decode(line["value"]["content"])
            self.server.commits += 1
            self.server.tokens.append(self.headers.get("Authorization"))
            url = f"{self.server.address}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":
            name = "/".join(parts[2:4])
            files = {path[len(name) + 1 :]: data for path, data in self.server.files.items() if path.startswith(name)}
            if not files:
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif "tree" in parts:
                tree = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                self._answer(tree)
            else:
                self._answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})
            return
        data = self.server.files.get("/".join([*parts[:2], *parts[4:]]))
        if data is None:
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._answer(data, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    do_HEAD = do_GET  # noqa: N815
