"""Deformable attention against its formula, and where it looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from masktree.models.pyramid.deformable import DeformableAttention, cell_centres, sample_values
from tests.oracles import deformable as oracle

SHAPES = {"one cell": [(1, 1)], "one map": [(5, 3)], "three maps": [(6, 8), (3, 4), (2, 1)]}


def draw(shapes: list, *, queries: int = 7, heads: int = 2, d: int = 5, points: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    values = torch.randn(2, cells, heads, d, generator=generator)
    # a third of the places lies outside the maps
    places = 1.6 * torch.rand(2, queries, heads, len(shapes), points, 2, generator=generator) - 0.3
    weights = torch.rand(2, queries, heads, len(shapes), points, generator=generator)
    return values, places, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_samples_equal_the_formula(shapes, dtype):
    values, places, weights = draw(shapes)
    values = values.to(dtype)  # sampled in float32 whatever they are
    got = sample_values(values, shapes, places, weights)
    assert got.dtype == torch.float32
    for image in range(2):
        expected = oracle.sample(values[image].double().numpy(), shapes, places[image].numpy(), weights[image].numpy())
        np.testing.assert_allclose(got[image].numpy(), expected, atol=2e-5)


def random_attention(levels: int, ratio: float) -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(24, heads=4, levels=levels, points=2, ratio=ratio)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return attention


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_attention_equals_the_formula(shapes, ratio):
    attention = random_attention(len(shapes), ratio)
    queries, maps = torch.randn(2, 5, 24), torch.randn(2, sum(h * w for h, w in shapes), 24)
    centres = torch.rand(5, 2)
    state = {name: value.double().numpy() for name, value in attention.state_dict().items()}
    with torch.no_grad():
        got = attention(queries, centres, maps, shapes)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = attention(queries, centres, maps, shapes)
    for image in range(2):
        arrays = (queries[image].double().numpy(), centres.double().numpy(), maps[image].double().numpy())
        expected = oracle.attention(state, *arrays, shapes, heads=4, points=2)
        np.testing.assert_allclose(got[image].numpy(), expected, atol=2e-5)
        assert np.abs(coarse[image].float().numpy() - expected).max() < 0.05 * np.abs(expected).max()


def test_bfloat16_keeps_places_apart():
    """Neighbours among 256 cells: their centres differ by less than bfloat16 can tell near 1."""
    shapes = [(1, 256)]
    attention = DeformableAttention(2, heads=1, levels=1, points=1).to(torch.bfloat16)
    with torch.no_grad():
        attention.sampling_offsets.bias.zero_()
        attention.value_proj.weight.copy_(torch.eye(2))
        attention.output_proj.weight.copy_(torch.eye(2))
        maps = torch.zeros(1, 256, 2, dtype=torch.bfloat16)
        maps[0, ::2, 0] = 1
        found = attention(torch.zeros(1, 256, 2, dtype=torch.bfloat16), cell_centres(shapes), maps, shapes)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found[0, :, 0].float().numpy(), np.arange(256) % 2 == 0, atol=0.01)


def test_it_starts_as_published():
    attention = DeformableAttention(32, heads=8, levels=3, points=4)
    offsets = attention.sampling_offsets.bias.detach().view(8, 3, 4, 2)
    for head in range(8):
        x, y = math.cos(math.pi * head / 4), math.sin(math.pi * head / 4)
        for point in range(4):
            expected = (point + 1) * np.array([x, y]) / max(abs(x), abs(y))
            for level in range(3):
                np.testing.assert_allclose(offsets[head, level, point].numpy(), expected, atol=1e-5)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()


def test_places_have_gradients():
    """On a ramp the sample's slope is the ramp's, in cells."""
    ramp = torch.arange(8.0).expand(4, 8).reshape(1, 32, 1, 1)
    place = torch.tensor([0.4, 0.5], requires_grad=True)
    seen = sample_values(ramp, [(4, 8)], place.view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
    seen.sum().backward()
    assert float(seen.detach()) == pytest.approx(0.4 * 8 - 0.5, abs=1e-5)
    assert place.grad.tolist() == pytest.approx([8, 0], abs=1e-4)


def test_centres_of_cells():
    assert cell_centres([(2, 1), (1, 4)]).tolist() == [
        [0.5, 0.25], [0.5, 0.75], [0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]
    ]  # fmt: skip
