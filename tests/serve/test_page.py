"""The page of ``masktree serve`` in a real browser: look, click, correct, export, by mouse, keyboard and touch."""

from __future__ import annotations

import itertools
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Download, Page, expect, sync_playwright

from tests.serve.planted_site import HEIGHT, WIDTH, Server, plant

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

IMAGES = 19
WAIT = 10_000  # milliseconds
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    plant(folder / "photos", folder / "out", IMAGES)
    server = Server(folder / "photos", folder / "out")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """The page with one image open, and what went wrong in it."""

    def __init__(self, browser: Browser, server: Server, number: int, **context: Any) -> None:
        context.setdefault("viewport", {"width": 1280, "height": 800})
        self.server, self.number = server, number
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.goto(server.entrance)
        self.page.locator("#image-list button", has_text=f"{number:02}.png").dispatch_event(
            "click"
        )  # it may be in a closed sheet
        expect(self.page.locator("#image-name")).to_have_text(f"{number:02}.png")
        expect(self.page.locator("#mask-count")).to_have_text("8")
        self.loaded()

    def loaded(self) -> None:
        """Until map and regions are there, and drawn."""
        self.until("masktree.scene.map && masktree.scene.loading.size === 0")
        self.settle()

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.server.address, "blob:")):
            self.foreign.append(request.url)

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        """Waits until an expression is true. The strict policy of the page forbids Playwright's own way."""
        end = time.monotonic() + WAIT / 1000
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def settle(self) -> None:
        """Until the frames that were asked for are drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a pixel of the image on the screen."""
        left, top = self.run(f"masktree.viewer.view.toScreen({x}, {y})")
        box = self.page.locator("#area").bounding_box()
        assert box is not None
        return box["x"] + left, box["y"] + top

    def move(self, x: float, y: float) -> None:
        self.page.mouse.move(*self.at(x, y))
        self.settle()

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **options)
        self.settle()

    def drag(self, points: list[tuple[float, float]]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()

    def press(self, keys: str) -> None:
        self.page.keyboard.press(keys)
        self.settle()

    def saved(self, message: str) -> None:
        """Until an edit is saved and said."""
        expect(self.page.locator("#live")).to_have_text(message)
        expect(self.page.locator("#saved")).to_have_text("Saved")

    @property
    def masks(self) -> dict[int, dict[str, Any]]:
        return {mask["id"]: mask for mask in self.run("masktree.scene.tree.masks")}

    @property
    def selected(self) -> list[int]:
        return self.run("[...masktree.scene.selection]")

    def choose(self, id: int) -> None:
        """Selects a mask by its row."""
        is_chosen = f"masktree.scene.selection.size === 1 && masktree.scene.selection.has({id})"
        end = time.monotonic() + WAIT / 1000
        while not self.run(is_chosen):  # the rows may move, below a notice, while the pointer is on its way
            assert time.monotonic() < end, f"never chosen: {id}"
            self.page.locator(f"#row-{id}").click()
            self.settle()

    def mask_with(self, area: int) -> int:
        """Id of the mask of an area."""
        (found,) = [id for id, mask in self.masks.items() if mask["area"] == area]
        return found

    def log(self) -> list[dict[str, Any]]:
        """The edits on disk."""
        path = self.server.output / f"{self.number:02}.edits.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []

    def export(self, folder: Path) -> list[dict[str, Any]]:
        """The objects of the file that the open dialog makes."""
        with self.page.expect_download() as waiting:
            self.page.locator("#export-start").click()
        expect(self.page.locator("#export")).to_be_hidden()
        return _features(waiting.value, folder)

    def colours(self) -> dict[int, int]:
        """Number of pixels of the image on the screen of each packed colour; 0 is transparent."""
        self.settle()
        counts = self.run(
            """(() => {
              const { view, ratio, canvases } = masktree.viewer;
              const x = Math.ceil(view.left * ratio), y = Math.ceil(view.top * ratio);
              const width = Math.floor(view.imageWidth * view.scale * ratio) - 1;
              const height = Math.floor(view.imageHeight * view.scale * ratio) - 1;
              const image = canvases[1].getContext("2d").getImageData(x, y, width, height);
              const pixels = new Uint32Array(image.data.buffer);
              const counts = new Map();
              for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
              return [...counts];
            })()"""
        )
        return dict(counts)


@pytest.fixture
def desk(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """The page at one of the images; each test has its own. No errors and nothing from elsewhere."""
    number = _TESTS.index(request.function.__name__)
    context = getattr(request.function, "context", {})
    desk = Desk(browser, server, number, **context)
    yield desk
    desk.context.close()
    assert desk.errors == getattr(request.function, "errors", [])
    assert desk.foreign == []


def in_context(**context: Any) -> Any:
    """Marks a test with options of the browser's context."""

    def mark(test: Any) -> Any:
        test.context = context
        return test

    return mark


# Areas in pixels: the square has a left half of two pieces of 2,000 and a right half; the block has two halves
SQUARE, BLOCK = 8000, 4800


def test_hover_outlines_the_mask_and_names_its_chain(desk: Desk) -> None:
    outlined = "new Uint32Array(masktree.viewer.outlineImage.data.buffer).reduce((sum, pixel) => sum + (pixel > 0), 0)"
    chain = desk.page.locator("#chain")
    desk.move(50, 50)
    assert desk.run(outlined) > 100
    expect(chain.locator(".link")).to_have_count(3)  # whole, part, subpart
    names = chain.locator(".link").all_inner_texts()
    assert [name.split()[0] for name in names] == ["whole", "part", "subpart"]
    expect(chain.locator(".marked")).to_have_text(names[1])  # at a granularity of .3 the two pieces are one
    desk.page.keyboard.down("Alt")
    desk.page.mouse.wheel(0, -60)
    desk.page.keyboard.up("Alt")
    expect(chain.locator(".marked")).to_have_text(names[0])
    desk.press("ArrowDown")
    desk.press("ArrowDown")
    expect(chain.locator(".marked")).to_have_text(names[2])
    desk.move(WIDTH - 5, 5)
    assert desk.run(outlined) == 0
    assert "Point at the image" in chain.inner_text()


def test_slider_recolours_every_pixel(desk: Desk) -> None:
    slider = desk.page.locator("#granularity")
    colours = {}
    for granularity in (0, 0.15, 0.45, 0.85, 1):
        slider.fill(str(granularity))
        pixels = desk.colours()
        assert 0 not in pixels  # none is transparent
        colours[granularity] = len(pixels) - (granularity < 1)  # without the line between regions
    assert colours == {0: 6, 0.15: 5, 0.45: 3, 0.85: 2, 1: 1}
    expect(desk.page.locator("#granularity-value")).to_have_text("1.00")
    desk.press("o")
    assert set(desk.colours()) == {0}
    slider.fill("0.5")  # colours again, as one would not see it move otherwise
    assert 0 not in desk.colours()


def test_masks_that_overlap(desk: Desk) -> None:
    desk.page.locator("#image-list button", has_text="overlapping.png").click()
    expect(desk.page.locator("#mask-count")).to_have_text("2")
    expect(desk.page.locator("#mode-note")).to_be_visible()
    desk.loaded()
    links = desk.page.locator("#chain .link")
    for (x, y), count in {(80, 50): 1, (80, 110): 2, (160, 130): 1}.items():
        desk.move(x, y)
        expect(links).to_have_count(count)
    # The outline of a mask goes around all of it, also where another, smaller one is on top.
    desk.page.mouse.move(5, 5)
    for mask in (0, 1):
        desk.settle()
        desk.run(f"masktree.viewer.inside.fill(0); masktree.scene.select([{mask}])")
        desk.settle()
        inside = desk.run("masktree.viewer.inside.reduce((sum, pixel) => sum + pixel, 0)")
        assert inside / desk.run("masktree.viewer.view.scale") ** 2 == pytest.approx(6000, rel=0.02)


def coloured_pixels(counts: dict[int, int]) -> tuple[int, int]:
    total = sum(counts.values())
    return total - counts.get(0, 0), total


def test_filters_levels_and_outlines(desk: Desk) -> None:
    desk.page.locator("#mode input[value=masks]").check()
    desk.page.locator("#granularity").fill("0")
    coloured, total = coloured_pixels(desk.colours())
    assert coloured / total == pytest.approx((SQUARE + BLOCK) / (WIDTH * HEIGHT), abs=0.02)
    desk.page.locator("#outlines-only").check()
    assert 0 < coloured_pixels(desk.colours())[0] < coloured / 3
    desk.page.locator("#filters summary").click()
    desk.page.get_by_label("subpart").uncheck()
    expect(desk.page.locator("#filter-facts")).to_have_text("6 of 8")
    desk.page.locator("#min-area").fill("0.4")
    expect(desk.page.locator("#filter-facts")).to_have_text("1 of 8")
    expect(desk.page.get_by_role("treeitem")).to_have_count(1)


def test_tree_is_the_twin_of_the_selection(desk: Desk) -> None:
    square = desk.mask_with(SQUARE)
    desk.click(50, 50)
    (part,) = desk.selected
    row = desk.page.locator(f"#row-{part}")
    expect(row).to_have_attribute("aria-selected", "true")
    expect(row).to_have_attribute("aria-level", "2")
    expect(desk.page.locator(f"#row-{square}")).to_have_attribute("aria-expanded", "true")
    desk.choose(square)
    assert desk.selected == [square]
    desk.page.keyboard.press("ArrowLeft")  # closes the branch
    expect(row).to_have_count(0)
    desk.page.keyboard.press("ArrowRight")
    desk.page.keyboard.press("ArrowRight")
    desk.settle()
    (child,) = desk.selected
    assert desk.masks[child]["parent"] == square
    desk.page.locator("#mask-search").fill(f"whole {square}")
    expect(desk.page.get_by_role("treeitem")).to_have_count(1)


def test_clicks_and_boxes_become_masks(desk: Desk) -> None:
    accept = desk.page.locator("#prompt-accept")
    desk.press("c")
    desk.click(180, 60)
    expect(accept).to_be_enabled()
    desk.click(100, 60, button="right")  # takes the square away
    assert desk.run("document.querySelector('#tool-bar .hint').textContent").endswith("pixels")
    desk.press("Escape")
    expect(accept).to_be_disabled()
    desk.click(180, 60)
    expect(accept).to_be_enabled()
    desk.press("Enter")
    desk.saved("New mask added.")
    assert len(desk.masks) == 9
    assert desk.selected == [8]
    desk.press("b")
    desk.drag([(25, 25), (115, 135)])
    expect(accept).to_be_enabled()
    accept.click()
    expect(desk.page.locator("#mask-count")).to_have_text("10")
    assert [edit["op"] for edit in desk.log()] == ["create", "create"]
    assert abs(desk.masks[9]["area"] - SQUARE) < 200


def test_each_correction_undo_and_redo(desk: Desk) -> None:
    square, block = desk.mask_with(SQUARE), desk.mask_with(BLOCK)
    start = desk.masks
    desk.choose(square)
    desk.press("a")
    desk.saved("Mask accepted.")
    expect(desk.page.locator(f"#row-{square} .status.accepted")).to_be_visible()
    desk.choose(block)
    desk.press("r")
    desk.saved("Mask rejected.")
    desk.press("n")
    desk.page.keyboard.type("the block")
    desk.page.keyboard.press("Enter")
    desk.saved("Mask renamed to the block.")
    expect(desk.page.locator(f"#row-{block} .row-name")).to_have_text("the block")
    desk.press("k")
    desk.page.locator("#class-names").fill("crate\nbox\n")
    desk.page.get_by_role("button", name="Save", exact=True).click()
    desk.saved("Classes saved.")
    desk.press("2")
    desk.saved("Mask labelled box.")
    desk.choose(square)
    desk.press("s")  # into its two halves
    desk.saved("Mask split.")
    assert square not in desk.masks
    assert [desk.masks[id]["area"] for id in desk.selected] == [4000, 4000]
    desk.press("m")
    desk.saved("2 masks merged.")
    (merged,) = desk.selected
    assert desk.masks[merged]["area"] == SQUARE
    desk.page.locator("#selection [data-name=line]").click()
    desk.drag([(20, 60), (120, 60)])
    desk.saved("Mask split along the line.")
    pieces = desk.selected
    assert sum(desk.masks[id]["area"] for id in pieces) == SQUARE
    assert len(pieces) == 2
    upper = min(pieces, key=lambda id: desk.masks[id]["area"])
    desk.choose(upper)
    before = desk.masks[upper]["area"]
    desk.press("p")
    desk.drag([(90, 35), (130, 35), (130, 55), (90, 55)])
    desk.saved("Added to the mask.")
    assert desk.masks[upper]["area"] == pytest.approx(before + 20 * 20, abs=60)
    desk.press("e")
    desk.drag([(112, 32), (135, 32), (135, 58), (112, 58)])
    desk.saved("Erased from the mask.")
    assert desk.masks[upper]["area"] == pytest.approx(before, abs=120)
    desk.press("Escape")
    desk.press("Delete")
    desk.saved("Mask deleted.")
    assert upper not in desk.masks
    end = desk.masks
    edits = len(desk.log())
    assert [edit["op"] for edit in desk.log()] == [
        "accept", "reject", "rename", "classes", "class", "split", "merge", "split", "add", "erase", "delete",
    ]  # fmt: skip
    for _ in range(edits):
        version = desk.run("masktree.scene.tree.version")
        desk.press("Control+z")
        desk.until(f"masktree.scene.tree.version > {version}")
    assert desk.masks == start
    expect(desk.page.locator("#undo")).to_be_disabled()
    for _ in range(edits):
        version = desk.run("masktree.scene.tree.version")
        desk.page.locator("#redo").click()
        desk.until(f"masktree.scene.tree.version > {version}")
    assert desk.masks == end


def test_edits_survive_a_killed_server(desk: Desk) -> None:
    square, block = desk.mask_with(SQUARE), desk.mask_with(BLOCK)
    desk.choose(square)
    desk.press("a")
    desk.saved("Mask accepted.")
    desk.server.kill()
    desk.choose(block)
    desk.press("r")
    expect(desk.page.locator("#notice")).to_contain_text("1 edit waits to be saved")
    expect(desk.page.locator("#saved")).to_have_text("1 waiting")
    expect(desk.page.locator(f"#row-{block} .status.rejected")).to_be_visible()  # seen at once
    desk.press("Delete")
    expect(desk.page.locator("#saved")).to_have_text("2 waiting")
    desk.server.start()
    expect(desk.page.locator("#saved")).to_have_text("Saved")
    expect(desk.page.locator("#notice")).to_be_hidden()
    assert [edit["op"] for edit in desk.log()] == ["accept", "reject", "delete"]
    desk.page.reload()
    expect(desk.page.locator("#mask-count")).to_have_text("7")
    assert desk.masks[square]["status"] == "accepted"
    desk.errors[:] = [error for error in desk.errors if "net::ERR_CONNECTION" not in error]


def test_a_tree_changed_elsewhere_is_loaded_again(desk: Desk) -> None:
    square, block = desk.mask_with(SQUARE), desk.mask_with(BLOCK)
    edit = {"version": desk.run("masktree.scene.tree.version"), "edit": {"op": "delete", "ids": [block]}}
    image = desk.run("masktree.scene.image.id")
    address = f"{desk.server.address}/api/images/{image}/edits"
    assert desk.context.request.post(address, data=edit, headers={"X-Masktree": "1"}).ok
    desk.choose(square)
    desk.press("a")
    expect(desk.page.locator(".toast.error")).to_contain_text("changed elsewhere")
    expect(desk.page.locator("#mask-count")).to_have_text("7")
    assert desk.masks[square]["status"] is None
    desk.press("a")
    desk.saved("Mask accepted.")
    desk.errors[:] = [error for error in desk.errors if "409" not in error]


def test_export_has_the_edits(desk: Desk, tmp_path: Path) -> None:
    desk.choose(desk.mask_with(SQUARE))
    desk.press("n")
    desk.page.keyboard.type("square")
    desk.page.keyboard.press("Enter")
    desk.saved("Mask renamed to square.")
    desk.choose(desk.mask_with(BLOCK))
    desk.press("r")
    desk.saved("Mask rejected.")
    desk.press("x")
    desk.page.locator("#format").select_option("qupath")
    objects = desk.export(tmp_path)
    assert len(objects) == 7  # without the rejected one
    assert "square" in [feature["properties"]["name"] for feature in objects]
    desk.choose(desk.mask_with(SQUARE))
    desk.press("a")
    desk.saved("Mask accepted.")
    desk.press("x")
    desk.page.locator("#only").select_option("accepted")
    (square,) = desk.export(tmp_path)
    corners = {tuple(corner) for corner in square["geometry"]["coordinates"][0]}
    assert corners == {(30, 30), (110, 30), (110, 130), (30, 130)}


def _features(download: Download, folder: Path) -> list[dict[str, Any]]:
    """All objects of a GeoJSON file of QuPath, alone or in a ZIP, with those inside others."""
    path = folder / download.suggested_filename
    download.save_as(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read(next(name for name in archive.namelist() if "json" in name)))
    else:
        document = json.loads(path.read_text())
    found, waiting = [], list(document["features"])
    while waiting:
        feature = waiting.pop()
        found.append(feature)
        waiting += feature["properties"].get("childObjects", [])
    return found


def test_keyboard_alone(desk: Desk) -> None:
    focused = "document.activeElement.id || document.activeElement.dataset.tool || document.activeElement.className"
    reached = []
    for _ in range(60):
        desk.page.keyboard.press("Tab")
        reached.append(desk.run(focused))
        outline = desk.run(
            "[getComputedStyle(document.activeElement).outlineStyle, document.activeElement.matches('input')]"
        )
        assert outline[0] != "none" or outline[1], reached[-1]
        if reached[-1] == "tree":
            break
    for control in ("help-button", "point", "area", "zoom-in", "granularity", "opacity", "mask-search", "tree"):
        assert control in reached
    desk.page.keyboard.press("Home")
    desk.page.keyboard.press("a")
    desk.saved("Mask accepted.")
    desk.page.locator("#area").focus()
    desk.press("Escape")
    assert desk.selected == []
    desk.press("c")
    desk.press("ArrowRight")  # the crosshair, in the middle of the image; then to the block
    for _ in range(3):
        desk.press("Shift+ArrowRight")
    desk.press("Space")
    expect(desk.page.locator("#prompt-accept")).to_be_enabled()
    desk.press("Enter")
    desk.saved("New mask added.")
    desk.press("l")  # by corners
    desk.press("Shift+ArrowUp")
    while desk.run("masktree.tools.crosshair[0] > 140"):
        desk.press("Shift+ArrowLeft")
    desk.press("Space")
    for _ in range(12):
        desk.press("Shift+ArrowRight")
    desk.press("Space")
    desk.press("Enter")
    desk.saved("Mask split along the line.")
    desk.press("?")
    expect(desk.page.get_by_role("dialog", name="Keyboard and mouse")).to_be_visible()
    desk.press("Escape")
    expect(desk.page.get_by_role("dialog")).to_have_count(0)


@in_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2)
def test_phone(desk: Desk) -> None:
    page = desk.page
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.touchscreen.tap(*desk.at(180, 60))
    desk.settle()
    assert len(desk.selected) == 1
    page.get_by_role("button", name="Masks").tap()
    page.get_by_role("button", name="Accept").tap()
    desk.saved("Mask accepted.")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="Close masks").tap()
    session = desk.context.new_cdp_session(page)
    scale = desk.run("masktree.viewer.view.scale")
    middle = desk.at(WIDTH / 2, HEIGHT / 2)
    for kind, spread in (("touchStart", 30), ("touchMove", 50), ("touchMove", 80), ("touchEnd", None)):
        fingers = [] if spread is None else [(0, -spread), (1, spread)]
        points = [{"x": middle[0] + shift, "y": middle[1], "id": id} for id, shift in fingers]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    desk.settle()
    assert desk.run("masktree.viewer.view.scale") == pytest.approx(scale * 80 / 30, rel=0.1)


