"""The commands as a user runs them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masktree import cli
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.trees.masktree import MaskTree

QUICK = ("--backbone", "texture")  # starts without torch, which takes seconds in each process


def masktree(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, as starting one takes seconds."""
    output, errors = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    code: object
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # of the parser of arguments
        code = stop.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def masktree_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "masktree", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def in_the_foreground() -> None:
    """As a shell starts it there, whatever this test run was started as."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_the_background() -> None:
    """Shells have what runs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def long_run(
    tmp_path: Path, photos: list[Path], workers: int, count: int = 400, start: Callable[[], None] = in_the_foreground
) -> tuple[Path, Path, subprocess.Popen[str]]:
    """Input, output and process of a run over ``count`` photographs that has written its first results.

    On a busy machine whole seconds may pass before the caller can stop it: it must not be over by then.
    """
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.open(photos[0]).resize((240, 240)).save(source / "000.png")
    for index in range(1, count):
        os.link(source / "000.png", source / f"{index:03d}.png")
    command = [sys.executable, "-m", "masktree", "segment", *QUICK, source, "-o", out, "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=start)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    return source, out, process


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """Small photographs in a tree of folders, with an awkward name, and one file that is no image."""
    source = tmp_path / "in"
    (source / "Größe 1").mkdir(parents=True)
    for path, name in zip(photos, ("a.jpg", "Größe 1/b c.png", "d.webp"), strict=False):
        Image.open(path).resize((96, 72)).save(source / name)
    return source


def test_segment_writes_trees_pictures_and_a_record(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"words")
    (folder / "phone.heic").write_bytes(b"words")
    done = masktree_process("segment", folder, "-o", tmp_path / "out", "--seed", 3)
    assert done.returncode == 1, done.stderr
    assert "3 done, 1 failed" in done.stdout
    assert "1 left out, in formats that are not read (phone.heic)" in done.stdout
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert [Path(f["path"]).name for f in failures] == ["broken.jpg"]
    assert "no image format" in failures[0]["error"]
    assert "broken.jpg: expected an image file" in done.stderr
    for name in ("a", "Größe 1/b c", "d"):
        tree = MaskTree.load(tmp_path / "out" / f"{name}.json")
        assert tree.size == (72, 96)
        assert len(tree) > 1
        assert read_image(tmp_path / "out" / f"{name}.png").shape == (72, 96, 3)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["config"]["seed"] == 3
    assert set(record["seconds"]) == {"a", "Größe 1/b c", "d"}
    assert record["weights"]["name"]
    assert record["versions"]["masktree"]


def test_results_are_kept_then_overwritten_on_request_and_repeat_exactly(folder, tmp_path):
    out = tmp_path / "out"
    assert masktree("segment", *QUICK, folder, "-o", out).returncode == 0
    first = (out / "a.json").read_bytes()
    (out / "a.json").unlink()
    again = masktree("segment", *QUICK, folder, "-o", out)
    assert "1 done, 2 skipped (done before)" in again.stdout
    assert (out / "a.json").read_bytes() == first
    assert "3 done;" in masktree("segment", *QUICK, folder, "-o", out, "--overwrite", "--workers", 2).stdout
    assert (out / "a.json").read_bytes() == first


def test_another_configuration_does_not_mix_with_results(folder, tmp_path):
    out = tmp_path / "out"
    masktree("segment", *QUICK, folder, "-o", out)
    other = masktree("segment", *QUICK, folder, "-o", out, "--min-area", 50)
    assert other.returncode == 2
    assert "min_area (None there, 50 now)" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def test_a_command_that_made_nothing_does_not_bind_the_corrected_one(folder, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "broken.jpg").write_bytes(b"words")
    assert masktree("segment", *QUICK, tmp_path / "broken.jpg", "-o", out, "--min-area", 50).returncode == 1
    assert masktree("segment", *QUICK, folder / "a.jpg", "-o", out).returncode == 0
    assert "min_area (None there, 50 now)" in masktree("segment", *QUICK, folder, "-o", out, "--min-area", 50).stderr


def test_unrelated_files_are_never_overwritten(tmp_path, folder):
    """The user's own b.json and a.png stand where results would go."""
    out = tmp_path / "out"
    out.mkdir()
    for name, text in (("a.png", "my picture"), ("d.json", '{"labels": []}')):
        (out / name).write_text(text)
        done = masktree("segment", *QUICK, folder, "-o", out, "--overwrite")
        assert done.returncode == 2
        assert f"no foreign files where results go; got {out / name}" in done.stderr
        assert (out / name).read_text() == text
        (out / name).unlink()
    assert masktree("segment", *QUICK, folder, "-o", out).returncode == 0


def test_photos_named_like_our_records_keep_their_results(tmp_path, photos):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("run.png", "failures.png"):
        Image.open(photos[0]).resize((60, 40)).save(source / name)
    for expected in ("2 done;", "0 done, 2 skipped"):
        assert expected in masktree("segment", *QUICK, source, "-o", tmp_path / "out").stdout
    assert len(MaskTree.load(tmp_path / "out" / "run.png.json")) > 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["images"] == 2


def test_a_changed_photograph_is_done_again(folder, tmp_path, photos):
    out = tmp_path / "out"
    masktree("segment", *QUICK, folder, "-o", out)
    os.utime(folder / "a.jpg")  # touched only: the same photograph
    assert "0 done, 3 skipped" in masktree("segment", *QUICK, folder, "-o", out).stdout
    Image.open(photos[3]).resize((90, 50)).save(folder / "a.jpg")
    assert "1 done, 2 skipped" in masktree("segment", *QUICK, folder, "-o", out).stdout
    assert MaskTree.load(out / "a.json").size == (50, 90)


def test_an_interrupted_overwrite_ends_in_one_configuration(folder, tmp_path):
    """As after a kill: run.json already says hassod, one tree is hassod's, the others are masktree's."""
    out = tmp_path / "out"
    masktree("segment", *QUICK, folder, "-o", out, "--picture", "none")
    old = (out / "d.json").read_bytes()
    masktree("segment", *QUICK, folder, "-o", out, "--picture", "none", "--method", "hassod", "--overwrite")
    (out / "d.json").write_bytes(old)
    again = masktree("segment", *QUICK, folder, "-o", out, "--picture", "none", "--method", "hassod")
    assert "1 done, 2 skipped" in again.stdout
    assert MaskTree.load(out / "d.json").dendrogram is None
    (out / "run.json").unlink()  # without the record, trees of another configuration are refused
    other = masktree("segment", *QUICK, folder, "-o", out, "--picture", "none")
    assert other.returncode == 2
    assert "expected results of this configuration" in other.stderr


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_killed_run(tmp_path, photos, kill):
    import psutil

    _, out, process = long_run(tmp_path, photos, workers=2, start=in_the_background)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert "Traceback" not in errors
    if kill == signal.SIGTERM:
        assert process.returncode == 130
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"


def test_awkward_file_names_are_escaped_in_one_line(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "two\nlines.jpg").write_bytes(b"words")
    with open(os.fsencode(source) + b"/b\xfe.jpg", "wb") as handle:
        handle.write(b"words")
    done = masktree("segment", *QUICK, source, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("failed: ") for line in done.stderr.splitlines()) == 2
    assert len(json.loads((tmp_path / "out" / "failures.json").read_text())) == 2


def test_a_killed_run_resumes_where_it_stopped(tmp_path, photos):
    source, out, process = long_run(tmp_path, photos, workers=1, count=40)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("[0-9]*.json")}  # a picture may be missing: it is drawn
    assert 2 <= len(before) < 40
    rest = masktree("segment", *QUICK, source, "-o", out)
    assert rest.returncode == 0, rest.stderr
    assert f"{40 - len(before)} done, {len(before)} skipped" in rest.stdout
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in before.items())
    for path in out.glob("[0-9]*.json"):
        MaskTree.load(path)


