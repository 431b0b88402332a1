import numpy as np
import pytest
import torch

from masktree.errors import InputError
from masktree.models.mask2former.ancestor_head import POSITIVE, AncestorHead, ancestor_loss, ancestor_targets
from tests.oracles import ancestors as oracle


def test_logits_by_definition():
    torch.manual_seed(0)
    head = AncestorHead(8).double()
    with torch.no_grad():
        head.bias.fill_(0.3)
    queries = torch.randn(2, 5, 8, dtype=torch.float64)
    found = head(queries).detach().numpy()
    u, v = head.below.weight.detach().numpy(), head.above.weight.detach().numpy()
    for k in range(2):
        assert np.allclose(found[k], oracle.logits(queries[k].numpy(), u, v, 0.3))


def test_targets_are_the_transitive_closure():
    targets = ancestor_targets(torch.tensor([1, 2, -1, 2]))
    assert targets.nonzero().tolist() == [[0, 1], [0, 2], [1, 2], [3, 2]]
    assert ancestor_targets(torch.zeros(0, dtype=torch.long)).shape == (0, 0)


def test_targets_with_a_cycle_are_refused():
    with pytest.raises(InputError, match="cycle"):
        ancestor_targets(torch.tensor([1, 0]))


def test_loss_by_definition():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for parents in ([1, 2, -1, 2, 0, -1], [-1] * 6, [-1, 0, 1, 2, 3, 4]):
        targets = ancestor_targets(torch.tensor(parents))
        expected = oracle.loss(logits.tolist(), targets.tolist(), POSITIVE)
        assert float(ancestor_loss(logits, targets)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_masks_have_no_loss(n):
    logits = torch.randn(n, n, requires_grad=True)
    loss = ancestor_loss(logits, torch.zeros(n, n, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_the_head_learns_a_forest():
    torch.manual_seed(0)
    parents = torch.tensor([1, 2, -1, 2, 3, -1, 5, 6])
    head, queries, targets = AncestorHead(16), torch.randn(8, 16), ancestor_targets(parents)
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(150):
        loss = ancestor_loss(head(queries), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    apart = ~torch.eye(8, dtype=torch.bool)  # a mask's relation to itself is not learned
    assert torch.equal((head(queries) > 0) & apart, targets)
