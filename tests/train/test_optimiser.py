"""Rates, groups of parameters, clipping and averages, against their definitions."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from masktree.errors import InputError
from masktree.train.optimiser import (
    Optimisation,
    build_optimiser,
    clip_gradients,
    freeze_pretrained,
    lr_factor,
    update_ema,
)

BASE = Optimisation(lr=1e-3, weight_decay=0.1, steps=100, warmup_steps=10, batch_size=8, ema_decay=0.9)


class Net(nn.Module):
    """One parameter of each kind; the convolution is what begins pretrained."""

    count: Tensor
    mean: Tensor

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def pretrained_parameters(self):
            return self.conv.parameters()

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = self.Pyramid()
        self.norm, self.queries = nn.GroupNorm(2, 4), nn.Embedding(5, 4)
        self.linear, self.frozen = nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.tensor(0.0))


def test_the_rate_warms_up_then_follows_the_schedule():
    assert [lr_factor(step, BASE) for step in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    cosine = replace(BASE, schedule="cosine")
    assert lr_factor(10, cosine) == 1.0
    assert lr_factor(55, cosine) == pytest.approx(0.5)
    assert 0 < lr_factor(99, cosine) < 0.001
    steps = replace(BASE, schedule="step", milestones=(0.5, 0.9))
    assert [lr_factor(step, steps) for step in (49, 50, 89, 90)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert lr_factor(0, replace(BASE, warmup_steps=0)) == 1.0


def test_every_parameter_stands_in_the_group_that_its_kind_asks_for():
    net = Net()
    optimiser = build_optimiser(net, replace(BASE, backbone_lr_factor=0.2))
    found = {id(p): (g["lr_factor"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    wanted = {
        net.pyramid.conv.weight: (0.2, 0.1),
        net.pyramid.conv.bias: (0.2, 0.0),
        net.linear.weight: (1.0, 0.1),
        net.linear.bias: (1.0, 0.0),
        net.norm.weight: (1.0, 0.0),
        net.norm.bias: (1.0, 0.0),
        net.queries.weight: (1.0, 0.0),
        net.pos_embed: (1.0, 0.0),
    }
    assert found == {id(p): group for p, group in wanted.items()}
    optimiser = build_optimiser(net, replace(BASE, backbone_lr_factor=0.2, decay_biases=True))
    found = {id(p): (g["lr_factor"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    wanted |= {net.pyramid.conv.bias: (0.2, 0.1), net.linear.bias: (1.0, 0.1)}  # those of norms do not decay
    assert found == {id(p): group for p, group in wanted.items()}
    assert isinstance(build_optimiser(net, replace(BASE, optimiser="sgd")), torch.optim.SGD)
    with pytest.raises(InputError, match="trainable parameters; got none"):
        build_optimiser(net.requires_grad_(False), BASE)


def test_a_backbone_with_rate_0_is_asked_for_no_gradient():
    net = Net()
    freeze_pretrained(net, replace(BASE, backbone_lr_factor=0.2))
    assert net.pyramid.conv.weight.requires_grad
    freeze_pretrained(net, replace(BASE, backbone_lr_factor=0))
    assert not net.pyramid.conv.weight.requires_grad
    assert net.linear.weight.requires_grad
    listed = [p for group in build_optimiser(net, BASE).param_groups for p in group["params"]]
    assert len(listed) == 6


@pytest.mark.parametrize("each", [False, True])
def test_gradients_are_clipped_together_or_each(each):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])
    norm = clip_gradients(parameters, replace(BASE, clip_norm=1.0, clip_per_parameter=each))
    assert norm.item() == pytest.approx(math.sqrt(25.25))
    factor = 1.0 if each else 1 / math.sqrt(25.25)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.8] if each else [3 * factor, 4 * factor], rel=1e-4)
    assert parameters[1].grad.tolist() == pytest.approx([0, 0.5 * factor], rel=1e-4)


def test_without_a_limit_gradients_stay():
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([50.0])
    assert clip_gradients([parameter], BASE).item() == 50.0
    assert parameter.grad.item() == 50.0


def test_the_average_is_the_moving_average_of_its_definition():
    net = Net()
    averaged = copy.deepcopy(net)
    averaged.tied = averaged.linear.weight  # shared tensors move once
    net.tied = net.linear.weight
    expected = net.linear.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            net.linear.weight += torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
            net.count += 1
            net.mean += 1.0
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.linear.weight.detach()
        update_ema(averaged, net, step, 0.7)
    torch.testing.assert_close(averaged.linear.weight.detach(), expected)
    assert averaged.count.item() == 29
    assert 20 < averaged.mean.item() < 29


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps of at least 1"),
        ({"lr": 0.0}, "rate above 0"),
        ({"lr": math.nan}, "rate above 0"),
        ({"ema_decay": 1.0}, "ema_decay in"),
        ({"clip_norm": -1.0}, "clip_norm of 0 or more; got -1.0"),
        ({"backbone_lr_factor": math.nan}, "backbone_lr_factor of 0 or more; got nan"),
    ],
)
def test_values_out_of_range_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        replace(BASE, **change)


def test_a_batch_that_cannot_be_shared_is_refused():
    BASE.check_divisible(4)
    with pytest.raises(
        InputError,
        match="divisible by 3 processes x 1 accumulation steps; got 8; use --batch-size 6",
    ):
        BASE.check_divisible(3)
    with pytest.raises(InputError, match="use --batch-size 16"):
        BASE.check_divisible(16)