# Functions that list controls without a name, texts that are hard to read, and ids that occur twice
_AUDIT = (Path(__file__).parent / "audit.js").read_text()


def test_names_and_contrast(desk: Desk) -> None:
    desk.page.locator("#filters summary").click()
    desk.click(50, 50)
    for theme in ("light", "dark"):
        assert desk.run("document.documentElement.dataset.theme ?? 'light'") == theme
        for open_key, close_key in (("c", "v"), ("?", "Escape"), ("x", "Escape"), ("k", "Escape"), ("n", "Escape")):
            desk.press(open_key)
            assert desk.run(_AUDIT) == {"nameless": [], "faint": [], "double": []}
            desk.press(close_key)
        desk.page.locator("#theme-button").click()
    assert desk.run("document.querySelector('[role=tree]').getAttribute('aria-activedescendant')").startswith("row-")
    assert desk.run("document.documentElement.lang") == "en"


def test_wheel_drag_and_keys_move_the_view(desk: Desk) -> None:
    scale = desk.run("masktree.viewer.view.scale")
    desk.move(180, 60)
    desk.page.mouse.wheel(0, -300)
    desk.until(f"masktree.viewer.view.scale > {scale * 1.3}")
    left = desk.run("masktree.viewer.view.left")
    desk.drag([(180, 60), (160, 60)])
    desk.until(f"masktree.viewer.view.left < {left - 10}")
    assert desk.selected == []  # a drag does not select
    desk.page.locator("#area").focus()
    desk.press("0")
    assert desk.run("masktree.viewer.view.scale") == pytest.approx(scale)
    desk.press("+")
    assert desk.run("masktree.viewer.view.scale") == pytest.approx(scale * 1.25)
    desk.press("Shift+ArrowRight")
    assert desk.run("masktree.viewer.view.left") < left + 400