def test_interruption_prints_how_to_resume(tmp_path, photos):
    _, out, process = long_run(tmp_path, photos, workers=1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing-here.jpg",), "expected an image, a folder with images or a glob that matches; got nothing-here.jpg"),
        (("PHOTO", "--backbone", "dino-vits9"), "did you mean"),
        (("PHOTO", "--instance-min-score", "0.5"), "expected --instance-min-score and --instance-max-area with --ins"),
        (("PHOTO", "--granularity", "2"), "expected a granularity in [0, 1]; got 2.0"),
        (("PHOTO", "--min-area", "0"), "expected min_area of at least 1 pixel; got 0"),
        (("PHOTO", "--seed", "-1"), "expected a seed from 0 to"),
        (("PHOTO", "--workers", "-1"), "expected workers >= 0; got -1"),
        ((), "expected INPUT ... after masktree segment; got none"),
    ],
)
def test_wrong_arguments_are_one_line_each(tmp_path, photos, arguments, message):
    given = [str(photos[0]) if a == "PHOTO" else a for a in arguments]
    done = masktree("segment", *given, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_space_left_is_reported_and_leaves_no_half_file(tmp_path, photos):
    """A file-size limit stands in for a full disk: writing fails in the middle of a file."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    out = tmp_path / "out"
    done = masktree_process("segment", photos[0], "-o", out, preexec_fn=limit)
    assert done.returncode == 1
    assert "File too large" in done.stdout + done.stderr
    assert sorted(p.name for p in out.iterdir()) == [".lock", "failures.json", "run.json"]


def test_no_picture_writes_trees_only(folder, tmp_path):
    masktree("segment", *QUICK, folder / "a.jpg", "-o", tmp_path / "out", "--picture", "none")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".lock", "a.json", "run.json"}


def description(path: Path) -> str:
    with Image.open(path) as picture:
        return str(picture.info["Description"])


def test_pictures_show_the_masks_and_are_drawn_again_from_the_trees(tmp_path, photos, capsys):
    out, command = tmp_path / "out", ["segment", str(photos[0]), "-o", str(tmp_path / "out"), *map(str, QUICK)]
    assert cli.main([*command, "--min-score", "0.99"]) == 0
    said = capsys.readouterr()
    assert "no mask has a score of 0.99 or more; the highest of" in said.err
    name = photos[0].stem
    assert len(MaskTree.load(out / f"{name}.json")) == 0
    colours = read_image(out / f"{name}.png").astype(int)
    assert (np.ptp(colours, axis=2) == 0).all()  # no mask: nothing is coloured
    assert "masks up to granularity 0.5" in description(out / f"{name}.png")

    written = (out / f"{name}.json").stat().st_mtime_ns
    assert cli.main([*command, "--min-score", "0.99", "--picture", "cut", "-g", "0.3"]) == 0
    assert "0 done, 1 skipped (done before), 1 pictures drawn again" in capsys.readouterr().out
    assert (np.ptp(read_image(out / f"{name}.png").astype(int), axis=2) > 0).any()
    assert cli.main(["draw", str(out), "--picture", "cut", "-g", "0.35"]) == 0
    assert "1 done" in capsys.readouterr().out
    assert "cut at granularity 0.35" in description(out / f"{name}.png")
    assert cli.main(["draw", str(out), "--picture", "cut", "-g", "0.35"]) == 0
    assert "0 done, 1 skipped" in capsys.readouterr().out
    assert (out / f"{name}.json").stat().st_mtime_ns == written  # nothing was segmented again


def test_instances_are_a_label_map_and_masks_beyond_the_maximum_are_counted(tmp_path, photos, capsys):
    out = tmp_path / "out"
    command = ["segment", str(photos[0]), "-o", str(out), *map(str, QUICK), "--instances", "--max-masks", "9"]
    assert cli.main(command) == 0
    assert "1 of 1 images have more masks than were kept" in capsys.readouterr().out
    tree = MaskTree.load(out / f"{photos[0].stem}.json")
    with Image.open(out / f"{photos[0].stem}.instances.png") as picture:
        labels = np.asarray(picture)
    assert len(tree) == 9
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, tree.instances())
    assert labels.max() > 0


def test_draw_says_what_is_missing(tmp_path, photos, capsys):
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    Image.fromarray(resize_image(read_image(photos[0]), (40, 60))).save(photo)
    out = tmp_path / "out"
    assert cli.main(["segment", str(photo), "-o", str(out), *map(str, QUICK)]) == 0
    assert cli.main(["draw", str(tmp_path / "photos")]) == 2
    assert "got images at" in capsys.readouterr().err
    photo.rename(tmp_path / "a.png")
    assert cli.main(["draw", str(out), "-g", "0.2"]) == 1
    assert "give its folder with --images" in " ".join(capsys.readouterr().err.split())
    Image.new("RGB", (60, 40)).save(photo)
    assert cli.main(["draw", str(out), "-g", "0.2"]) == 1
    assert "segment again" in " ".join(capsys.readouterr().err.split())
    (out / "a.png").write_bytes(b"mine")
    assert cli.main(["draw", str(out), "-g", "0.2"]) == 2
    assert (out / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize("method", ["masktree", "hassod", "sohes", "unsam"])
def test_every_method_segments_a_photograph(folder, tmp_path, method):
    done = masktree("segment", folder / "a.jpg", "-o", tmp_path / "out", "--method", method)
    assert done.returncode == 0, done.stderr
    tree = MaskTree.load(tmp_path / "out" / "a.json")
    assert len(tree) > 0
    assert (tree.dendrogram is not None) == (method == "masktree")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
@pytest.mark.parametrize("method", ["masktree", "hassod", "sohes", "unsam"])
def test_tiny_images_are_segmented(shape, method):
    import masktree as package

    image = np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    tree = package.load(method=method)(image)
    assert tree.size == shape
    assert tree.cut(0.5).shape == shape


def test_info_describes_backbones():
    described = masktree("info", "backbone", "embedded")
    assert described.returncode == 0
    assert "licence" in described.stdout
    assert "dino-vitb8" in masktree("info", "backbone").stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from masktree.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numba', 'scipy', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_evaluate_from_photographs_to_a_comparison(folder, tmp_path):
    """Two settings of one method, measured by the trees of the first as truth."""
    out = tmp_path / "out"
    assert masktree("segment", *QUICK, folder, "-o", out, "--picture", "none").returncode == 0
    assert (
        masktree("segment", *QUICK, folder, "-o", tmp_path / "other", "--min-area", 200, "--picture", "none").returncode
        == 0
    )
    names = ("a.jpg", "Größe 1/b c.png", "d.webp")
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        tree = MaskTree.load(out / f"{name.rsplit('.', 1)[0]}.json")
        images.append({"id": number, "file_name": name, "height": tree.size[0], "width": tree.size[1]})
        annotations += tree.coco_annotations(image_id=number, first_id=1 + 1000 * number)
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))

    for name in ("out", "other"):
        files = ("--json", tmp_path / f"{name}.json", "--html", tmp_path / f"{name}.html", "--images", folder)
        done = masktree("evaluate", "--protocol", "ar", "--pred", tmp_path / name, "--gt", truth, *files)
        assert done.returncode == 0, done.stderr
        assert "ar1000" in done.stdout
        assert (tmp_path / f"{name}.html").read_text().count("<img") == 3
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("out", "other"))
    assert first["metrics"]["ar1000"] == 1
    assert second["metrics"]["ar1000"] < 1
    assert second["provenance"]["configuration"]["min_area"] == 200

    guessed = masktree("evaluate", "--pred", out, "--gt", truth, "--html", tmp_path / "new.html", "--workers", 1)
    assert "protocol ar, chosen by --gt; --protocol chooses another" in guessed.stderr
    assert (tmp_path / "new.html").read_text().count("<img") == 3  # the photographs that were segmented

    done = masktree("evaluate", "--compare", tmp_path / "out.json", tmp_path / "other.json", "--resamples", 50)
    assert done.returncode == 0, done.stderr
    assert "first is better" in done.stdout

    done = masktree("evaluate", "--pred", out, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "protocol consistency, chosen as there is no --gt" in done.stderr
    assert "stability_flip" in done.stdout

    wanted = tmp_path / "wanted.txt"
    wanted.write_text("# held out\nGröße 1/b c.png\n", encoding="utf-8")
    done = masktree("evaluate", "--protocol", "hierarchy", "--pred", out, "--gt", truth, "--only", wanted)
    assert done.returncode == 0, done.stderr
    assert "1 image, json" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --pred with what is to be evaluated, or --compare"),
        (("--protocol", "ar", "--pred", "nowhere", "--gt", "g.json"), "got nothing at nowhere"),
        (("--protocol", "ar", "--pred", "EMPTY"), "got an empty folder at"),
        (
            ("--protocol", "ar", "--pred", "EMPTY", "--gt", "EMPTY", "--only", "nowhere"),
            "nowhere: expected a text file",
        ),
        (("--protocol", "ar", "--pred", "EMPTY", "--html", "EMPTY"), "expected the name of a file to write"),
        (("--compare", "a.json", "b.json", "--protocol", "ar"), "--compare with two results alone"),
        (("--compare", "a.json", "b.json"), "a.json"),
    ],
)
def test_wrong_arguments_of_evaluate_are_one_line_each(tmp_path, arguments, message):
    done = masktree("evaluate", *[str(tmp_path) if a == "EMPTY" else a for a in arguments])
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_output_that_cannot_be_a_folder_is_told_in_words(tmp_path, photos, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        done = masktree("segment", *QUICK, photos[0], "-o", output)
        assert done.returncode == 2
        assert (
            done.stderr
            == f"masktree: expected a folder to write to; got the file {tmp_path / 'file'}; choose another name\n"
        )
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    evaluation = ("evaluate", "--pred", tmp_path, "--gt", tmp_path / "file", "--json", tmp_path / "new" / "a.json")
    for arguments in (("segment", *QUICK, photos[0], "-o", tmp_path / "out"), evaluation):
        done = masktree(*arguments)
        assert done.returncode == 2
        assert f"expected a folder that you may write to; got {tmp_path}; choose another output" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
