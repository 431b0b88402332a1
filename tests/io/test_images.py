from __future__ import annotations

import os
import struct
import subprocess
import threading
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from masktree.errors import ImageError, InputError, MasktreeWarning
from masktree.io import images
from masktree.io.images import as_rgb, read_image, read_numbers, read_size
from masktree.io.photos import OVERLAY_TEXT, find_photos, find_unread
from masktree.io.resize import resize_image


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, size=(12, 17, 3), dtype=np.uint8)


def test_rgb_is_read_as_it_is(tmp_path, rgb):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgb)), rgb)


def test_grey_and_palette_images_become_rgb(tmp_path, rgb):
    grey = rgb[..., 0]
    np.testing.assert_array_equal(read_image(save(tmp_path / "g.png", grey)), np.repeat(grey[..., None], 3, 2))
    Image.fromarray(rgb).quantize(256).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == rgb.shape


def test_sixteen_bit_is_scaled_by_its_own_range(tmp_path):
    ramp = np.linspace(1000, 5000, 200).reshape(10, 20).astype(np.uint16)
    image = read_image(save(tmp_path / "deep.png", ramp))
    assert image.min() == 0
    assert image.max() == 255
    assert np.all(np.diff(image[..., 0].ravel().astype(int)) >= 0)


def test_sixteen_bit_colour_keeps_its_scale(tmp_path):
    """Of 12 bits in 16 as well, where Pillow gives the high byte, which is nearly black."""
    values = (np.arange(2 * 3 * 3).reshape(2, 3, 3) * 3000 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.rint(values / 257))
    dark = (values >> 4).astype(np.uint16)
    (tmp_path / "dark.png").write_bytes(imagecodecs.png_encode(dark))
    image = read_image(tmp_path / "dark.png")
    np.testing.assert_array_equal(image, np.rint((dark - 4.0) / (dark.max() - 4) * 255))
    rgba = np.dstack([dark, np.full(dark.shape[:2], 65535, np.uint16)])
    rgba[0, 0] = 0
    (tmp_path / "rgba.png").write_bytes(imagecodecs.png_encode(rgba))
    assert read_image(tmp_path / "rgba.png")[0, 0].tolist() == [255, 255, 255]  # transparent, over white


def test_float_tiffs_are_scaled_by_their_finite_values(tmp_path):
    values = np.linspace(-2, 3, 30, dtype=np.float32).reshape(5, 6)
    values[2, 2] = np.nan
    image = read_image(save(tmp_path / "f.tiff", values))
    assert image[0, 0, 0] == 0
    assert image[4, 5, 0] == 255


