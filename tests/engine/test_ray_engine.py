"""Jobs on a local Ray cluster: what is killed, and what is run twice, makes no difference to the results."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from masktree.engine.ray_engine import RayEngine, _share
from masktree.errors import InputError
from tests.faults.injection import files
from tests.faults.test_crashes import results

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray Data is not installed")
NUM_PHOTOS = 24
# The options of the command; each process of the pool takes half a core of Ray's two.
OPTIONS = ("--method", "masktree", "--backbone", "texture", "--shard-size", "10")
RAY = ("--engine", "ray", "--workers", "2")

POISON = """
import os, signal, sys, time
from masktree.engine.ray_engine import RayEngine, _share

def job(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 4:
        raise ValueError("four")
    return item * item, os.environ["OMP_NUM_THREADS"], os.getcwd()

def main():
    engine = RayEngine()
    found = {r.item: r for r in engine.run(range(12), job, workers=2, tries=2, on_accelerator=False)}
    assert sorted(found) == list(range(12)), found
    assert found[3].error == "the worker process died 2 times; most likely out of memory", found[3]
    assert found[3].tries == 2
    assert found[4].error == "ValueError: four", found[4]
    assert all(found[i].value == (i * i, "1", os.getcwd()) for i in range(12) if i not in (3, 4)), found
"""

# The first item ends when all but two shards are done: a process that is slow must not hold more of them.
SLOW = """
import sys, time
from pathlib import Path
from masktree.engine.ray_engine import RayEngine, _share

def job(item):
    folder, number = item
    deadline = time.monotonic() + 120
    while number == 0 and len(list(folder.iterdir())) < 56 and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder / str(number)).touch()
    return len(list(folder.iterdir()))

def main():
    folder = Path(sys.argv[1])
    items = [(folder, number) for number in range(64)]  # 16 shards of four
    found = RayEngine().run(items, job, workers=2, tries=1, on_accelerator=False)
    values = {result.item[1]: result.value for result in found}
    assert sorted(values) == list(range(64)), values
    assert values[0] > 64 - 2 * 4, values
"""

# A cluster that believes to have one accelerator; both processes must be in the job at once.
SHARED = """
import os, sys, time
from pathlib import Path
import masktree.engine.ray_engine as engine

def job(folder):
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(list(folder.iterdir()))

def main():
    engine.import_ray().init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False)
    items = [Path(sys.argv[1])] * 4
    found = list(engine.RayEngine("auto").run(items, job, workers=2, tries=1, on_accelerator=True))
    assert [result.value for result in found] == [2] * 4, found
