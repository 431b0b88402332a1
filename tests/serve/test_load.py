"""Many clients at once, cut connections, and a server that is killed: no acknowledged edit is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from masktree.edits import EditedTree
from tests.edits.planted import planted_tree
from tests.serve.running import TOKEN, planted_site, running, write_photo, write_tree

CLIENTS, EDITS = 100, 2  # edits of each client; one in four is cut off instead of answered


@dataclass
class Client:
    """Makes edits with names of its own, and remembers which were acknowledged."""

    number: int
    port: int
    path: str
    cookie: str
    acknowledged: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.number)
        for k in range(EDITS):
            name = f"client {self.number} edit {k}"
            if chance.random() < 0.25:
                self._cut_off(name, chance)
            self._until_acknowledged(f"{name} again", chance)

    def _until_acknowledged(self, name: str, chance: random.Random) -> None:
        version, end = 0, time.monotonic() + 60
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            while time.monotonic() < end:
                connection.request("POST", self.path, self._body(name, version), self._headers)
                answer = connection.getresponse()
                content = answer.read()
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.acknowledged.append(name)
                    return
                if answer.status != 409:
                    self.errors.append(content.decode())
                    return
                version = json.loads(content)["version"]
                time.sleep(chance.random() * 0.01)
        self.errors.append(f"{name} was never acknowledged")

    def _cut_off(self, name: str, chance: random.Random) -> None:
        """Send a request, or the first part of it, and go away."""
        body = self._body(name, chance.randrange(3))
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{key}: {value}\r\n" for key, value in self._headers.items()) + "\r\n"
        message = head.encode() + body
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=30)) as connection:
            connection.sendall(message[: chance.choice((20, len(message) - 5, len(message)))])
        self.cut.append(name)

    @staticmethod
    def _body(name: str, version: int) -> bytes:
        return json.dumps({"version": version, "edit": {"op": "rename", "id": 0, "name": name}}).encode()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Cookie": self.cookie, "X-Masktree": "1"}


def run_clients(clients: Sequence[Client]) -> None:
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
        assert not thread.is_alive()


def names_in(log: Path) -> list[str]:
    """The names that a log of edits has given, in order."""
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    return [line["name"] for line in lines]


def test_edits_of_many_clients_are_all_in_the_log_once(tmp_path):
    with running(planted_site(tmp_path)) as server:
        ids = server.ids
        names = ("planted", "sub/random")
        clients = [
            Client(i, server.port, f"/api/images/{ids[names[i % 2]]}/edits", f"masktree={TOKEN}")
            for i in range(CLIENTS)
        ]
        run_clients(clients)
        assert server.get("/api/images").status == 200
        logs = {name: server.site.folder[ids[name]].log for name in names}
    assert [error for client in clients for error in client.errors] == []
    assert sum(len(client.acknowledged) for client in clients) == CLIENTS * EDITS
    assert sum((client.statuses for client in clients), Counter())[409] > 0  # they did get into each other's way
    for k, name in enumerate(names):
        counts = Counter(names_in(logs[name]))
        mine = [client for client in clients if client.number % 2 == k]
        acknowledged = [text for client in mine for text in client.acknowledged]
        assert all(counts[text] == 1 for text in acknowledged)
        assert set(counts) <= {*acknowledged, *(text for client in mine for text in client.cut)}
        assert max(counts.values()) == 1
        edited = EditedTree.open(logs[name].with_name(f"{Path(name).name}.json"))
        assert edited.version == len(names_in(logs[name]))
        assert edited.names[0] == names_in(logs[name])[-1]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``masktree serve`` as a user runs it, and its port."""
    command = [sys.executable, "-m", "masktree", "serve", str(folder), "--port", "0", "--no-browser", "--token", TOKEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(rf"open http://127\.0\.0\.1:(\d+)/\?token={TOKEN} ", line)
        assert found, line + (process.stderr.read() if process.stderr and process.poll() is not None else "")
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is one of POSIX")
def test_no_acknowledged_edit_is_lost_when_the_server_is_killed(tmp_path):
    write_photo(tmp_path / "a.png")
    write_tree(planted_tree(), tmp_path / "a.json", tmp_path / "a.png")
    acknowledged: list[str] = []
    with served(tmp_path) as (process, port):
        headers = {"Cookie": f"masktree_{port}={TOKEN}", "X-Masktree": "1"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/images", headers=headers)
        [image] = json.loads(connection.getresponse().read())["images"]

        def edit_until_it_dies() -> None:
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                for version in range(100_000):
                    body = Client._body(f"edit {version}", version)
                    connection.request("POST", f"/api/images/{image['id']}/edits", body, headers)
                    answer = connection.getresponse()
                    assert answer.status == 200
                    acknowledged.append(json.loads(_unpacked(answer))["masks"][0]["name"])

        thread = threading.Thread(target=edit_until_it_dies)
        thread.start()
        while len(acknowledged) < 20:
            assert thread.is_alive()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        thread.join(timeout=30)
    with served(tmp_path) as (process, port):
        headers = {"Cookie": f"masktree_{port}={TOKEN}", "X-Masktree": "1"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", f"/api/images/{image['id']}/tree", headers=headers)
            tree = json.loads(_unpacked(connection.getresponse()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, "stopped; all edits are saved" in errors) == (0, True), errors
    written = names_in(tmp_path / "a.edits.jsonl")
    assert written[: len(acknowledged)] == acknowledged  # in their order; one more may have been on its way
    assert len(written) - len(acknowledged) in (0, 1)
    assert (tree["version"], tree["masks"][0]["name"]) == (len(written), written[-1])


def _unpacked(answer: http.client.HTTPResponse) -> bytes:
    import gzip

    content = answer.read()
    return gzip.decompress(content) if answer.headers.get("Content-Encoding") == "gzip" else content
