"""How the server starts: what it prints, what it opens, and to whom."""

from __future__ import annotations

import re
import time
import webbrowser

import pytest
import uvicorn

from masktree import cli
from masktree.errors import InputError
from masktree.serve.server import ServeOptions, serve
from tests.edits.planted import planted_tree
from tests.serve.running import write_photo, write_tree


@pytest.fixture
def started(monkeypatch) -> list[object]:
    """Servers that were to run; they end at once."""
    found: list[object] = []

    def run(self: object, sockets: object = None) -> None:
        found.append(self)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def test_one_address_is_printed_and_opened(tmp_path, monkeypatch, capsys, started):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    write_photo(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", "photos", "--port", "0"]) == 0
    out, err = capsys.readouterr()
    [address] = re.findall(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}", out)
    assert (out.count("\n"), err) == (1, "stopped; all edits are saved\n")
    assert out.startswith(f"1 image; results in {tmp_path / 'out' / 'serve'}; open ")
    for _ in range(100):
        if opened:
            break
        time.sleep(0.01)
    assert opened == [address]
    assert len(started) == 1


def test_nothing_is_opened_where_that_is_not_wanted(tmp_path, monkeypatch, capsys, started):
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail("opened"))
    photo = tmp_path / "out" / "a.png"
    write_photo(photo)
    write_tree(planted_tree(), photo.with_suffix(".json"), photo)
    assert cli.main(["serve", str(photo.parent), "--port=0", "--no-browser", "--token", "none"]) == 0
    assert re.search(rf"results in {photo.parent}; open http://127\.0\.0\.1:\d+/ \(", capsys.readouterr().out)


def test_other_machines_are_let_in_with_a_warning_and_a_token(tmp_path, capsys, started):
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").symlink_to(tmp_path / "elsewhere.png")
    write_photo(tmp_path / "elsewhere.png")
    serve(tmp_path / "photos", tmp_path / "out", ServeOptions("0.0.0.0", 0, open_browser=False))
    out, err = capsys.readouterr()
    assert "?token=" in out
    warning, left_out, _ = err.splitlines()
    assert warning.startswith("masktree: warning: everybody who reaches 0.0.0.0 ")
    assert left_out == "masktree: 1 left out, as they are links to elsewhere (b.png)"


def test_two_servers_do_not_share_a_folder(tmp_path, monkeypatch, started):
    write_photo(tmp_path / "photos" / "a.png")
    options = ServeOptions(port=0, open_browser=False)
    failures: list[str] = []

    def run(self: object, sockets: object = None) -> None:
        with pytest.raises(InputError) as caught:
            serve(tmp_path / "photos", tmp_path / "out", options)
        failures.append(str(caught.value))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serve(tmp_path / "photos", tmp_path / "out", options)
    assert "no other run writes to" in failures[0]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("photos --port many", "expected a whole number after --port; got many"),
        ("photos --port 70000", "expected --port from 0 to 65535; got 70000"),
        ("photos --browser", "expected an option of masktree serve; got --browser"),
        ("photos more", "expected PATH after masktree serve; got more as well; omit it"),
        ("missing --port 0", "expected an image, a folder with images or a glob that matches; got missing"),
        ("photos --port 0 --host no.such.host.invalid", "expected --host as an address of this machine"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line(tmp_path, monkeypatch, capsys, started, arguments, answer):
    write_photo(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert answer in said
    assert started == []
