import itertools
import math

import pytest
import torch

from masktree.errors import InputError
from masktree.models.promptable.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT, PromptEncoder, Prompts
from tests.oracles import clicks as oracle

NAN = math.nan
POINTS = torch.tensor([[[10.5, 20.5], [40.0, 3.0]], [[0.0, 64.0], [96.0, 0.0]]])
LABELS = torch.tensor([[1, 0], [1, 1]])


@pytest.fixture
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(32, 96, 8)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(32, 16, 24, generator=torch.Generator().manual_seed(1))


def test_positions_are_fourier_features_in_any_precision(encoder):
    expected = torch.tensor(oracle.fourier(40.0, 3.0, 96, encoder.frequencies.tolist()))
    assert torch.allclose(encoder.position_embedding(POINTS)[0, 1], expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.position_embedding(POINTS), encoder.position_embedding(POINTS).float())
        assert torch.allclose(encoder.position_embedding(POINTS)[0, 1], expected, atol=1e-5)
    assert torch.equal(encoder.cell_positions(2, 3)[4], encoder.position_embedding(torch.tensor([12.0, 12.0])))
    lengths = encoder.frequencies.norm(dim=0)
    assert lengths.min() == pytest.approx(0.5)
    assert lengths.max() == pytest.approx(16.0, rel=1e-5)


def test_frequencies_do_not_depend_on_the_seed(encoder):
    torch.manual_seed(99)
    assert torch.equal(PromptEncoder(32, 64, 16).frequencies, encoder.frequencies)
    assert "frequencies" in encoder.state_dict()


def test_boxes_are_encoded_as_two_corner_points(encoder, pixels):
    boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [NAN] * 4])
    points, labels = Prompts(POINTS, LABELS, boxes).points_and_corners()
    assert points.shape == (2, 4, 2)
    assert points[0, 2:].tolist() == [[4.0, 8.0], [40.0, 60.0]]
    assert labels.tolist() == [[1, 0, TOP_LEFT, BOTTOM_RIGHT], [1, 1, -1, -1]]
    given = encoder.sparse(Prompts(POINTS, LABELS, boxes), pixels)
    same = encoder.sparse(Prompts(points, labels), pixels)
    assert all(torch.equal(a, b) for a, b in zip(given, same, strict=True))


def test_padding_points_are_ignored(encoder, pixels):
    absent = torch.full((2, 1, 2), NAN)
    padded = Prompts(torch.cat([POINTS, absent], 1), torch.cat([LABELS, torch.full((2, 1), -1)], 1))
    tokens, is_valid = encoder.sparse(padded, pixels)
    assert is_valid.tolist() == [[True, True, True, False]] * 2
    assert tokens.isfinite().all()
    assert torch.equal(tokens[:, :3], encoder.sparse(Prompts(POINTS, LABELS), pixels)[0])


def test_the_first_token_is_the_granularity(encoder, pixels):
    some = Prompts(POINTS, LABELS, granularity=torch.tensor([0.1, NAN]))
    tokens, is_valid = encoder.sparse(some, pixels)
    none, _ = encoder.sparse(Prompts(POINTS, LABELS), pixels)
    assert is_valid.all()
    assert torch.equal(tokens[1, 0], none[1, 0])
    assert torch.equal(none[0, 0], encoder.no_granularity_embed)
    values = torch.tensor([0.1, 0.2, 0.5, 1.0])
    rows = encoder.sparse(Prompts(POINTS[:1].expand(4, -1, -1), LABELS[:1].expand(4, -1), granularity=values), pixels)[
        0
    ]
    assert torch.pdist(rows[:, 0]).min() > 0.01


def test_point_tokens_include_the_pixel_embedding(encoder, pixels):
    before = encoder.sparse(Prompts(POINTS, LABELS), pixels)[0]
    changed = pixels.clone()
    changed[:, 5, 2] += 1  # the cell of (10.5, 20.5), which has its centre at (10, 22)
    after = encoder.sparse(Prompts(POINTS, LABELS), changed)[0]
    moved = (after - before).abs().amax(2) > 1e-4
    assert moved.tolist() == [[False, True, False], [False, False, False]]


def test_earlier_masks_are_embedded_densely(encoder):
    masks, means = torch.randn(2, 16, 24), torch.randn(32, 8, 12)
    masks[1, 0, 0] = NAN
    dense = encoder.dense(Prompts(POINTS, LABELS, masks=masks), means)
    assert dense.shape == (2, 32, 8, 12)
    none = encoder.dense(Prompts(POINTS, LABELS), means)
    assert torch.equal(dense[1], none[1])
    assert (dense[0] - none[0]).abs().max() > 0.01
    sure = encoder.dense(Prompts(POINTS, LABELS, masks=100 * masks.sign()), means)
    assert torch.equal(sure[0], encoder.dense(Prompts(POINTS, LABELS, masks=8 * masks.sign()), means)[0])
    with pytest.raises(InputError, match=r"earlier masks of \(16, 24\) cells; got \(64, 96\)"):
        encoder.dense(Prompts(POINTS, LABELS, masks=torch.zeros(2, 64, 96)), means)


def test_prompt_maps_equal_the_definition(encoder):
    cells = torch.randn(32, 8, 12, generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[[10.5, 20.5], [40.0, 3.0], [90.0, 60.0]], [[0.0, 64.0], [95.0, 1.0], [NAN, NAN]]])
    labels = torch.tensor([[1, 0, 1], [1, 1, -1]])
    boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [NAN] * 4])
    maps = encoder.prompt_maps(Prompts(points, labels, boxes), cells)
    assert maps.shape == (2, 8, 12, 9)
    for n, (row, column) in itertools.product((0, 1), [(0, 0), (2, 1), (5, 3), (7, 11)]):
        clicks = list(zip(points[n].tolist(), labels[n].tolist(), strict=True))
        box = boxes[n].tolist() if n == 0 else None
        expected = oracle.prompt_maps(row, column, clicks, box, cells.double().numpy(), side=96, cell=8)
        assert maps[n, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    nothing = encoder.prompt_maps(Prompts(points[:, :0], labels[:, :0]), cells)
    assert not nothing.any()


def test_prompts_move_to_a_device():
    prompts = Prompts(POINTS, LABELS, torch.ones(2, 4), None, torch.tensor([0.1, 0.2]))
    assert len(prompts) == 2
    assert torch.equal(prompts.to("cpu").points, POINTS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": torch.zeros(2, 2)}, r"points \(2, 2\)"),
        ({"labels": torch.ones(2, 3)}, r"labels \(2, 3\)"),
        ({"boxes": torch.ones(1, 4)}, r"boxes \(1, 4\)"),
        ({"masks": torch.ones(2, 1, 16, 24)}, r"masks \(2, 1, 16, 24\)"),
        ({"granularity": torch.ones(2, 1)}, r"granularity \(2, 1\)"),
    ],
)
def test_inconsistent_shapes_are_refused(given, message):
    with pytest.raises(InputError, match=rf"expected points \(n, k, 2\), .*; got .*{message}"):
        Prompts(**({"points": POINTS, "labels": LABELS} | given))