def test_uploads_are_shown_and_refusals_said(desk: Desk) -> None:
    picture = (desk.server.folder / "00.png").read_bytes()
    files = [
        {"name": "new.png", "mimeType": "image/png", "buffer": picture},
        {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"},
    ]
    desk.page.locator("#files").set_input_files(files)
    expect(desk.page.locator("#image-count")).to_have_text(str(IMAGES + 2))  # with the one of masks that overlap
    expect(desk.page.locator(".toast.error")).to_contain_text("bad.png")
    expect(desk.page.locator("#image-name")).to_contain_text("new")
    expect(desk.page.locator("#segment")).to_be_visible()


def test_images_that_are_dropped_or_come_into_the_folder_are_listed(desk: Desk) -> None:
    count = desk.page.locator("#image-count")
    before = len(desk.run("[...document.querySelectorAll('#image-list button')]"))
    desk.run(
        """(async () => {
          const picture = await (await fetch(document.querySelector("#image-list img").src)).blob();
          const data = new DataTransfer();
          data.items.add(new File([picture], "dropped.jpg", { type: "image/jpeg" }));
          for (const type of ["dragover", "drop"]) {
            const event = new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
            if (document.body.dispatchEvent(event)) throw new Error(`${type} was left to the browser`);
            if (document.body.classList.contains("dropping") !== (type === "dragover")) throw new Error("no sign");
          }
        })()"""
    )
    expect(count).to_have_text(str(before + 1))
    expect(desk.page.locator("#image-name")).to_contain_text("dropped")
    shutil.copy(desk.server.folder / "00.png", desk.server.folder / "late.png")
    desk.run("window.dispatchEvent(new Event('focus'))")
    expect(count).to_have_text(str(before + 2))


def test_shortcuts_of_one_character_can_be_switched_off(desk: Desk) -> None:
    desk.choose(desk.mask_with(SQUARE))
    desk.page.locator("#help-button").click()
    desk.page.locator("#characters").uncheck()
    desk.press("Escape")
    for key in ("a", "2", "/", "?"):
        desk.press(key)
    assert not desk.run("document.querySelector('dialog[open]')")
    assert desk.log() == []
    desk.press("Delete")  # no character
    desk.saved("Mask deleted.")
    desk.page.reload()
    desk.loaded()
    desk.press("x")
    expect(desk.page.get_by_role("dialog")).to_have_count(0)
    desk.page.locator("#help-button").click()
    desk.page.locator("#characters").check()
    desk.press("Escape")
    desk.press("x")
    expect(desk.page.get_by_role("dialog", name="Export")).to_be_visible()


@in_context(viewport={"width": 360, "height": 740})
def test_long_names_and_chains_stay_in_their_places(desk: Desk) -> None:
    name = "the handle of the spoon that lies on the saucer beside the cup " * 3
    desk.run(f"masktree.edits.apply({{ op: 'rename', id: {desk.mask_with(SQUARE)}, name: {name.strip()!r} }}, '')")
    desk.run("masktree.edits.apply({ op: 'classes', names: ['w'.repeat(150), 'crate'] }, '')")
    desk.until("masktree.scene.tree.version === 2")
    chain = "[...document.querySelectorAll('#chain .link')].map((link) => link.getBoundingClientRect())"
    for width in (360, 768, 1280):
        desk.page.set_viewport_size({"width": width, "height": 740})
        desk.until("masktree.viewer.view.width === document.querySelector('#area').clientWidth")
        desk.click(50, 50)
        expect(desk.page.locator("#chain .link")).to_have_count(3)
        boxes = desk.run(f"{chain}.map((box) => [box.left, box.right])")
        assert all(left < right for left, right in boxes)
        assert all(right <= left for (_, right), (left, _) in itertools.pairwise(boxes))
        assert boxes[-1][1] <= width
        assert desk.run("document.documentElement.scrollWidth") == width
        selection = "document.querySelector('#selection')"
        assert desk.run(f"{selection}.scrollWidth <= {selection}.clientWidth")


def test_masks_are_made_with_progress_and_can_be_cancelled(desk: Desk) -> None:
    """The answers of the server are planted: what matters here is what the page makes of them."""
    sent: list[str] = []
    state: dict[str, Any] = {"status": "none", "progress": None}

    def answer_list(route: Any) -> None:
        document = route.fetch().json()
        for image in document["images"]:
            if image["name"] == "00.png":
                image.update(state, masks=None)
        route.fulfill(json=document)

    def answer_segment(route: Any) -> None:
        sent.append(route.request.method)
        state["status"], state["progress"] = ("running", 0.4) if sent[-1] == "POST" else ("none", None)
        route.fulfill(json={}, status=202)

    desk.page.route("**/api/images", answer_list)
    desk.page.route("**/segment", answer_segment)
    desk.page.reload()
    desk.page.get_by_role("button", name="00.png").click()
    desk.page.locator("#segment").click()
    expect(desk.page.get_by_role("progressbar", name="Progress")).to_have_attribute("value", "0.4")
    expect(desk.page.locator(".image-facts.running")).to_have_text("finding masks 40 %")
    desk.page.locator("#cancel").click()
    expect(desk.page.locator("#segment")).to_be_visible()
    desk.page.locator("#segment").click()
    expect(desk.page.locator("#cancel")).to_be_visible()
    state.update(status="done", progress=None)
    expect(desk.page.locator("#mask-count")).to_have_text("8")
    assert sent == ["POST", "DELETE", "POST"]


_TESTS = [name for name in globals() if name.startswith("test_")]