"""


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"got none .*; install it: pip install '\.\[ray\]'"):
        RayEngine("auto")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(NUM_PHOTOS):
        blocks = rng.integers(0, 256, (3, 4, 3), np.uint8).repeat(24, 0).repeat(24, 1)
        Image.fromarray(blocks).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """The label set of a run without Ray."""
    output = tmp_path_factory.mktemp("local") / "labels"
    assert start(output, photos, output.parent, "--workers", "1").wait() == 1  # one photograph is broken
    return output


def start(output: Path, photos: Path, home: Path, *options: str, verb: str = "discover") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "masktree", verb, str(photos), "-o", str(output), *options]
    command += OPTIONS if verb == "discover" else ()
    environment = os.environ | {"HOME": str(home)}
    with (output.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def check_equal(output: Path, expected: Path) -> None:
    log = (output.parent / "log").read_text()
    found = results(output)
    for name, content in results(expected).items():
        assert found[name] == content, f"{name}\n{log}"
    assert found.keys() == results(expected).keys()
    for name, data in files(expected / "annotations").items():
        assert (output / "annotations" / name).read_bytes() == data
    assert not list(output.rglob("*.partial"))


def wait_for_trees(process: subprocess.Popen[bytes], output: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(list(output.rglob("pending/*.json"))) < count:
        assert process.poll() is None, (output.parent / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(command: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(command.pid).children(recursive=True)
    return [child for child in children if "MapWorker" in " ".join(child.cmdline())]


@needs_ray
def test_a_killed_worker_changes_nothing(photos, expected, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    process = start(tmp_path / "labels", photos, home, *RAY)
    wait_for_trees(process, tmp_path / "labels", 3)
    workers = workers_of(process)
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait(600) == 1
    check_equal(tmp_path / "labels", expected)
    log = (tmp_path / "log").read_text()
    assert f"{NUM_PHOTOS + 1}/{NUM_PHOTOS + 1} images" in log
    assert f"{NUM_PHOTOS} done, 1 failed" in log
    # Nothing is written into the home folder but what the libraries of a run without Ray write there.
    assert not list(home.glob(".ray"))

    # The same command again finds everything done.
    before = files(tmp_path / "labels/annotations")
    assert start(tmp_path / "labels", photos, home, *RAY).wait(600) == 1
    assert f"{NUM_PHOTOS} skipped" in (tmp_path / "log").read_text()
    assert files(tmp_path / "labels/annotations") == before

    # The damaged photograph has failed twice now.
    assert start(tmp_path / "labels", photos, home, *RAY, "--tries", "2").wait(600) == 1
    log = (tmp_path / "log").read_text()
    assert "(in quarantine)" in log
    assert "1 image in quarantine, not tried again" in log
    [entry] = json.loads((tmp_path / "labels/quarantine.json").read_text())
    assert (entry["name"], entry["tries"]) == ("broken", 2)
    assert "expected an image file" in entry["error"]
    assert files(tmp_path / "labels/annotations") == before


@needs_ray
def test_a_killed_command_goes_on_when_it_is_run_again(photos, expected, tmp_path):
    process = start(tmp_path / "labels", photos, tmp_path, *RAY)
    wait_for_trees(process, tmp_path / "labels", 3)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = workers_of(process)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(workers, 60)[1]
    for child in psutil.wait_procs(children, 1)[1]:  # two agents of Ray do not end by themselves
        child.kill()
    assert not (tmp_path / "labels/index.json").exists()
    assert start(tmp_path / "labels", photos, tmp_path, *RAY).wait(600) == 1
    check_equal(tmp_path / "labels", expected)


@needs_ray
def test_an_item_at_which_processes_die_is_given_up_and_the_others_are_done(tmp_path):
    run_script(POISON, tmp_path)


@needs_ray
def test_shards_wait_until_a_process_is_free(tmp_path):
    (tmp_path / "done").mkdir()
    run_script(SLOW, tmp_path, os.fspath(tmp_path / "done"))


@needs_ray
def test_processes_share_an_accelerator(tmp_path):
    (tmp_path / "in").mkdir()
    run_script(SHARED, tmp_path, os.fspath(tmp_path / "in"))


@pytest.mark.parametrize(
    ("accelerators", "workers", "share"),
    [(0, 2, 0.0), (1, 1, 1.0), (4, 2, 1.0), (1, 3, 0.3333), (2, 3, 0.5), (2, 16, 0.125)],
)
def test_more_processes_than_accelerators_have_a_share_of_one(accelerators, workers, share):
    assert _share(accelerators, workers) == share
    assert not share or int(1 / share) * accelerators >= workers


def run_script(text: str, folder: Path, *arguments: str) -> None:
    """Call ``main`` of a script, whose job is in a module that the processes of the cluster can import."""
    (folder / "script.py").write_text(text)
    environment = os.environ | {"HOME": str(folder), "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", "import script; script.main()", *arguments]
    subprocess.run(command, check=True, timeout=600, env=environment)


@needs_ray
def test_processes_read_tar_files(photos, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for path in sorted(photos.iterdir())[:6]:
            archive.add(path, path.name)
    for name, options in (("local", ("--workers", "1")), ("ray", RAY)):
        assert start(tmp_path / name, tmp_path / "photos.tar", tmp_path, *options).wait(600) == 0
    written = files(tmp_path / "ray/annotations")
    assert len(written) == 1
    assert written == files(tmp_path / "local/annotations")


@needs_ray
def test_export_writes_the_files_of_a_run_without_ray(expected, tmp_path):
    for name, options in (("local", ("--workers", "1")), ("ray", RAY)):
        assert start(tmp_path / name, expected, tmp_path, "--to", "sa1b", *options, verb="export").wait(600) == 0
    written = files(tmp_path / "ray")
    assert len(written) > NUM_PHOTOS
    assert {k: v for k, v in written.items() if k != "run.json"} == {
        k: v for k, v in files(tmp_path / "local").items() if k != "run.json"
    }
    assert json.loads(written["run.json"])["config"]["written"]


@needs_ray
def test_a_wrong_address_is_said(photos, tmp_path):
    assert start(tmp_path / "labels", photos, tmp_path, "--engine", "ray", "--address", "127.0.0.1:1").wait(600) == 2
    assert "expected a Ray cluster at 127.0.0.1:1" in (tmp_path / "log").read_text()
