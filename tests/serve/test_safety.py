"""Who is let in, how much and how long, and what answers do not tell."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
import zlib
from pathlib import Path

import pytest

from masktree.serve.answers import public_text
from masktree.serve.folder import Folder
from masktree.serve.safety import Policy, hosts_of, is_loopback
from masktree.serve.site import Site
from tests.edits.planted import planted_tree
from tests.serve.running import TOKEN, planted_site, running, write_photo, write_tree


def raw(port: int, text: bytes, wait: float = 5.0) -> bytes:
    """What the server answers to these bytes, until it closes the connection or is silent."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=wait)) as connection:
        connection.sendall(text)
        parts = []
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)


# --- who --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8799", "127.0.0.1.evil.example", "10.0.0.7", "", "[::2]"]
)
def test_a_foreign_host_is_refused(server, host):
    answer = server.get("/api/images", headers={"Host": host})
    assert (answer.status, "host" in answer.error) == (400, True)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9999", "[::1]:80", "[::1]"])
def test_names_of_this_machine_are_hosts_on_any_port(server, host):
    assert server.get("/api/images", headers={"Host": host}).status == 200


def test_two_hosts_are_refused(server):
    text = f"GET /api/images HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nCookie: masktree={TOKEN}\r\n\r\n"
    assert raw(server.port, text.encode()).startswith(b"HTTP/1.1 400")


def test_addresses_are_hosts_where_other_machines_are_let_in():
    policy = Policy("t", hosts=hosts_of("0.0.0.0"), any_address=True)
    assert policy.knows_host("192.168.1.5:8799")
    assert policy.knows_host(socket.gethostname())
    assert not policy.knows_host("evil.example")
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "evil")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize("path", ["/", "/api/images", "/static/main.js", "/api/nothing", "/?token=wrong", "/?token="])
def test_without_the_token_there_is_nothing(server, path):
    for cookie in (None, "masktree=wrong", "masktree=", f"other={TOKEN}"):
        assert server.get(path, headers={"Cookie": cookie}).status == 403


def test_the_address_with_the_token_sets_a_cookie_that_scripts_and_other_sites_cannot_use(server):
    answer = server.get(f"/?token={TOKEN}", headers={"Cookie": None})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"masktree={TOKEN};")
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert server.get(f"/api/images?token={TOKEN}", headers={"Cookie": None}).status == 403


