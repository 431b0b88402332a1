"""What only a CUDA device can show: the base presets, lower precision, several processes. Run by ``make gpu``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from masktree.models.build import build_model
from masktree.models.structures import Batch, Targets
from masktree.train.presets import PRESETS, find_preset
from masktree.train.run_folder import read_metrics
from tests.train.planted import make_labels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="This test needs a CUDA device."),
]


def planted_batch(side: int, count: int = 2) -> Batch:
    """Images of noise with four rectangles each."""
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(4, side, side, dtype=torch.bool)
    for number in range(4):
        masks[number, side // 8 * number : side // 2 + number, side // 8 : side // 2 + 8 * number] = True
    targets = Targets(masks, torch.full((4,), -1), torch.zeros(4, dtype=torch.int64))
    return Batch(images, None, [targets] * count, torch.arange(count), [str(number) for number in range(count)])


def loss_of(kind: Any, device: str, dtype: torch.dtype) -> float:
    """Sum of the losses of a tiny model with fixed weights."""
    torch.manual_seed(0)
    preset = find_preset(kind, "tiny", backbone="dino-vits8", image_size=128)
    model: Any = build_model(preset.model, weights=False).to(device).train()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        losses = model.losses(planted_batch(128).to(torch.device(device)))
    return float(torch.stack([value.detach().float() for value in losses.values()]).sum())


@pytest.mark.parametrize("kind", PRESETS)
def test_a_base_preset_takes_a_step(kind):
    preset = PRESETS[kind]
    model: Any = build_model(preset.model, weights=False).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        losses = model.losses(planted_batch(preset.augmentation.crop_size, 1).to(torch.device("cuda")))
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.inference_mode():
        [found] = model.eval().detect(torch.rand(1, 3, 512, 512, device="cuda"), None, [(512, 512)])
    assert len(found.scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sohes", "unsam", "hassod"])
def test_losses_are_those_of_the_cpu(kind, dtype):
    tolerance = 0.01 if dtype == torch.float32 else 0.1
    assert loss_of(kind, "cuda", dtype) == pytest.approx(loss_of(kind, "cpu", torch.float32), rel=tolerance)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="This test needs two CUDA devices.")
def test_two_gpus_are_one(tmp_path: Path):
    labels = make_labels(tmp_path / "planted")
    common = "--preset unsam --size tiny --image-size 64 --batch-size 2 --steps 3 --num-queries 12 --sample-every 0"
    train = ["-m", "masktree", "train", str(labels), *common.split(), "--precision", "float32", "-o"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *train, str(tmp_path / "one")], check=True)
    subprocess.run([sys.executable, *launch, *train, str(tmp_path / "two")], check=True)
    one, two = ([line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=0.01)
