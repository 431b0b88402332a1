"""TIFF files of every kind against the arrays that they were written from."""

from __future__ import annotations

import itertools
import logging
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from masktree.errors import ImageError, MasktreeWarning
from masktree.io import tiff
from masktree.io.image_description import upright
from masktree.io.images import decode_image, describe_image, read_image, read_numbers, read_size
from masktree.io.read_options import ReadOptions

H, W = 20, 35


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    """(H, W) uint8, smooth, from 0 to 255."""
    y, x = np.mgrid[:H, :W]
    return np.rint((y * 7 + x * 11) / (19 * 7 + 34 * 11) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rgb(grey) -> np.ndarray:
    return np.stack([grey, grey[::-1], 255 - grey // 2], axis=2)


def write(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes of a picture in another type, over all of its range."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (values / 255).astype(kind)
    if kind.kind == "i":
        return (values.astype(np.int64) * 100 - 9000 if kind.itemsize > 1 else values.astype(int) - 128).astype(kind)
    return values.astype(kind) * kind.type(np.iinfo(kind).max // 255)


TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
COMPRESSIONS = (None, "lzw", "zlib", "deflate", "packbits", "zstd", "lzma")
LAYOUTS = ({}, {"rowsperstrip": 7}, {"tile": (16, 16)})


def test_every_type_layout_compression_and_byte_order(tmp_path, grey, rgb):
    """Types x compressions x byte orders x layouts; grey, RGB and planar RGB in turn."""
    combinations = list(itertools.product(TYPES, COMPRESSIONS, "<>", LAYOUTS, (False, True)))
    for number, (dtype, compression, byteorder, layout, big) in enumerate(combinations):
        shape = number % 3
        values = as_type(grey if shape == 0 else rgb, dtype)
        options = {"photometric": "rgb", "planarconfig": "separate" if shape == 2 else "contig"} if shape else {}
        predictor = compression is not None and number % 2 == 1 and dtype not in ("uint64", "int64", "float16")
        stored = np.moveaxis(values, -1, 0) if shape == 2 else values
        path = write(
            tmp_path / "a.tif",
            stored,
            compression=compression,
            byteorder=byteorder,
            bigtiff=big,
            predictor=predictor and compression not in ("packbits",),
            **layout,
            **options,
        )
        image = read_image(path)
        expected = rgb if shape else np.repeat(grey[..., None], 3, 2)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 1, (dtype, compression, byteorder, layout, shape)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_orientation(tmp_path, rgb, grey, dtype, compression):
    """The stored pixels of each orientation, made by turning the picture back as the standard says."""
    stored_of = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    for picture in (grey, rgb):
        for orientation, turn in stored_of.items():
            stored = np.ascontiguousarray(turn(as_type(picture, dtype)))
            options = {"photometric": "rgb" if picture.ndim == 3 else "minisblack", "compression": compression}
            path = write(tmp_path / "a.tif", stored, extratags=[(274, 3, 1, orientation, True)], **options)
            image = read_image(path)
            expected = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
            assert np.abs(image.astype(int) - expected).max() <= 1, orientation
            assert describe_image(path).upright_size == (H, W)
            assert read_size(path) == stored.shape[:2]
            np.testing.assert_array_equal(upright(stored, orientation), turn_back(stored, orientation))


def turn_back(stored, orientation):
    """As Pillow turns images by their EXIF."""
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    channels = stored.reshape(*stored.shape[:2], -1).astype(np.float32)
    turned = [
        Image.fromarray(channels[..., c]).transpose(methods[orientation]) if orientation > 1 else channels[..., c]
        for c in range(channels.shape[2])
    ]
    return np.stack([np.asarray(c) for c in turned], axis=2).reshape(*np.asarray(turned[0]).shape, *stored.shape[2:])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_min_is_white(tmp_path, grey, dtype):
    stored = as_type(255 - grey, dtype)
    image = read_image(write(tmp_path / "a.tif", stored, photometric="miniswhite"))
    assert np.abs(image[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_few_bits(tmp_path, grey, bits, photometric):
    values = grey >> (8 - bits)
    stored = values.astype(bool) if bits == 1 else values
    highest = 2**bits - 1
    options = {} if bits == 1 else {"bitspersample": bits}
    image = read_image(write(tmp_path / "a.tif", stored, photometric=photometric, **options))
    shown = highest - values if photometric == "miniswhite" else values
    np.testing.assert_array_equal(image[..., 0], np.rint(shown * (255 / highest)))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "tiff_lzw", "tiff_adobe_deflate"])
def test_what_libtiff_writes(tmp_path, grey, compression):
    bilevel = Image.fromarray(grey > 99)
    bilevel.save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.where(grey > 99, 255, 0))


@pytest.mark.parametrize("scale", [1, 257])
def test_palettes_of_8_and_16_bits(tmp_path, grey, rng, scale):
    colours = rng.integers(0, 256, (256, 3))
    path = write(tmp_path / "a.tif", grey, photometric="palette", colormap=(colours.T * scale).astype(np.uint16))
    np.testing.assert_array_equal(read_image(path), colours[grey])


def test_cmyk_and_lab(tmp_path, rgb):
    cmyk = np.asarray(Image.fromarray(rgb).convert("CMYK"))
    for stored in (cmyk, cmyk.astype(np.uint16) * 257):
        np.testing.assert_array_equal(read_image(write(tmp_path / "a.tif", stored, photometric="separated")), rgb)
    from skimage.color import rgb2lab

    lab = rgb2lab(rgb)
    stored = np.dstack([lab[..., :1] * 2.55, lab[..., 1:]]).round().astype(np.int16)
    stored = stored.astype(np.uint8)  # a and b in two's complement
    image = read_image(write(tmp_path / "a.tif", stored, photometric="cielab"))
    assert np.abs(image.astype(int) - rgb).max() < 16  # of rounded Lab
    assert np.abs(image.astype(int) - rgb).mean() < 2


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1)])
def test_jpeg_in_tiff(tmp_path, rgb, subsampling):
    path = write(tmp_path / "a.tif", rgb, photometric="rgb", compression="jpeg", subsampling=subsampling)
    assert np.abs(read_image(path).astype(int) - rgb).mean() < 6


def test_ycbcr_without_jpeg(tmp_path, rgb):
    """With and without chroma of fewer pixels, which libtiff writes only for JPEG: made here byte by byte."""
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = write(tmp_path / "a.tif", ycbcr, photometric="ycbcr", subsampling=(1, 1))
    assert np.abs(read_image(path).astype(int) - rgb).max() <= 3
    lines, columns = -(-H // 2), -(-W // 2)
    padded = np.pad(ycbcr, ((0, lines * 2 - H), (0, columns * 2 - W), (0, 0)), mode="edge")
    luma = padded[..., 0].reshape(lines, 2, columns, 2).swapaxes(1, 2).reshape(lines, columns, 4)
    data = np.concatenate([luma, padded[::2, ::2, 1:]], axis=2).astype(np.uint8).tobytes()
    tags = [(256, W), (257, H), (258, 8), (259, 1), (262, 6), (273, 8), (277, 3), (278, H), (279, len(data))]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.append(struct.pack("<HHIHH", 530, 3, 2, 2, 2))
    entries[2] = struct.pack("<HHIHH", 258, 3, 1, 8, 0)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    image = read_image(path)
    assert np.abs(image.astype(int) - rgb).mean() < 6


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("colours", [1, 3])
def test_opacity_lies_over_white(tmp_path, grey, rgb, dtype, kind, colours):
    alpha = np.repeat(np.linspace(0, 255, W).round().astype(np.uint8)[None], H, 0)
    picture = (rgb if colours == 3 else grey[..., None]).astype(float)
    expected = picture * (alpha / 255.0)[..., None] + 255.0 - alpha[..., None]
    stored = picture * (alpha / 255.0)[..., None] if kind == "assocalpha" else picture
    values = as_type(np.dstack([stored.round(), alpha]).astype(np.uint8), dtype)
    photometric = "rgb" if colours == 3 else "minisblack"
    path = write(
        tmp_path / "a.tif", values, photometric=photometric, extrasamples=[kind], planarconfig="contig", metadata=None
    )
    image = read_image(path)
    # Premultiplied colours of nearly transparent pixels are rounded.
    assert np.abs(image.astype(float) - np.broadcast_to(expected, image.shape)).max() <= 6
    opaque = alpha > 200
    limit = 2 if dtype == "uint8" or colours == 3 else 5  # grey is scaled
    assert np.abs(image.astype(float) - expected)[opaque].max() <= limit


def test_a_fourth_band_is_no_opacity(tmp_path, rgb, rng):
    infrared = rng.integers(20, 200, (H, W, 1), dtype=np.uint8)
    bands = np.dstack([rgb, infrared])
    path = write(tmp_path / "a.tif", bands, photometric="rgb", extrasamples=["unspecified"])
    with pytest.warns(MasktreeWarning, match="0 red, 1 green, 2 blue of 4 channels shown, 3 not looked at"):
        np.testing.assert_array_equal(read_image(path), rgb)
    path = write(tmp_path / "a.tif", bands, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.warns(MasktreeWarning, match="channel 3, marked as opacity, is opaque nowhere"):
        np.testing.assert_array_equal(read_image(path), rgb)
    np.testing.assert_array_equal(decode_image(path, ReadOptions((3, 1, 0))).rgb, bands[..., [3, 1, 0]])
    np.testing.assert_array_equal(decode_image(path, ReadOptions(("opacity",))).rgb, np.repeat(infrared, 3, 2))


def test_many_bands(tmp_path, rng):
    bands = rng.integers(0, 256, (H, W, 6), dtype=np.uint8)
    for planar in ("contig", "separate"):
        stored = bands if planar == "contig" else np.moveaxis(bands, -1, 0)
        path = write(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar)
        image = decode_image(path)
        np.testing.assert_array_equal(image.rgb, bands[..., :3])
        assert list(image.notes) == ["channels"]
        np.testing.assert_array_equal(decode_image(path, ReadOptions((5, 0, 2))).rgb, bands[..., [5, 0, 2]])
    with pytest.raises(ImageError, match=r"channels of the image, 0 to 5 .*; got '6'; choose others"):
        decode_image(path, ReadOptions((6,)))


def test_stacks_say_what_is_not_looked_at(tmp_path, rng):
    stack = rng.integers(0, 256, (3, 4, 2, H, W), dtype=np.uint8)  # time, z, channel
    names = {"axes": "TZCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    ome = write(tmp_path / "a.ome.tif", stack, metadata=names)
    imagej = write(tmp_path / "b.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    for path in (ome, imagej):
        image = decode_image(path, ReadOptions(page=6))
        np.testing.assert_array_equal(image.rgb, stack[1, 2][[1, 0, 1]].transpose(1, 2, 0))
        assert "page 6 of 0 to 11 (3 time points x 4 z planes) shown" in image.notes["pages"]
        assert "0 DAPI, 1 GFP" in image.notes["channels"] or path == imagej
        assert "shown in green and magenta" in image.notes["channels"]
    image = decode_image(ome, ReadOptions(("gfp",), page=11))
    np.testing.assert_array_equal(image.rgb, np.repeat(stack[2, 3, 1][..., None], 3, 2))
    assert list(image.notes) == ["pages"]  # the channel was chosen
    assert describe_image(ome).names == ("DAPI", "GFP")


def test_planes_without_directories_are_counted(tmp_path, grey):
    text = "ImageJ=1.54f\nimages=7\nslices=7\nhyperstack=true\n"
    path = write(tmp_path / "a.tif", grey, description=text, metadata=None)
    assert "the first of 7 planes shown" in decode_image(path).notes["pages"]
    path = write(tmp_path / "b.tif", np.stack([grey] * 5), volumetric=True, tile=(1, 16, 16))
    image = decode_image(path)
    np.testing.assert_array_equal(image.rgb[..., 0], grey)
    assert "the first of 5 planes shown" in image.notes["pages"]


def test_pages_thumbnails_and_masks(tmp_path, grey, rgb):
    path = tmp_path / "a.tif"
    valid = np.zeros((H, W), bool)
    valid[3:, 4:] = True
    with tifffile.TiffWriter(path) as writer:
        writer.write(rgb[::2, ::2], subfiletype=1, metadata=None)
        writer.write(as_type(grey, "uint16"), metadata=None, photometric="minisblack")
        writer.write(valid, subfiletype=4, metadata=None, photometric="mask")
        writer.write(rgb, metadata=None, photometric="rgb")
    image = decode_image(path)
    assert image.rgb.shape == (H, W, 3)
    assert image.rgb[:3].max() == 0
    assert image.rgb[3:, 4:].max() == 255
    assert "page 0 of 0 to 1 shown" in image.notes["pages"]
    np.testing.assert_array_equal(decode_image(path, ReadOptions(page=1)).rgb, rgb)


def test_nodata_of_gdal(tmp_path, grey):
    heights = grey.astype(np.float32) * 3 + 100
    for text, value in (("-9999", -9999.0), ("-3.4028234663852886e+38", np.finfo(np.float32).min), ("nan", np.nan)):
        stored = heights.copy()
        stored[:5, :6] = value
        image = read_image(write(tmp_path / "a.tif", stored, extratags=[(42113, 2, len(text) + 1, text, True)]))
        assert image[:5, :6].max() == 0
        others = heights[5:]
        expected = np.rint((others - heights[stored == heights].min()) / np.ptp(heights[stored == heights]) * 255)
        np.testing.assert_allclose(image[5:, :, 0], expected, atol=1)
    whole = as_type(grey, "int16")
    whole[:5] = 77
    image = read_image(write(tmp_path / "b.tif", whole), nodata=77)
    assert image[:5].max() == 0
    assert image[5:].min() == 0
    assert image[5:].max() == 255


def test_band_names_choose_the_colours(tmp_path, rng):
    bands = rng.integers(0, 256, (H, W, 4), dtype=np.uint8)
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>'
        for i, name in enumerate(("Blue", "Green", "Red", "NIR"))
    )
    text = f"<GDALMetadata>{items}</GDALMetadata>"
    tags = [(42112, 2, len(text) + 1, text, True)]
    path = write(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig", extratags=tags)
    image = decode_image(path)
    np.testing.assert_array_equal(image.rgb, bands[..., [2, 1, 0]])
    assert "3 NIR not looked at" in image.notes["channels"]
    np.testing.assert_array_equal(decode_image(path, ReadOptions(("nir", "red", "green"))).rgb, bands[..., [3, 2, 1]])


@pytest.mark.parametrize(
    ("photometric", "compression", "message"),
    [
        (32803, 1, "raw data of a camera"),
        (32845, 1, "convert the image to RGB"),
        (1, 34713, "raw data"),
        (1, 9, "save it"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, grey, photometric, compression, message):
    path = write(tmp_path / "a.tif", grey, metadata=None)
    content = bytearray(path.read_bytes())
    for tag, value in ((262, photometric), (259, compression)):
        start = content.index(struct.pack("<HHI", tag, 3, 1)) + 8
        content[start : start + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(path)


def test_damaged_files_are_one_line_and_quiet(tmp_path, rgb, caplog, capfd):
    path = write(tmp_path / "a.tif", rgb, compression="zlib")
    content = path.read_bytes()
    with caplog.at_level(logging.CRITICAL + 1):
        for damaged in (content[: len(content) // 2], content[:7], b"II*\0", b"II*\0" + b"\xff" * 40):
            path.write_bytes(damaged)
            with pytest.raises(ImageError, match=r"^[^\n]+$"):
                read_image(path)
    assert capfd.readouterr().err == ""


def test_circles_of_directories_end(tmp_path, grey):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(grey, metadata=None)
    content = bytearray(path.read_bytes())
    directories = tiff._directories(path)
    assert len(directories) == 3
    last = directories[-1][0]
    (count,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * count, directories[1][0])
    path.write_bytes(content)
    assert describe_image(path).num_pages == 3


def test_claims_take_no_memory(tmp_path, grey):
    """Samples, planes and pages that a file of some hundred bytes claims to have."""
    path = write(tmp_path / "a.tif", grey, metadata=None, compression="zlib")
    content = bytearray(path.read_bytes())
    for tag in (256, 257):
        start = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
        content[start : start + 4] = struct.pack("<I", 12_000)
    start = content.index(struct.pack("<HHI", 277, 3, 1)) + 8
    content[start : start + 2] = struct.pack("<H", 60_000)
    path.write_bytes(content)
    ome = tmp_path / "b.ome.tif"
    tifffile.imwrite(ome, grey, metadata={"axes": "YX"})
    ome.write_bytes(ome.read_bytes().replace(b'SizeT="1"', b'SizeT="9"').replace(b'PlaneCount="1"', b'PlaneCount="9"'))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="at most 4 GiB"):
            read_image(path)
        assert read_image(ome).shape == (H, W, 3)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_numbers_of_a_tiff(tmp_path, rgb, grey):
    np.testing.assert_array_equal(read_numbers(write(tmp_path / "a.tif", rgb)), rgb)
    with pytest.raises(ImageError, match="8-bit RGB"):
        read_numbers(write(tmp_path / "a.tif", grey))


# --- the reference cases ---------------------------------------------------------------------------------------------

LIKE_GREY = (
    *("grey8_orientation6", "grey16_orientation6", "grey8_orientation6_zlib_ok", "float32_bigendian_zlib"),
    *("int16_bigendian_zlib", "miniswhite16", "grey_alpha_premultiplied"),
)
LIKE_RGB = ("planar16_raw", "rgb_float32", "bands5_uint8")


def test_reference_cases(shared):
    folder = shared / "cases"
    if not (folder / "truth_grey8.png").exists():
        pytest.skip("The cases are not on this machine.")
    grey = read_image(folder / "truth_grey8.png")[..., 0].astype(float)
    rgb = read_image(folder / "truth_rgb8.png")
    for name in LIKE_GREY:
        image = decode_image(folder / f"{name}.tif").rgb
        scaled = grey if image.min() == grey.min() else (grey - grey.min()) / np.ptp(grey) * 255
        assert np.abs(image - scaled[..., None]).max() <= 2, name
    for name in LIKE_RGB:
        np.testing.assert_array_equal(decode_image(folder / f"{name}.tif").rgb, rgb, err_msg=name)
    aerial = decode_image(folder / "naip_rgb_nir_alpha.tif")
    np.testing.assert_array_equal(aerial.rgb, tifffile.imread(folder / "naip_rgb_nir_alpha.tif")[..., :3])
    assert list(aerial.notes) == ["opacity"]
    assert len(np.unique(decode_image(folder / "palette_8bit_colormap.tif").rgb.reshape(-1, 3), axis=0)) == 4
    assert len(np.unique(decode_image(folder / "dem_float32_nodata.tif").rgb)) > 100
    channels = decode_image(folder / "two_channels.ome.tif").rgb
    assert np.ptp(channels[..., 0]) == 255  # the second one; the first is empty
    assert np.ptp(channels[..., 1]) == 0


# --- files beside a GeoTIFF ------------------------------------------------------------------------------------------


@pytest.fixture
def with_sidecars(tmp_path, grey):
    """A GeoTIFF with a mask and the description of its bands in files beside it."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    bands = np.stack([as_type(grey, "uint16"), as_type(grey, "uint16")[::-1], as_type(255 - grey, "uint16")])
    valid = np.zeros((H, W), np.uint8)
    valid[5:, 5:] = 255
    options = {"driver": "GTiff", "height": H, "width": W, "count": 3, "dtype": "uint16", "photometric": "minisblack"}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        warnings.simplefilter("ignore")  # of a file without a place on earth
        with rasterio.open(path, "w", **options) as file:
            file.write(bands)
            file.write_mask(valid)
    names = ("blue", "green", "red")
    entries = [f'<PAMRasterBand band="{i + 1}"><Description>{names[i]}</Description></PAMRasterBand>' for i in range(3)]
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{''.join(entries)}</PAMDataset>")
    assert (tmp_path / "a.tif.msk").exists()
    return path, bands


def test_files_beside_a_geotiff_are_read_with_rasterio(with_sidecars):
    path, bands = with_sidecars
    image = decode_image(path)
    assert image.channels == ("red", "green", "blue")
    assert image.rgb[:5].max() == 0
    np.testing.assert_array_equal(image.rgb[5:, 5:], np.rint(bands[::-1].transpose(1, 2, 0)[5:, 5:] / 257))


def test_without_rasterio_a_line_says_so(with_sidecars, monkeypatch):
    path, _ = with_sidecars
    monkeypatch.setattr("masktree.io.sidecars.find_spec", lambda name: None)
    image = decode_image(path)
    expected = "a.tif.msk and a.tif.aux.xml beside the image not looked at; install rasterio to read them"
    assert image.notes["sidecars"] == expected
    assert image.rgb[:5].max() > 0
