from dataclasses import replace

import pytest
import torch

from masktree.errors import InputError
from masktree.segmenter.cells import Cells
from masktree.segmenter.config import Mask2FormerConfig
from tests.segmenter.test_mask2former import CONFIG, build, planted, total

CELLS = replace(CONFIG, starts="cells")


def maps(batch=2, hidden=8):
    torch.manual_seed(0)
    values = [torch.randn(batch, count, hidden) for count in (6, 24, 96)]
    places = [torch.randn(1, count, hidden) for count in (6, 24, 96)]
    return values, places


def test_the_cells_judged_best_become_queries_best_first():
    values, places = maps()
    cells = Cells(10, 8)
    x, positions = cells(values, places, lambda x: x[..., 3])
    for image in range(2):
        content = cells.content(torch.cat([v[image] for v in values]))
        best = sorted(range(126), key=lambda k: -float(content[k, 3].detach()))[:10]
        assert torch.allclose(x[image], content[best], atol=1e-6)
        assert torch.equal(positions[image], torch.cat([p[0] for p in places])[best])


def test_an_image_with_fewer_cells_has_fewer_queries():
    values, places = maps()
    x, positions = Cells(200, 8)(values, places, lambda x: x[..., 0])
    assert x.shape == positions.shape == (2, 126, 8)


def test_a_gradient_reaches_every_parameter():
    model = build(CELLS)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    batch = planted()
    for _ in range(2):  # sampling weights begin at zero, so that what they multiply moves from the second step on
        optimizer.zero_grad()
        total(model.losses(batch)).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.decoder.starts.content[0].weight.grad.any()


def test_losses_count_the_queries_that_there_are():
    """64 x 96 pixels have 6 + 24 + 96 cells: more queries than that change nothing."""
    batch = planted()
    enough = build(replace(CELLS, queries=126)).losses(batch)
    more = build(replace(CELLS, queries=1000)).losses(batch)
    assert all(torch.equal(enough[name], more[name]) for name in enough)


def test_another_number_of_queries_may_be_asked_for_after_training():
    model, more = build(CELLS), build(replace(CELLS, queries=60, detections=60), seed=1)
    more.load_state_dict(model.state_dict())
    images = planted().images
    found = [m.eval().detect(images, None, [(64, 96)] * 2)[0] for m in (model, more)]
    assert [len(one.scores) for one in found] == [15, 60]


def test_unknown_starts():
    with pytest.raises(InputError, match="learned or cells; got 'grid'"):
        Mask2FormerConfig(starts="grid")
