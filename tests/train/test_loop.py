"""Steps: their gradient, what they refuse, and what they go on from."""

from __future__ import annotations

import io
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from masktree.errors import InputError, TrainingError
from masktree.models.structures import Batch, Targets
from masktree.train.distributed import make_accelerator
from masktree.train.loop import (
    TrainingState,
    WeightedBatch,
    deferred_signals,
    fit,
    single_batch,
    split_batch,
)
from tests.models.standins import CONFIG, TinyModel
from tests.train.planted import OPTIMISATION

CPU = torch.device("cpu")


def batch_of(*counts: int, seed: int = 0) -> Batch:
    """Images of noise with that many random rectangles each."""
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        masks = torch.zeros(count, 64, 64, dtype=torch.bool)
        for mask in masks:
            y, x = torch.randint(0, 40, (2,), generator=draw).tolist()
            mask[y : y + 20, x : x + 20] = True
        targets.append(Targets(masks, torch.full((count,), -1), torch.zeros(count, dtype=torch.int64)))
    names = [f"{seed}-{index}.png" for index in range(len(counts))]
    seeds = torch.randint(0, 2**40, (len(counts),), generator=draw)
    return Batch(torch.rand(len(counts), 3, 64, 64, generator=draw), None, targets, seeds, names)


def model_of(kind: type[TinyModel] = TinyModel) -> TinyModel:
    torch.manual_seed(0)
    return kind(CONFIG)


def run(batches, settings=OPTIMISATION, make_batches=single_batch, model=None, precision="float32"):
    state = TrainingState.new(model or model_of(), settings)
    accelerator = make_accelerator(CPU, precision)
    return state, list(fit(state, batches, accelerator, settings, device=CPU, make_batches=make_batches))


def weights(state: TrainingState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def test_a_split_batch_has_the_same_images_in_order():
    batch = batch_of(1, 0, 2, 3)
    first, second = split_batch(batch, 2)
    assert torch.equal(torch.cat([first.images, second.images]), batch.images)
    assert torch.equal(torch.cat([first.seeds, second.seeds]), batch.seeds)
    assert [*first.names, *second.names] == batch.names
    assert [len(t.masks) for t in (*first.targets, *second.targets)] == [1, 0, 2, 3]
    with pytest.raises(InputError, match="multiple of 3 images; got 4"):
        split_batch(batch, 3)


def test_passes_do_not_change_a_step():
    batches = [batch_of(3, 0, 1, 2, seed=i) for i in range(4)]
    one, records = run(batches)
    four, again = run(batches, replace(OPTIMISATION, accumulation_steps=4))
    assert [r["loss"] for r in again] == pytest.approx([r["loss"] for r in records], rel=1e-5)
    assert [r["num_masks"] for r in records] == [6] * 4
    torch.testing.assert_close(weights(four), weights(one), rtol=1e-4, atol=1e-5)


def test_records_say_what_was_done():
    _, records = run([batch_of(1, 2), batch_of(2, 2, seed=1)])
    assert [r["step"] for r in records] == [1, 2]
    assert [r["lr"] for r in records] == [0.005, 0.01]
    assert set(records[0]) == {"step", "lr", "loss", "mask", "grad_norm", "num_masks", "seconds"}
    assert records[0]["loss"] == records[0]["mask"] > 0


def test_weighted_batches_add_up():
    """A step on two batches is that on the weighted sum of their losses."""
    first, second = batch_of(1, 2), batch_of(3, 1, seed=1)
    plain = replace(OPTIMISATION, optimiser="sgd", warmup_steps=0, clip_norm=0.0, weight_decay=0.0, schedule="constant")
    together, [record] = run(
        ["x"], plain, lambda _: [WeightedBatch(first, 0.5, "own_"), WeightedBatch(second, 2.0, "teacher_")]
    )
    start = weights(TrainingState.new(model_of(), plain))
    moves = [weights(run([batch], plain)[0]) - start for batch in (first, second)]
    torch.testing.assert_close(weights(together) - start, 0.5 * moves[0] + 2.0 * moves[1], rtol=1e-4, atol=1e-6)
    assert record["loss"] == pytest.approx(0.5 * record["own_mask"] + 2.0 * record["teacher_mask"])
    assert record["num_masks"] == 7


def test_images_without_masks_make_a_step():
    state, [record] = run([batch_of(0, 0)])
    assert record["loss"] == 0
    assert torch.isfinite(weights(state)).all()


def test_lower_precision_trains_float32_weights():
    batch = batch_of(2, 3)
    state, records = run([batch] * 8, precision="bfloat16")
    assert weights(state).dtype == torch.float32
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[0]["loss"] == pytest.approx(run([batch])[1][0]["loss"], rel=0.02)
    with pytest.raises(InputError, match="float16 on a CUDA device; got cpu"):
        make_accelerator(CPU, "float16")


def test_a_loss_that_is_not_finite_ends_the_run_before_it_harms_the_weights():
    good, bad = batch_of(1, 1), batch_of(1, 2, seed=5)
    bad.images[1] = torch.nan
    state = TrainingState.new(model_of(), OPTIMISATION)
    steps = fit(
        state, [good, bad], make_accelerator(CPU, "float32"), OPTIMISATION, device=CPU, make_batches=single_batch
    )
    next(steps)
    before = weights(state)
    with pytest.raises(TrainingError, match=r"finite losses in step 2; got loss nan, .*5-0.png, 5-1.png; .*--lr"):
        next(steps)
    assert torch.equal(weights(state), before)
    assert state.step == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "memory for step 1; got: CUDA out"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
            "--accumulation-steps 2 .*--batch-size",
        ),
    ],
)
def test_exhausted_memory_says_what_to_lower(error, words):
    class Greedy(TinyModel):
        def losses(self, batch, masks=None):
            raise error

    with pytest.raises(TrainingError, match=words):
        run([batch_of(1)], model=model_of(Greedy))


def test_other_errors_of_a_model_pass():
    class Broken(TinyModel):
        def losses(self, batch, masks=None):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run([batch_of(1)], model=model_of(Broken))


def test_a_restored_state_goes_on_bit_for_bit():
    """Also where layers draw from the global generator, as dropout does."""

    class Noisy(TinyModel):
        def logits(self, images):
            return super().logits(torch.nn.functional.dropout(images, 0.3, self.training))

    batches = [batch_of(2, 1, seed=i) for i in range(6)]
    unbroken, records = run(batches, model=model_of(Noisy))
    first, _ = run(batches[:3], model=model_of(Noisy))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = TrainingState.new(Noisy(CONFIG), OPTIMISATION)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)
    later = list(
        fit(second, batches[3:], make_accelerator(CPU, "float32"), OPTIMISATION, device=CPU, make_batches=single_batch)
    )
    assert torch.equal(weights(second), weights(unbroken))
    for old, new in zip(unbroken.ema_model.parameters(), second.ema_model.parameters(), strict=True):
        assert torch.equal(old, new)
    assert [r["loss"] for r in later] == [r["loss"] for r in records[3:]]


def test_signals_wait_for_the_end_of_a_step(monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    with deferred_signals() as wanted_end:
        assert not wanted_end()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # passed on by a launcher at the same moment
        assert wanted_end()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is handler