def test_transparency_lies_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    image = read_image(save(tmp_path / "a.png", rgba))
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[1, 1].tolist() == [255, 255, 255]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    image = read_image(tmp_path / "c.jpg")
    assert image.shape == (3, 4, 3)
    assert image[1, 1, 0] > 200 > 60 > image[1, 1, 1]  # red


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), (0, 0, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "r.jpg", exif=exif)
    assert read_image(tmp_path / "r.jpg").shape == (20, 10, 3)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(MasktreeWarning, match="page 0 of 0 to 1 shown"):
        assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]
    with pytest.warns(MasktreeWarning, match="page 1 of 0 to 1 shown"):
        assert read_image(tmp_path / "a.gif", page=1)[0, 0, 2] > 200
    with pytest.raises(ImageError, match=r"page, 0 to 1; got 2; choose another --page"):
        read_image(tmp_path / "a.gif", page=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_tiny_images_are_read(tmp_path, shape):
    assert read_image(save(tmp_path / "t.png", np.zeros((*shape, 3), np.uint8))).shape == (*shape, 3)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims this size: a few bytes that would unpack to gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "an empty file"),
        ("text.jpg", b"these are words, not pixels", "no image format"),
        ("bomb.png", png_header(30_000, 30_000), "scale the image down"),
        ("large.png", png_header(13_000, 12_000), "at most 150,000,000 pixels; got 13000 x 12000"),
    ],
)
def test_unreadable_files_raise_an_error_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp"])
def test_truncated_files_are_refused(tmp_path, rng, suffix):
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(rng.integers(0, 256, size=(64, 64, 3), dtype=np.uint8)).save(whole)
    content = whole.read_bytes()
    (tmp_path / f"half{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError):
        read_image(tmp_path / f"half{suffix}")


def test_a_missing_file_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.jpg")


# --- hostile and damaged files -----------------------------------------------------------------------------------

ENDLESS_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps", ""])
def test_postscript_never_reaches_another_program(tmp_path, monkeypatch, suffix):
    def fail(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    (tmp_path / f"a{suffix}").write_bytes(ENDLESS_POSTSCRIPT)
    for read in (read_image, read_numbers, read_size):
        with pytest.raises(ImageError, match="no image format of JPEG, MPO, PNG"):
            read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("name", ["TGA", "PCX", "EPS", "MSP", "XBM"])
def test_only_the_listed_formats_are_read(tmp_path, rgb, name):
    Image.fromarray(rgb).convert({"XBM": "1", "MSP": "1"}.get(name, "RGB")).save(tmp_path / "a.png", format=name)
    with pytest.raises(ImageError, match="no image format of JPEG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["PNG", "BMP", "DIB", "TIFF", "PPM", "SGI", "QOI", "DDS"])
def test_a_listed_format_is_read_under_any_suffix(tmp_path, rgb, name):
    Image.fromarray(rgb).save(tmp_path / "a.jpg", format=name)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_damaged_exif_does_not_lose_an_image(tmp_path, suffix):
    image = Image.new("RGB", (20, 10), (0, 0, 255))
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    content = exif.tobytes()
    rational = content.index(struct.pack(">HH", ExifTags.Base.XResolution, 5))
    as_text = (
        content[: rational + 2] + struct.pack(">H", 2) + content[rational + 4 :]
    )  # a number that claims to be text
    image.save(tmp_path / f"text{suffix}", exif=as_text)
    assert read_image(tmp_path / f"text{suffix}").shape == (20, 10, 3)  # the rotation can be read
    for name, damaged in (("cut", content[:12]), ("noise", b"Exif\0\0" + bytes(range(100, 160)))):
        image.save(tmp_path / f"{name}{suffix}", exif=damaged)
        assert read_image(tmp_path / f"{name}{suffix}").shape == (10, 20, 3)


@pytest.mark.parametrize("error", [struct.error("bad\nbytes"), TypeError("x"), RuntimeError("y"), KeyError(3)])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, rgb, monkeypatch, error):
    def load(self):
        raise error

    path = save(tmp_path / "a.png", rgb)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match=r"^cannot read the image: \w+: [^\n]*$"):
        read_image(path)
    with Image.open(path) as image, pytest.raises(ImageError, match=r"^cannot read the image: \w+: [^\n]*$"):
        as_rgb(image)


def test_decoding_ends_after_its_time(tmp_path, rgb, monkeypatch):
    done = threading.Event()
    path = save(tmp_path / "a.png", rgb)
    monkeypatch.setattr(images, "DECODE_SECONDS", 0.05)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: done.wait(60))
    with pytest.raises(ImageError, match=r"within 0\.05 seconds"):
        read_image(path)
    done.set()


def test_files_that_would_be_read_whole_have_a_size_limit(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.webp")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    with pytest.raises(ImageError, match="no image format"):
        read_image(tmp_path / "a.webp")
    assert read_image(save(tmp_path / "a.png", rgb)).shape == rgb.shape


def test_pillow_images_that_cannot_be_read_are_an_error(tmp_path, rgb):
    with pytest.raises(InputError, match="at least one pixel"):
        as_rgb(Image.new("RGB", (0, 5)))
    with Image.open(save(tmp_path / "a.png", rgb)) as image:
        pass
    with pytest.raises(ImageError, match="cannot read the image"):
        as_rgb(image)


def test_numbers_and_size_are_those_of_the_file(tmp_path, rgb):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_numbers(tmp_path / "a.png"), rgb)
    assert read_size(tmp_path / "a.png") == rgb.shape[:2]
    with pytest.raises(ImageError, match="mode RGB; got L"):
        read_numbers(save(tmp_path / "l.png", rgb[..., 0]))


def test_reference_faults_are_read_or_refused(shared):
    folder = shared / "cases" / "faults"
    if not folder.is_dir():
        pytest.skip("The faulty files are not on this machine.")
    for path in folder.glob("img_JPEG_*.jpg"):
        assert read_image(path).shape == (96, 64, 3)
    for path in [*folder.glob("img_OTHER_*.bmp"), folder / "eps_hang_holiday.jpg"]:
        with pytest.raises(ImageError):
            read_image(path)


# --- finding ------------------------------------------------------------------------------------------------------


