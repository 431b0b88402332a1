"""Which images are served, and where their files lie."""

from __future__ import annotations

import os

import pytest

from masktree.errors import InputError
from masktree.serve.folder import DEFAULT_OUTPUT, Folder, choose_output
from masktree.serve.server import ServeOptions, listen, serve
from tests.edits.planted import planted_tree
from tests.serve.running import write_photo, write_tree


def test_trees_go_beside_trees_and_to_a_folder_of_their_own_otherwise(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photo(photos / "a.png")
    write_tree(planted_tree(), out / "a.json", photos / "a.png")
    assert choose_output(out, None) == out
    assert choose_output(photos, None) == DEFAULT_OUTPUT
    assert choose_output(None, None) == DEFAULT_OUTPUT
    assert choose_output(photos, out) == out
    with pytest.raises(InputError, match="expected no -o for trees"):
        choose_output(out, tmp_path / "other")


def test_images_of_a_folder_and_its_trees_are_found_once(tmp_path):
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "sub" / "b.jpg")
    write_tree(planted_tree(), tmp_path / "a.json", tmp_path / "a.png")
    write_photo(tmp_path / "uploads" / "c-1.png")
    folder = Folder.open(tmp_path, tmp_path)
    assert sorted(entry.label for entry in folder.entries()) == ["a.png", "sub/b.jpg", "uploads/c-1.png"]
    assert len({entry.id for entry in folder.entries()}) == 3
    assert all(len(entry.id) == 12 and int(entry.id, 16) >= 0 for entry in folder.entries())


def test_images_of_the_output_folder_are_not_those_of_the_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / DEFAULT_OUTPUT / "uploads" / "c-1.png")
    folder = Folder.open(tmp_path, DEFAULT_OUTPUT)
    assert sorted(entry.name for entry in folder.entries()) == ["a", "uploads/c-1"]


def test_images_that_come_later_are_found_and_foreign_ones_left_out(tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photo(photos / "b.png")
    folder = Folder.open(photos, out)
    folder.look_again()
    assert [entry.label for entry in folder.entries()] == ["b.png"]
    write_photo(photos / "new" / "c.png")
    write_photo(photos / "a.png", seed=1)
    write_photo(out / "uploads" / "d-1.png")
    folder.look_again()
    labels = ["a.png", "b.png", "new/c.png", "uploads/d-1.png"]
    assert [entry.label for entry in folder.entries()] == labels
    write_photo(photos / "new" / "e.png", seed=2)
    write_tree(planted_tree(), out / "new" / "e.json", photos / "a.png")
    (photos / "link.png").symlink_to("/etc/hostname")
    for _ in range(2):
        folder.look_again()
        assert [entry.label for entry in folder.entries()] == labels
    reasons = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert sorted(reasons) == ["a link out of the folder", "the tree of another image"]


def test_a_single_image_and_uploads_alone_are_served(tmp_path):
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "b.png")
    assert [entry.label for entry in Folder.open(tmp_path / "a.png", tmp_path / "out").entries()] == ["a.png"]
    assert Folder.open(None, tmp_path / "out").entries() == []


def test_the_photographs_of_trees_come_from_where_images_says(tmp_path):
    write_photo(tmp_path / "moved" / "a.png")
    write_tree(planted_tree(), tmp_path / "out" / "a.json", tmp_path / "moved" / "a.png")
    os.rename(tmp_path / "moved", tmp_path / "new")
    out = tmp_path / "out"
    assert not Folder.open(out, out).entries()[0].photo.is_file()
    [entry] = (folder := Folder.open(out, out, tmp_path / "new")).entries()
    assert folder.photo(entry) == tmp_path / "new" / "a.png"


def test_trees_of_other_images_are_not_taken_for_those_of_these(tmp_path):
    write_photo(tmp_path / "one" / "a.png", seed=1)
    write_photo(tmp_path / "two" / "a.png", seed=2)
    write_tree(planted_tree(), tmp_path / "out" / "a.json", tmp_path / "one" / "a.png")
    assert len(Folder.open(tmp_path / "one", tmp_path / "out")) == 1
    with pytest.raises(InputError, match="tree of another image"):
        Folder.open(tmp_path / "two", tmp_path / "out")


def test_what_cannot_be_served_is_said_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected an image, a folder with images .*; got .*empty"):
        serve(tmp_path / "empty", tmp_path / "out", ServeOptions(port=0, open_browser=False))
    with pytest.raises(InputError, match=r"expected an image, a folder"):
        serve(tmp_path / "missing", tmp_path / "out", ServeOptions(port=0, open_browser=False))
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="expected a folder to write to"):
        serve(tmp_path / "photos", tmp_path / "file" / "out", ServeOptions(port=0, open_browser=False))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"expected a free port; .* {port}: .*; stop what uses it"):
            serve(tmp_path / "photos", tmp_path / "out", ServeOptions(port=port, open_browser=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "expected --port from 0 to 65535; got 70000"),
        ({"workers": 0}, "expected --workers from 1"),
        ({"max_upload": 0}, "expected --max-upload from 1"),
        ({"token": "a b"}, "expected --token as letters and digits"),
        ({"token": ""}, "expected --token as letters and digits"),
        ({"host": "0.0.0.0", "token": "none"}, "expected a token with --host 0.0.0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ServeOptions(**options)


def test_tokens_are_long_and_never_the_same():
    tokens = {ServeOptions().policy(1).token for _ in range(20)}
    assert len(tokens) == 20
    assert all(token is not None and len(token) >= 20 for token in tokens)
    assert ServeOptions(token="none").policy(1).token is None
    assert ServeOptions(token="abc").policy(1).token == "abc"
    assert ServeOptions().policy(7).cookie == "masktree_7"
