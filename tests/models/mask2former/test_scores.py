from __future__ import annotations

import pytest
import torch

from masktree.models.mask2former import scores as module
from masktree.models.mask2former.scores import (
    DUPLICATE_IOU,
    expected_iou,
    mask_scores,
    published_scores,
    suppress_duplicates,
)
from tests.oracles import mask_scores as oracle
from tests.oracles import released


def planted(seed: int, q: int = 12, d: int = 4, size: tuple[int, int] = (6, 9)) -> tuple[torch.Tensor, ...]:
    """Object probabilities, embeddings and pixels of random masks, some of them nearly the same."""
    draw = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(q, d, generator=draw)
    embeddings[q // 2 :] = embeddings[: q - q // 2] + 0.2 * torch.randn(q - q // 2, d, generator=draw)
    return torch.rand(q, generator=draw), embeddings, torch.randn(d, *size, generator=draw)


@pytest.mark.parametrize("seed", range(10))
def test_scores_equal_the_definition(seed, monkeypatch):
    objects, embeddings, pixels = planted(seed)
    found = mask_scores(objects, embeddings, pixels)
    probabilities = torch.einsum("qd,dhw->qhw", embeddings, pixels).sigmoid().flatten(1).double()
    wanted = oracle.scores(objects.double().tolist(), probabilities.tolist(), DUPLICATE_IOU)
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert any(oracle.scores(objects.tolist(), probabilities.tolist(), 1.0)[k] > 2 * found[k] for k in range(12))
    monkeypatch.setattr(module, "_BATCH_LOGITS", 100)  # a few masks, a few cells at a time
    assert torch.allclose(mask_scores(objects, embeddings, pixels), found, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_published_scores_equal_the_released_formula(seed, monkeypatch):
    objects, embeddings, pixels = planted(seed)
    embeddings[0] = 0  # no logit above 0: an empty mask
    logits = torch.einsum("qd,dhw->qhw", embeddings, pixels).double().numpy()
    wanted = [released.mask_score(p, mask) for p, mask in zip(objects.double().tolist(), logits, strict=True)]
    monkeypatch.setattr(module, "_BATCH_LOGITS", 100)
    assert published_scores(objects, embeddings, pixels).tolist() == pytest.approx(wanted, abs=1e-5)
    assert wanted[0] == 0


def test_expected_iou_counts_missed_pixels():
    certain = torch.tensor([[30.0, 30.0, -30.0, -30.0]])
    half_missed = torch.tensor([[30.0, 30.0, -0.01, -0.01]])
    assert expected_iou(certain).item() == pytest.approx(1)
    assert expected_iou(half_missed).item() == pytest.approx(2 / 3, abs=2e-3)
    assert expected_iou(-certain.abs()).item() == 0


def test_the_best_duplicate_keeps_its_score_ties_go_to_the_first():
    shared = torch.full((3, 3), 8.0)
    assert suppress_duplicates(torch.tensor([0.4, 0.9, 0.5]), shared).tolist() == pytest.approx([0, 0.9, 0])
    assert suppress_duplicates(torch.full((3,), 0.5), shared).tolist() == [0.5, 0, 0]


def test_empty_masks_are_not_duplicates():
    shared = torch.diag(torch.tensor([0.0, 0.0, 5.0]))
    assert suppress_duplicates(torch.tensor([0.0, 0.3, 0.2]), shared).tolist() == pytest.approx([0.0, 0.3, 0.2])
    assert len(suppress_duplicates(torch.zeros(1), torch.zeros(1, 1))) == 1