def test_folders_files_and_globs_mirror_their_tree(tmp_path, rgb):
    for name in ("b/z.png", "b/c/ü with space.jpg", "a.JPG", "notes.txt", ".hidden.jpg", "日本/写真.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, rgb, format="PNG")
    photos, failures = find_photos([tmp_path])
    assert [p.name for p in photos] == ["a", "b/z", "b/c/ü with space", "日本/写真"]
    assert failures == []
    assert [p.name for p in find_photos([f"{tmp_path}/b/*.png"])[0]] == ["z"]
    assert [p.name for p in find_photos([f"{tmp_path}/**/*.png"])[0]] == ["b/z", "日本/写真"]
    assert [p.name for p in find_photos([tmp_path / "notes.txt"])[0]] == ["notes"]  # named itself: taken


def test_rarer_suffixes_are_found_and_unread_formats_named(tmp_path, rgb):
    for name, form in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.pnm", "PPM"), ("d.pbm", "PPM"), ("e.dib", "DIB")):
        save(tmp_path / name, rgb[..., 0] > 99 if name == "d.pbm" else rgb, format=form)
    for name in ("f.jxl", "sub/g.HEIC", ".hidden.jxl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    photos, failures = find_photos([tmp_path])
    assert [photo.name for photo in photos] == ["a", "b", "c", "d", "e"]
    assert [read_image(photo.path).shape for photo in photos] == [rgb.shape] * 5
    assert failures == []
    assert find_unread([tmp_path]) == [tmp_path / "f.jxl", tmp_path / "sub/g.HEIC"]
    assert find_unread([f"{tmp_path}/*.jxl"]) == [tmp_path / "f.jxl"]
    assert find_unread([tmp_path / "f.jxl"]) == []  # named itself: taken, and it fails
    with pytest.raises(InputError, match=r"with 1 images of formats that are not read \(g.HEIC\); convert them"):
        find_photos([tmp_path / "sub"])


def test_a_folder_gives_whatever_can_be_read(tmp_path, rgb):
    forms = {"a.jp2": "JPEG2000", "b.TGA": "TGA", "c.pcx": "PCX", "d.sgi": "SGI", "e.qoi": "QOI", "f.ico": "ICO"}
    for name, form in (*forms.items(), ("no suffix", "PNG"), ("g.dds", "DDS")):
        save(tmp_path / name, rgb, format=form)
    (tmp_path / "words").write_text("no pixels")
    photos, failures = find_photos([tmp_path])
    assert [photo.path.name for photo in photos] == [*forms, "g.dds", "no suffix"]
    assert failures == []
    for photo in photos:
        assert read_image(photo.path).shape[2] == 3


def test_a_name_too_long_for_its_result_fails_alone(tmp_path, rgb):
    save(tmp_path / "a.png", rgb)
    save(tmp_path / f"{'x' * 250}.png", rgb)
    save(tmp_path / f"{'x' * 251}.png", rgb)
    photos, failures = find_photos([tmp_path])
    assert [photo.name for photo in photos] == ["a", "x" * 250]
    assert [failure["error"] for failure in failures] == [
        "expected a name of at most 250 bytes, so that NAME.json fits; rename the file"
    ]


def test_two_suffixes_of_one_stem_keep_their_suffix(tmp_path, rgb):
    for name in ("a.jpg", "a.png", "b.png"):
        save(tmp_path / name, rgb, format="PNG")
    assert [p.name for p in find_photos([tmp_path])[0]] == ["a.jpg", "a.png", "b"]


def test_one_file_given_twice_is_one_photo(tmp_path, rgb):
    path = save(tmp_path / "a.png", rgb)
    assert len(find_photos([path, tmp_path, path])[0]) == 1


def test_two_photos_for_one_output_are_refused(tmp_path, rgb):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "a.png", rgb)
    with pytest.raises(InputError, match=r"x/a\.png and .*y/a\.png would both write"):
        find_photos([tmp_path / "x", tmp_path / "y"])


def names(*inputs) -> list[str]:
    photos, failures = find_photos(inputs)
    assert failures == []
    return [photo.name for photo in photos]


def test_results_are_not_read_as_photographs(tmp_path, rgb):
    """An overlay is known by its own mark: a photograph beside its tree is a photograph."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*OVERLAY_TEXT)
    for folder in (tmp_path, tmp_path / "out" / "deep"):
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / "a.png", rgb)
        (folder / "a.json").write_text('{"format": "masktree", "version": 2}')
        save(folder / "b.png", rgb, pnginfo=mark)
    assert names(tmp_path) == ["a", "out/deep/a"]
    assert names(f"{tmp_path}/**/*.png") == ["a", "out/deep/a"]
    assert names(tmp_path / "b.png") == ["b"]  # named itself: taken


def test_names_of_the_record_keep_their_suffix(tmp_path, rgb):
    for name in ("run.jpg", "Failures.png", "runner.jpg", "in/run.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, rgb, format="PNG")
    assert names(tmp_path) == ["Failures.png", "run.jpg", "runner", "in/run"]
    save(tmp_path / "run", rgb, format="PNG")
    with pytest.raises(InputError, match=r"run\.json is the record"):
        find_photos([tmp_path / "run"])


def test_a_name_with_suffix_may_be_the_stem_of_another(tmp_path, rgb):
    for name in ("a.jpg", "a.png", "a.jpg.jpg", "a.jpg.jpg.png"):
        save(tmp_path / name, rgb, format="PNG")
    assert sorted(names(tmp_path)) == ["a.jpg", "a.jpg.jpg", "a.jpg.jpg.png", "a.png"]


def test_pipes_and_broken_links_are_failures(tmp_path, rgb):
    save(tmp_path / "a.png", rgb)
    os.mkfifo(tmp_path / "f.jpg")
    (tmp_path / "l1.jpg").symlink_to("l2.jpg")
    (tmp_path / "l2.jpg").symlink_to("l1.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    for item in (tmp_path, f"{tmp_path}/*"):
        photos, failures = find_photos([item, item])
        assert [photo.name for photo in photos] == ["a"]
        assert [os.path.basename(failure["path"]) for failure in failures] == ["f.jpg", "l1.jpg", "l2.jpg", "lost.jpg"]
        assert "got a pipe" in failures[0]["error"]
        assert all("cannot read the file" in failure["error"] for failure in failures[1:])
    for named in ("f.jpg", "l1.jpg"):
        with pytest.raises(InputError, match="expected an image"):
            find_photos([tmp_path / named])


def test_loops_of_folders_end(tmp_path, rgb):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", rgb)
    for link in ("back", "again"):  # two loops: following them would take 2^40 steps
        (tmp_path / "in" / link).symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["in/a"]
    for pattern in ("**/*.png", "**", "**/*", "*", "in/**.png", "in/*/in/*.png"):
        assert len(names(f"{tmp_path}/{pattern}")) == 1


def test_one_real_file_is_one_photo(tmp_path, rgb, monkeypatch):
    (tmp_path / "in").mkdir()
    path = save(tmp_path / "in" / "a.png", rgb)
    (tmp_path / "in" / "long name.png").symlink_to(path)
    (tmp_path / "in" / "0.png").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert names("in", "in/../in", tmp_path / "in") == ["0"]  # the shortest
    assert names("in/a.png", path, "in/../in/a.png", "in") == ["a"]  # the first


def test_globs_keep_the_rules_of_the_shell(tmp_path, rgb, monkeypatch):
    for name in (".dot.png", ".git/x.png", "a.png", "b/c.png", "b/[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, rgb)
    monkeypatch.chdir(tmp_path)
    assert sorted(names("**/*.png")) == ["a", "b/[1]", "b/c"]
    assert names("./?.png") == ["a"]
    assert sorted(names("*")) == ["a", "b/[1]", "b/c"]  # a folder that matches is searched
    assert names(".*.png") == [".dot"]
    assert names("b/[1].png") == ["[1]"]
    assert names("b/../?.png") == ["a"]
    with pytest.raises(InputError, match="before the first wildcard"):  # its name would lead out of the output folder
        find_photos(["*/../../*.png"])


def test_nothing_found_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "none", tmp_path / "empty", f"{tmp_path}/*.jpg", ""):
        with pytest.raises(InputError, match="expected an image, a folder with images or a glob"):
            find_photos([missing])


def test_each_input_is_checked_separately(tmp_path, rgb):
    save(tmp_path / "a.png", rgb)
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match="typo"):
        find_photos([tmp_path, tmp_path / "typo"])


@pytest.mark.skipif(os.geteuid() == 0, reason="Folders cannot be made unreadable for root.")
def test_an_unreadable_folder_is_one_failure(tmp_path, rgb):
    save(tmp_path / "a.png", rgb)
    (tmp_path / "locked").mkdir(mode=0)
    photos, failures = find_photos([tmp_path])
    assert len(photos) == 1
    assert failures[0]["path"].endswith("locked")


def test_a_folder_that_cannot_be_listed_is_one_failure(tmp_path, rgb, monkeypatch):
    """As above, for machines where the tests run as root."""
    save(tmp_path / "a.png", rgb)
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    photos, failures = find_photos([tmp_path])
    assert len(photos) == 1
    assert failures == [{"path": str(tmp_path / "locked"), "error": "cannot list the folder: Permission denied"}]


def test_resize_gives_the_requested_size(rgb):
    assert resize_image(rgb, (12, 17)) is rgb
    assert resize_image(rgb, (5, 40)).shape == (5, 40, 3)
    np.testing.assert_array_equal(resize_image(np.full((9, 9, 3), 77, np.uint8), (4, 4)), 77)