def test_no_token_is_needed_where_none_is_set(tmp_path):
    with running(planted_site(tmp_path), token=None) as server:
        assert server.get("/api/images", headers={"Cookie": None}).status == 200
        assert server.get("/?token=x", headers={"Cookie": None}).status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Masktree": None},
        {"X-Masktree": "0"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_changes_come_from_the_page_alone(server, headers, method):
    path = f"/api/images/{server.ids['bare']}/segment"
    filled = {name: value and value.format(port=server.port) for name, value in headers.items()}
    assert server.call(method, path, {}, headers=filled).status == 403
    assert server.site.jobs.find(server.site.folder[server.ids["bare"]]) is None


def test_the_page_itself_may_ask(server):
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    path = f"/api/images/{server.ids['planted']}/edits"
    edit = {"version": 0, "edit": {"op": "accept", "ids": [0]}}
    assert server.post(path, edit, headers=own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.get(f"/?token={TOKEN}", headers=link).status == 303
    assert server.get("/api/images", headers=link).status == 403


# --- how much, how long -----------------------------------------------------------------------------------------------


def test_bodies_that_are_too_large_are_refused(tmp_path):
    with running(planted_site(tmp_path), max_body=1000, max_upload=2000) as server:
        path = f"/api/images/{server.ids['planted']}/edits"
        assert server.post(path, b"[" * 1001).status == 413
        assert server.post("/api/upload", b"x" * 2001).status == 413
        # Without a length, and with one that is a lie
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nCookie: masktree={TOKEN}\r\nX-Masktree: 1\r\n"
        chunks = (
            b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1F4\r\n"
            + b"[" * 500
            + b"\r\n"
            + b"258\r\n"
            + b"[" * 600
            + b"\r\n"
        )
        assert raw(server.port, head.encode() + chunks, 2).startswith(b"HTTP/1.1 413")
        assert raw(server.port, head.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n").split()[1] in (
            b"400",
            b"413",
        )


def test_a_slow_body_is_cut_off(tmp_path):
    with running(planted_site(tmp_path), idle_seconds=0.2, body_seconds=0.5) as server:
        path = f"/api/images/{server.ids['planted']}/edits"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nCookie: masktree={TOKEN}\r\nX-Masktree: 1\r\n".encode()
        assert raw(server.port, head + b'Content-Length: 50\r\n\r\n{"a"').startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(head + b"Content-Length: 500\r\n\r\n")
            with contextlib.suppress(ConnectionError, BrokenPipeError):  # never idle, and still cut off
                for _ in range(40):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            connection.settimeout(1)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert server.get("/api/images").status == 200


def test_a_head_that_does_not_come_closes_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr("masktree.serve.server.HEADER_SECONDS", 0.2)
    with running(planted_site(tmp_path)) as server:
        assert raw(server.port, b"") == b""
        assert raw(server.port, b"GET / HTTP/1.1\r\nHost: loc") == b""
        # a second head on a connection that is kept
        first = f"GET /api/images HTTP/1.1\r\nHost: localhost\r\nCookie: masktree={TOKEN}\r\n\r\nGET / HT".encode()
        assert raw(server.port, first).count(b"HTTP/1.1 ") == 1


def test_more_requests_than_there_may_be_are_told_to_wait(tmp_path):
    with running(planted_site(tmp_path), max_requests=0) as server:
        answer = server.get("/api/images")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/..%2f..%2fetc%2fpasswd/picture",
        "/api/images/../../etc/passwd",
        "/api/images/%00/picture",
        "/api/images/%F0%9F/tree",
        "/api/images/con/thumbnail",
        "/api/images/" + "a" * 2000 + "/tree",
        "/etc/passwd",
        "//evil.example/",
    ],
)
def test_paths_lead_nowhere(server, path):
    answer = server.get(path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert answer.error.startswith("expected ")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/..%5cserver.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/C:%5cWindows",
    ],
)
def test_the_files_of_the_page_are_all_that_static_serves(server, path):
    answer = server.get(path)
    assert answer.status == 404
    assert b"import" not in answer.body


def test_links_out_of_the_folder_are_left_out_and_said(tmp_path):
    photos = tmp_path / "photos"
    write_photo(tmp_path / "secret.png")
    write_photo(photos / "a.png")
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    folder = Folder.open(photos, tmp_path / "out")
    assert [entry.label for entry in folder.entries()] == ["a.png"]
    assert [path.name for path in folder.refused] == ["link.png"]
    with running(Site.open(folder)) as server:
        (photos / "a.png").unlink()
        (photos / "a.png").symlink_to(tmp_path / "secret.png")  # exchanged while it is served
        answer = server.get(f"/api/images/{server.ids['a']}/picture")
        assert (answer.status, str(tmp_path) in answer.error) == (403, False)
        assert server.post(f"/api/images/{server.ids['a']}/segment", {}).status == 403


def test_a_tree_shows_no_photograph_but_its_own(tmp_path):
    secret, out = tmp_path / "secret.png", tmp_path / "out"
    write_photo(secret)
    write_tree(planted_tree(), out / "honest.json", secret)
    planted_tree().save(out / "forged.json", image={"file_name": str(secret), "sha256": "0" * 64})
    planted_tree().save(out / "blank.json", image={"file_name": str(secret)})
    with running(Site.open(Folder.open(out, out))) as server:
        assert server.get(f"/api/images/{server.ids['honest']}/picture").status == 200
        for name in ("forged", "blank"):
            assert server.get(f"/api/images/{server.ids[name]}/picture").status == 409
            assert server.get(f"/api/images/{server.ids[name]}/tree").status == 200
            assert server.post(f"/api/images/{server.ids[name]}/segment", {}).status == 409


