"""Run lengths: strings equal pycocotools' byte by byte; set arithmetic equals that of dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from masktree.errors import InputError
from masktree.trees import rle

SIZES = [(1, 1), (1, 9), (9, 1), (13, 7), (40, 64), (97, 3)]


def smooth_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    field = gaussian_filter(rng.random(size), 2)
    return field > np.median(field)


def masks_of(rng: np.random.Generator, size: tuple[int, int]) -> list[np.ndarray]:
    noise = [rng.random(size) < p for p in (0.05, 0.5, 0.95)]
    return [np.zeros(size, bool), np.ones(size, bool), smooth_mask(rng, size), *noise]


@pytest.mark.parametrize("size", SIZES)
def test_strings_areas_and_boxes_equal_pycocotools(rng: np.random.Generator, size: tuple[int, int]) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed.")
    masks = masks_of(rng, size)
    theirs = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    ours = [rle.encode(mask) for mask in masks]
    assert ours == [entry["counts"] for entry in theirs]
    assert (rle.areas(ours, size) == np.array([mask.sum() for mask in masks])).all()
    assert (rle.boxes(ours, size) == coco.toBbox(theirs)).all()
    assert rle.union(ours[3:], size) == coco.merge(theirs[3:])["counts"]


def test_a_mask_placed_in_a_larger_one_has_the_string_of_the_whole(rng: np.random.Generator) -> None:
    for size in SIZES:
        for _ in range(20):
            height, width = (int(rng.integers(0, side + 1)) for side in size)
            top, left = int(rng.integers(0, size[0] - height + 1)), int(rng.integers(0, size[1] - width + 1))
            whole = np.zeros(size, bool)
            whole[top : top + height, left : left + width] = rng.random((height, width)) < rng.choice([0.2, 0.7, 1.0])
            part = np.ascontiguousarray(whole[top : top + height, left : left + width])
            assert rle.encode_at(part, top, left, size) == rle.encode(whole)
    for top, left in ((-1, 0), (0, -1), (2, 0), (0, 3)):
        with pytest.raises(InputError, match=r"expected a mask inside \(5, 6\)"):
            rle.encode_at(np.ones((4, 4), bool), top, left, (5, 6))


def test_known_masks_have_known_strings() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1:, 1] = mask[:2, 2] = True  # runs 4, 4, 4
    assert rle.encode(mask) == b"444"
    assert rle.encode(np.zeros((3, 4), bool)) == b"<"
    assert rle.encode(np.ones((3, 4), bool)) == b"0<"
    assert rle.encode(np.zeros((0, 5), bool)) == b"0"


@pytest.mark.parametrize("size", SIZES)
def test_decode_gives_the_mask_back(rng: np.random.Generator, size: tuple[int, int]) -> None:
    for mask in masks_of(rng, size):
        again = rle.decode(rle.encode(mask), size)
        assert (again == mask).all()
        assert again.flags.c_contiguous
        assert rle.encode(np.asfortranarray(mask)) == rle.encode(mask)


def test_strips_join_at_their_edges(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = smooth_mask(rng, (20, 33))
    labels = np.repeat(np.arange(11, dtype=np.int32), 3)[None].repeat(20, 0).copy()
    whole = rle.encode(mask), rle.encode_intervals(labels, np.array([2]), np.array([5]))
    for strip in (1, 20, 45, 100):
        monkeypatch.setattr(rle, "_STRIP_PIXELS", strip)
        assert (rle.encode(mask), rle.encode_intervals(labels, np.array([2]), np.array([5]))) == whole


def test_long_runs_need_several_characters() -> None:
    size = (3000, 2000)
    mask = np.zeros(size, bool)
    mask[:, 700:1999] = True
    mask[5, 3] = True
    string = rle.encode(mask)
    assert rle.areas([string], size).tolist() == [1299 * 3000 + 1]
    assert (rle.decode(string, size) == mask).all()


def test_strings_with_zero_runs_are_read_like_canonical_ones() -> None:
    split = rle._compress(np.array([2, 3, 0, 4, 1, 0, 2, 0])).tobytes()  # 3 + 4 foreground pixels, side by side
    starts, ends, offsets = rle.runs([split], (3, 4))
    assert (starts.tolist(), ends.tolist(), offsets.tolist()) == ([2], [9], [0, 1])


@pytest.mark.parametrize("size", SIZES)
def test_intervals_equal_dense_comparison(rng: np.random.Generator, size: tuple[int, int]) -> None:
    for n_labels in (1, 5, size[0] * size[1]):
        labels = rng.integers(0, min(n_labels, size[0] * size[1]), size, dtype=np.int32)
        if n_labels == 5:
            labels = np.sort(labels, axis=0)
        low, high = rng.integers(-1, n_labels + 2, (2, 30))
        expected = [rle.encode((a <= labels) & (labels < b)) for a, b in zip(low, high, strict=True)]
        assert rle.encode_intervals(labels, low, high) == expected


def test_intervals_by_sorting_and_by_passing_are_the_same(rng: np.random.Generator) -> None:
    labels = np.arange(2500, dtype=np.int32).reshape(50, 50).repeat(4, 0).repeat(4, 1)
    labels = rng.permutation(2500).astype(np.int32)[labels]
    low = np.array([0, 7, 30, 2499, 0])  # from one region of 2,500 (sorted) to all of them (passed over)
    high = np.array([1, 12, 2300, 2500, 2500])
    expected = [rle.encode((a <= labels) & (labels < b)) for a, b in zip(low, high, strict=True)]
    assert rle.encode_intervals(labels, low, high) == expected


def test_runs_are_encoded_to_the_strings_they_came_from(rng: np.random.Generator) -> None:
    size = (21, 17)
    strings = [rle.encode(mask) for mask in masks_of(rng, size)]
    starts, ends, offsets = rle.runs(strings, size)
    assert offsets[0] == 0
    assert offsets[-1] == len(starts) == len(ends)
    for i, string in enumerate(strings):
        part = slice(offsets[i], offsets[i + 1])
        assert rle.encode_runs(starts[part], ends[part], size) == string
        assert (starts[part][1:] > ends[part][:-1]).all()


def test_encode_runs_joins_adjacent_intervals() -> None:
    expected = rle.encode_runs(np.array([2]), np.array([9]), (3, 4))
    assert rle.encode_runs(np.array([2, 5]), np.array([5, 9]), (3, 4)) == expected


def test_intersections_equal_products_of_dense_masks(rng: np.random.Generator) -> None:
    size = (30, 41)
    masks = np.array(masks_of(rng, size) + [smooth_mask(rng, size) for _ in range(10)])
    strings = [rle.encode(mask) for mask in masks]
    dense = masks.reshape(len(masks), -1).astype(np.int64)
    assert (rle.intersections(strings, size) == dense @ dense.T).all()
    assert (rle.cross_intersections(strings[:5], strings[3:], size) == dense[:5] @ dense[3:].T).all()
    assert rle.union(strings[2:], size) == rle.encode(masks[2:].any(0))


def test_iou_equals_that_of_dense_masks_and_is_0_for_two_empty_ones(rng: np.random.Generator) -> None:
    size = (12, 17)
    a, b = masks_of(rng, size), [*masks_of(rng, size), smooth_mask(rng, size)]
    expected = [[(m & o).sum() / (m | o).sum() if (m | o).any() else 0.0 for o in b] for m in a]
    assert rle.iou([rle.encode(m) for m in a], [rle.encode(m) for m in b], size).tolist() == expected
    assert rle.iou([], [rle.encode(a[0])], size).shape == (0, 1)


def test_operations_on_no_masks_give_empty_arrays() -> None:
    size = (4, 5)
    assert rle.areas([], size).shape == (0,)
    assert rle.boxes([], size).shape == (0, 4)
    assert rle.intersections([], size).shape == (0, 0)
    assert rle.cross_intersections([rle.encode(np.ones(size, bool))], [], size).shape == (1, 0)
    assert rle.union([], size) == rle.encode(np.zeros(size, bool))
    labels = np.zeros((4, 5), np.int32)
    assert rle.encode_intervals(labels, np.zeros(0, int), np.zeros(0, int)) == []
    assert rle.encode_intervals(np.zeros((0, 5), np.int32), np.zeros(2, int), np.ones(2, int)) == [b"0", b"0"]


def test_another_image_size_is_refused() -> None:
    good = rle.encode(np.eye(6, dtype=bool))
    with pytest.raises(InputError, match=r"6 x 7 = 42 pixels in mask 0; got 36 pixels"):
        rle.decode(good, (6, 7))
    with pytest.raises(InputError, match=r"in mask 1; got 42 pixels"):
        rle.areas([good, rle.encode(np.ones((6, 7), bool))], (6, 6))
    with pytest.raises(InputError, match="got 0 pixels"):
        rle.decode(b"", (6, 6))


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        (b"4 4", "a character or number that the format does not have"),
        (b"4\x804", "a character or number that the format does not have"),
        (b"PPPPPPPPPPPPPPP0", "a character or number that the format does not have"),
        (b"44P", "ends inside a number"),
        (b"O4", "a negative run length"),
    ],
)
def test_damaged_strings_are_refused(string: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        rle.decode(string, (3, 4))


def test_damaged_strings_never_pass_silently(rng: np.random.Generator) -> None:
    size = (20, 20)
    good = rle.encode(smooth_mask(rng, size))
    for _ in range(200):
        string = bytearray(good)
        string[rng.integers(len(string))] = rng.integers(256)
        try:
            mask = rle.decode(bytes(string), size)
        except InputError:
            continue
        assert (rle.decode(rle.encode(mask), size) == mask).all()  # what is read is a valid mask of this size


def test_wrong_input_raises_an_input_error() -> None:
    labels = np.zeros((4, 5), np.int32)
    one = np.ones(1, int)
    with pytest.raises(InputError, match=r"fewer than 2\^31 pixels; got 46341 x 46341"):
        rle.areas([], (46341, 46341))
    with pytest.raises(InputError, match="got 1 and 2"):
        rle.encode_intervals(labels, np.zeros(1, int), np.zeros(2, int))
    with pytest.raises(InputError, match=r"labels 0 \.\.\. 19; got -1"):
        rle.encode_intervals(labels - np.int32(1), one, one)
    with pytest.raises(InputError, match=r"got 20 \.\.\. 20"):
        rle.encode_intervals(labels + np.int32(20), one, one)
    with pytest.raises(InputError, match="got 1 and 2"):
        rle.encode_runs(np.zeros(1, int), np.ones(2, int), (4, 5))
    for starts, ends in [([3, 1], [4, 2]), ([1, 2], [3, 4]), ([1], [1]), ([-1], [2]), ([0], [21])]:
        with pytest.raises(InputError, match="ascending, disjoint"):
            rle.encode_runs(np.array(starts), np.array(ends), (4, 5))