# --- what -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b"{",
        b"[" * 100_000,
        b'{"version": ' + b"9" * 5000 + b', "edit": {}}',
        b'{"version": NaN, "edit": {}}',
        b'{"version": 1e999, "edit": {}}',
        b'{"version": true, "edit": {}}',
        b'{"version": 0, "edit": {"op": "accept", "ids": [Infinity]}}',
        b'{"version": 0, "edit": {"op": "accept", "ids": [1e400]}}',
        b'{"version": 0, "edit": {"op": "accept", "ids": [' + b"9" * 400 + b"]}}",
        b'{"version": 0, "edit": {"op": {"a": []}}}',
        b'{"version": 0, "edit": {"op": "rename", "id": 0, "name": "\\ud800"}}',
        b'{"version": 0, "edit": {"op": "create", "rle": {"size": [40, 50], "counts": "\xff"}}}',
        b'{"version": 0, "edit": {"op": "create", "rle": {"size": [4000000000, 5], "counts": "0"}}}',
        b"\xff\xfe\x00",
    ],
)
def test_hostile_json_changes_nothing(server, body):
    path = f"/api/images/{server.ids['planted']}"
    answer = server.post(f"{path}/edits", body)
    assert answer.status in (400, 409)
    assert len(answer.error) < 400
    assert server.get(f"{path}/tree").json["version"] == 0
    assert not server.site.folder[server.ids["planted"]].log.exists()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_unknown_methods_are_refused(server, method):
    assert server.call(method, f"/api/images/{server.ids['planted']}/tree").status in (400, 405)
    assert server.post(f"/api/images/{server.ids['planted']}/tree").status == 405


def test_an_image_that_is_larger_than_it_looks_is_refused(server):
    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")

    (server.site.folder.root / "bare.png").write_bytes(png(60_000, 60_000))
    listed = {image["name"]: image for image in server.get("/api/images").json["images"]}
    assert (listed["bare.png"]["status"], "pixels" in listed["bare.png"]["error"]) == ("failed", True)
    answer = server.get(f"/api/images/{server.ids['bare']}/picture")
    assert (answer.status, "pixels" in answer.error) == (400, True)
    body = (
        b'--X\r\nContent-Disposition: form-data; name="f"; filename="b.png"\r\n\r\n'
        + png(60_000, 60_000)
        + b"\r\n--X--\r\n"
    )
    uploaded = server.post("/api/upload", body, headers={"Content-Type": "multipart/form-data; boundary=X"}).json
    assert (uploaded["images"], "pixels" in uploaded["refused"][0]["error"]) == ([], True)
    assert list((server.site.folder.output / "uploads").iterdir()) == []


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain", ""])
def test_uploads_without_form_store_nothing(server, content_type):
    answer = server.post("/api/upload", b"--X\r\nrubbish", headers={"Content-Type": content_type})
    assert answer.status in (200, 400)
    assert not (server.site.folder.output / "uploads").exists()


# --- what answers tell ------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_of_safety(server):
    picture = f"/api/images/{server.ids['planted']}/picture"
    answers = [server.get(path) for path in ("/api/images", picture, "/nowhere")]
    answers += [server.get("/", headers={"Cookie": None}), server.get("/", headers={"Host": "evil"})]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "access-control-allow-origin" not in answer.headers
    assert answers[1].headers["cache-control"] == "no-store"


def test_errors_name_no_folder_outside_and_no_line_of_code(server, caplog, monkeypatch):
    entry = server.site.folder[server.ids["bare"]]
    entry.photo.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    answer = server.get(f"/api/images/{entry.id}/picture")
    assert answer.status == 400
    for part in Path(server.site.folder.root).parts[1:-1]:
        assert f"/{part}" not in answer.body.decode()
    entry.tree.write_bytes(b'{"format": "masktree", "version": 2')
    broken = server.get(f"/api/images/{entry.id}/tree")
    assert (broken.status, str(server.site.folder.output) in broken.body.decode()) == (400, False)

    def fail(*_: object) -> None:
        raise RuntimeError(f"secret in {entry.photo}")

    monkeypatch.setattr(server.site.pictures, "thumbnail", fail)
    caplog.set_level(logging.CRITICAL)
    fault = server.get(f"/api/images/{entry.id}/thumbnail")
    assert fault.status == 500
    assert "secret" not in fault.body.decode()
    assert "Traceback" not in fault.body.decode()


def test_paths_in_messages_lose_their_folders():
    folders = [Path("/data/photos"), Path("/data/photos/out")]
    for text, expected in (
        ("cannot read /data/photos/sub/a.png: no file", "cannot read sub/a.png: no file"),
        ("/data/photos/out/a.json: damaged", "a.json: damaged"),
        ("expected '/home/me/x.png', got C:\\Users\\me\\y.png", "expected 'x.png', got y.png"),
        ("expected 1/2 of GET /api at http://localhost/x", "expected 1/2 of GET api at http://localhost/x"),
        ("two\nlines\tand tabs", "two lines and tabs"),
    ):
        assert public_text(text, folders) == expected
