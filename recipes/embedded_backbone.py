"""Train the weights of the embedded backbone from unlabelled photographs alone.

    python recipes/embedded_backbone.py label  PHOTOS LABELS        # find the regions of every photograph
    python recipes/embedded_backbone.py train  PHOTOS LABELS RUN    # train on them; the same command resumes
    python recipes/embedded_backbone.py export RUN OUT.safetensors  # EMA weights in float16, batch norm folded

PHOTOS is a folder of images or of tar files of images, the only input: no labels, no pretrained weights.

The regions that boundary cues find in one image are noisy; a network trained on thousands of images learns what they
have in common. Its objectives: predict the borders at six granularities; predict which pixels share a region, from the
cosine of their embeddings and the thresholds of the published rules; and match regions between two views, among those
of all photographs of the batch. ``label --backbone embedded`` makes the regions of the next round. Co-occurrence of
neighbours and self-distillation of masked blocks are two more objectives, off by default; docs/log.md compares them.

Command, cost and result of the shipped weights: src/masktree/weights/README.md.
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import json
import math
import multiprocessing
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from masktree.backbones import load_backbone
from masktree.backbones.embedded.network import (
    COSINE_THRESHOLDS,
    EMBEDDING_DIM,
    GRANULARITIES,
    EmbeddedNetwork,
    fuse_batch_norm,
)
from masktree.backbones.texture import boundary_cues
from masktree.discover.masktree import build_cost_dendrogram, costs_to_granularities
from masktree.errors import InputError, MasktreeError
from masktree.io.files import write_atomically
from masktree.io.images import available_formats, pillow_to_rgb
from masktree.jobs.progress import progress_bar

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MIN_PHOTOS = 64  # of a collection (our choice)
MIN_SIDE = 64  # pixels of the shorter side
HELD_OUT_INTERVAL = 50  # every 50th photograph is for validation only
SCALES = (1.0, 1.5)  # of the images for region discovery; a third scale would double the time
BLOCK_SIZE, HIDDEN_SHARE = 16, 0.4  # pixels of a masked block, and the share of blocks masked
CUE_UNIT = 85  # bytes per unit of the stored cues: 0 to 3 times a clear border


@dataclass(frozen=True)
class Settings:
    """Training settings (our choice).

    ``border``, ``pairs``, ``views``, ``near``, ``hidden`` are the loss weights of the objectives; 0 disables one.
    ``stop_after`` ends a run early, on the schedule of ``steps``; 0 does not.
    """

    seed: int = 0
    steps: int = 6000
    stop_after: int = 0
    batch_size: int = 5  # images, each in two views
    crop: int = 192  # pixels
    max_zoom: float = 1.3  # the minimum is 0.75
    cues: int = 1  # 0: without boundary cues as input
    lr: float = 1.5e-3  # of AdamW: linear warm-up, then cosine decay to 0
    weight_decay: float = 0.02
    warmup_steps: int = 100
    ema_decay: float = 0.998
    border: float = 1.0
    border_pos_weight: float = 4.0  # of border cells, which are rare
    pairs: float = 1.0
    logit_scale: float = 8.0  # of (cosine - threshold)
    points: int = 320  # per view
    views: float = 0.2
    near: float = 0.0
    hidden: float = 0.0
    prototypes: int = 512
    temperature: float = 0.1


# --- photographs ----------------------------------------------------------------------------------------------------


class Photos:
    """Encoded photographs of a folder, or of its tar files, by name, in memory.

    Raises:
        InputError: no folder, too few photographs, or a photograph that is unreadable or too small.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"expected a folder of photographs or of tar files; got {folder}")
        self.encoded = dict(sorted(_read_all(folder)))
        self.names = list(self.encoded)
        if len(self.names) < MIN_PHOTOS:
            raise InputError(f"expected at least {MIN_PHOTOS} photographs in {folder}; got {len(self.names)}; add more")
        for name, content in self.encoded.items():
            try:
                with Image.open(io.BytesIO(content), formats=available_formats()) as image:
                    size = image.size
            except OSError as error:
                raise InputError(f"{name}: expected a photograph; got {error}; leave it out") from error
            if min(size) < MIN_SIDE:
                raise InputError(f"{name}: expected at least {MIN_SIDE} pixels a side; got {size}; leave it out")

    def __getitem__(self, name: str) -> np.ndarray:
        return decode(self.encoded[name])

    @property
    def held_out(self) -> list[str]:
        return self.names[::HELD_OUT_INTERVAL]

    @property
    def training(self) -> list[str]:
        return [name for index, name in enumerate(self.names) if index % HELD_OUT_INTERVAL]


def decode(content: bytes) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 RGB."""
    return pillow_to_rgb(Image.open(io.BytesIO(content), formats=available_formats()))


def _read_all(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield path.relative_to(folder).as_posix(), path.read_bytes()
        elif path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    if member.isfile() and member.name.lower().endswith(SUFFIXES):
                        handle = shard.extractfile(member)
                        assert handle is not None
                        yield member.name, handle.read()


# --- regions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """Nested regions and boundary cues of one photograph.

    ``leaves`` (H, W) uint16; ``table`` (leaves, levels) uint16: region of each leaf at each of ``GRANULARITIES``;
    ``cues`` (NUM_CUES, H/2, W/2) uint8 in units of 1 / ``CUE_UNIT``.
    """

    leaves: np.ndarray
    table: np.ndarray
    cues: np.ndarray

    @classmethod
    def load(cls, labels: Path, name: str) -> Regions:
        with np.load(path_of(labels, name)) as stored:
            return cls(stored["leaves"], stored["table"], stored["cues"])


def path_of(labels: Path, name: str) -> Path:
    return labels / f"{name}.npz"


def label(photos: Photos, labels: Path, backbone: str, workers: int) -> None:
    """Find the regions of every photograph that has none yet."""
    todo = [name for name in photos.names if not path_of(labels, name).exists()]
    jobs = ((photos.encoded[name], path_of(labels, name), backbone) for name in todo)
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # of the spawned workers
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        progress_bar("label", len(todo), len(photos.names) - len(todo), show=True) as progress,
    ):
        for _ in pool.imap_unordered(_label, jobs, chunksize=4):
            progress.advance()


def _label(job: tuple[bytes, Path, str]) -> None:
    content, path, backbone = job
    image = decode(content)
    tree = build_cost_dendrogram(image, backbone=_load_backbone(backbone), scales=SCALES)
    tree = tree.with_altitudes(costs_to_granularities(tree.altitudes, learned=backbone.startswith("embedded")))
    columns = [np.unique(tree.cut_nodes(tree.merges_at(level)), return_inverse=True)[1] for level in GRANULARITIES]
    arrays = {
        "leaves": tree.leaves.astype(np.uint16),
        "table": np.stack(columns, axis=1).astype(np.uint16),
        "cues": np.clip(np.rint(boundary_cues(image).maps * CUE_UNIT), 0, 255).astype(np.uint8),
    }
    write_atomically(path, lambda handle: np.savez(handle, **arrays))


_load_backbone = functools.cache(load_backbone)  # once per worker process


# --- examples -------------------------------------------------------------------------------------------------------


class Views(torch.utils.data.Dataset):
    """Item i of a run: two views of a photograph, determined by the seed and i alone."""

    def __init__(
        self, photos: Photos, names: list[str], labels: Path, settings: Settings, first: int, last: int
    ) -> None:
        self.photos, self.names, self.labels, self.settings = photos, names, labels, settings
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.first + index
        epoch, position = divmod(item, len(self.names))
        order = np.random.default_rng([self.settings.seed, 1, epoch]).permutation(len(self.names))
        rng = np.random.default_rng([self.settings.seed, 2, item])
        name = self.names[order[position]]
        image, regions = self.photos[name], Regions.load(self.labels, name)
        views = [sample_view(image, regions, self.settings, rng) for _ in range(2)]
        return {key: torch.from_numpy(np.stack([v[key] for v in views])) for key in views[0]}


def sample_view(
    image: np.ndarray, regions: Regions, settings: Settings, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random resized crop with flip and photometric augmentation; its borders, and the regions of sampled points."""
    size = settings.crop
    H, W, _ = image.shape
    side = min(size / math.exp(rng.uniform(math.log(0.75), math.log(settings.max_zoom))), H, W)
    top, left = rng.uniform(0, H - side), rng.uniform(0, W - side)
    box = (left, top, left + side, top + side)
    crop = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))
    half_box, half_size = tuple(edge / 2 for edge in box), (size // 2, size // 2)
    planes = [
        Image.fromarray(plane).resize(half_size, Image.Resampling.BILINEAR, box=half_box) for plane in regions.cues
    ]
    cues = np.stack([np.asarray(plane) for plane in planes])
    steps = (np.arange(size) + 0.5) * side / size
    rows, columns = np.minimum((top + steps).astype(int), H - 1), np.minimum((left + steps).astype(int), W - 1)
    leaves = regions.leaves[rows[:, None], columns]
    if rng.random() < 0.5:
        crop, leaves, cues = crop[:, ::-1], leaves[:, ::-1], cues[:, :, ::-1]
    labels = regions.table[leaves]  # (size, size, levels)
    points = sample_points(settings.points, size // 4, rng)
    crop = jitter_colors(crop, rng)
    return {
        "image": np.ascontiguousarray(crop.transpose(2, 0, 1)),
        "hidden": rng.random((size // BLOCK_SIZE, size // BLOCK_SIZE)) < HIDDEN_SHARE,
        "cues": cues.astype(np.float32) / CUE_UNIT,
        "borders": find_borders(labels).transpose(2, 0, 1),
        "points": points,
        "point_regions": labels[4 * points[:, 0] + 2, 4 * points[:, 1] + 2].astype(np.int32),
        "cells": labels[2::4, 2::4, 3].astype(np.int32),
    }


def find_borders(labels: np.ndarray) -> np.ndarray:
    """(H/2, W/2, levels) bool: cells of 2 x 2 pixels with a neighbour in another region."""
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge[::2, ::2] | edge[1::2, ::2] | edge[::2, 1::2] | edge[1::2, 1::2]


def sample_points(count: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) int64 cells in clusters of 16 of random width, so that pairs have all distances."""
    clusters = (count // 16, 1, 1)
    widths = np.exp(rng.uniform(math.log(1.5), math.log(cells / 4), clusters))
    centres = rng.uniform(0, cells, (count // 16, 1, 2))
    positions = centres + widths * rng.normal(size=(count // 16, 16, 2))
    return np.clip(positions, 0, cells - 1).astype(np.int64).reshape(-1, 2)


def jitter_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random exposure, contrast, colour cast, saturation, blur and noise. float32 in [0, 1]."""
    if rng.random() < 0.15:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5))))
    x = image.astype(np.float32) / 255
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.4)
    x = grey + saturation * (x - grey)
    x = (x - x.mean()) * rng.uniform(0.6, 1.4) + x.mean() * rng.uniform(0.7, 1.3)
    x = x * rng.uniform(0.9, 1.1, 3) + rng.normal(0, 0.02, 3)
    if rng.random() < 0.3:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), x.shape)
    return np.clip(x, 0, 1).astype(np.float32)


# --- objectives -----------------------------------------------------------------------------------------------------


def border_loss(logits: Tensor, targets: Tensor, pos_weight: float) -> Tensor:
    weight = torch.tensor(pos_weight, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), pos_weight=weight)


def pair_loss(embeddings: Tensor, points: Tensor, regions: Tensor, scale: float) -> Tensor:
    """Binary cross-entropy of whether two points share a region at a level; logit: scale x (cosine - threshold).

    Positive and negative pairs weigh the same at each level, whatever their numbers.
    """
    sampled = at_points(embeddings, points)
    cosines = sampled @ sampled.transpose(1, 2)
    distinct = ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)
    parts = []
    for level, threshold in enumerate(COSINE_THRESHOLDS):
        same = regions[:, :, None, level] == regions[:, None, :, level]
        logits = scale * (cosines - threshold)
        pair_losses = functional.softplus(-logits[same & distinct]), functional.softplus(logits[~same])
        parts += [losses.mean() for losses in pair_losses if len(losses)]
    return torch.stack(parts).mean()


def view_loss(embeddings: Tensor, cells: Tensor, temperature: float, min_cells: int = 24) -> Tensor:
    """Match each region with itself in the other view, among all regions of the batch (InfoNCE, arXiv 1807.03748).

    ``embeddings`` (2b, d, h, w), views of one photograph side by side; ``cells`` (2b, h, w) region numbers.
    """
    first, second = [], []
    vectors = functional.normalize(embeddings.float(), dim=1).flatten(2)
    for i in range(0, len(cells), 2):
        a, b = cells[i].flatten(), cells[i + 1].flatten()
        width = int(max(a.max(), b.max())) + 1
        in_a, in_b = functional.one_hot(a.long(), width).float(), functional.one_hot(b.long(), width).float()
        shared = (in_a.sum(0) >= min_cells) & (in_b.sum(0) >= min_cells)
        first.append((vectors[i] @ in_a[:, shared]).T)
        second.append((vectors[i + 1] @ in_b[:, shared]).T)
    x, y = functional.normalize(torch.cat(first), dim=1), functional.normalize(torch.cat(second), dim=1)
    if len(x) < 2:
        return embeddings.sum() * 0
    logits, target = x @ y.T / temperature, torch.arange(len(x), device=x.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def near_loss(embeddings: Tensor, points: Tensor, temperature: float) -> Tensor:
    """Co-occurrence without regions: InfoNCE of a point and its neighbour, with all other points as negatives.

    It estimates the pointwise mutual information of pairs (after Isola et al. 2015, arXiv 1511.06811).
    """
    sampled = at_points(embeddings, points).flatten(0, 1)
    positions = points.view(-1, 16, 2).float()
    distance = torch.cdist(positions, positions)
    nearest = distance.masked_fill(distance == 0, math.inf).argmin(2)
    partner = (nearest + 16 * torch.arange(len(positions), device=positions.device)[:, None]).flatten()
    logits = sampled @ sampled.T / temperature
    return functional.cross_entropy(logits.fill_diagonal_(-1e4), partner)


def hidden_loss(
    network: EmbeddedNetwork, averaged: EmbeddedNetwork, batch: dict[str, Tensor], settings: Settings
) -> Tensor:
    """Self-distillation: predict the EMA teacher's prototype assignments of masked blocks.

    After iBOT (Zhou et al. 2022, arXiv 2111.07832), with balanced assignments (Caron et al. 2020, arXiv 2006.09882)
    to fixed random prototypes, which need neither centring nor weights. Costs a second student and a teacher pass.
    """
    directions = torch.randn(settings.prototypes, EMBEDDING_DIM, generator=torch.Generator().manual_seed(settings.seed))
    prototypes = functional.normalize(directions, dim=1).to(batch["image"].device)
    hidden = batch["hidden"][:, None].float()
    keep = 1 - functional.interpolate(hidden, scale_factor=float(BLOCK_SIZE))
    cues = functional.avg_pool2d(keep, 2) * batch["cues"] if settings.cues else None
    with torch.autocast(batch["image"].device.type, torch.bfloat16):
        student = network(0.45 + keep * (batch["image"] - 0.45), cues)[1]
        with torch.no_grad():
            averaged.eval()
            teacher = averaged(batch["image"], batch["cues"] if settings.cues else None)[1]
    masked = functional.interpolate(hidden, scale_factor=BLOCK_SIZE / 4).bool()[:, 0]
    predicted, target = (functional.normalize(x.float(), dim=1).permute(0, 2, 3, 1)[masked] for x in (student, teacher))
    assignments = balanced_assignment(target @ prototypes.T / 0.05)
    return functional.cross_entropy(predicted @ prototypes.T / settings.temperature, assignments)


def balanced_assignment(scores: Tensor, rounds: int = 3) -> Tensor:
    """(n, k) soft assignments with rows of sum 1 and about equal column sums (Sinkhorn-Knopp)."""
    shares = torch.exp(scores - scores.max())
    for _ in range(rounds):
        shares = shares / shares.sum(0).clamp(min=1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return shares


def at_points(embeddings: Tensor, points: Tensor) -> Tensor:
    """(b, n, d) unit embeddings at (b, n, 2) cells."""
    b, d, _, w = embeddings.shape
    index = (points[..., 0] * w + points[..., 1])[:, None].expand(b, d, -1)
    return functional.normalize(embeddings.float().flatten(2).gather(2, index), dim=1).transpose(1, 2)


def compute_losses(
    network: EmbeddedNetwork, averaged: EmbeddedNetwork, batch: dict[str, Tensor], settings: Settings
) -> dict[str, Tensor]:
    """The weighted objectives of a batch."""
    with torch.autocast(batch["image"].device.type, torch.bfloat16):
        logits, embeddings = network(batch["image"], batch["cues"] if settings.cues else None)
    parts = {}
    if settings.border:
        parts["border"] = settings.border * border_loss(logits, batch["borders"], settings.border_pos_weight)
    if settings.pairs:
        points = batch["points"], batch["point_regions"]
        parts["pairs"] = settings.pairs * pair_loss(embeddings, *points, settings.logit_scale)
    if settings.views:
        parts["views"] = settings.views * view_loss(embeddings, batch["cells"], settings.temperature)
    if settings.near:
        parts["near"] = settings.near * near_loss(embeddings, batch["points"], settings.temperature)
    if settings.hidden:
        parts["hidden"] = settings.hidden * hidden_loss(network, averaged, batch, settings)
    return parts


# --- training -------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """Training state, saved for resuming."""

    network: EmbeddedNetwork
    averaged: EmbeddedNetwork
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def begin(cls, settings: Settings, device: str, start: Path | None) -> State:
        torch.manual_seed(settings.seed)
        network = EmbeddedNetwork().to(device).to(memory_format=torch.channels_last)
        if start is not None:  # zero weights for cues if the earlier run had none
            earlier = torch.load(start / "state.pt", weights_only=True, map_location=device)["averaged"]
            network.load_state_dict(network.state_dict() | zero_cue_weights(network) | earlier)
        optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)
        return cls(network, copy.deepcopy(network), optimizer)

    def save(self, path: Path, settings: Settings) -> None:
        content = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "settings": asdict(settings),
        }
        write_atomically(path, lambda handle: torch.save(content, handle))

    def load(self, path: Path, settings: Settings) -> None:
        content = torch.load(path, weights_only=True, map_location="cpu")
        changed = [key for key, value in asdict(settings).items() if content["settings"].get(key) != value]
        if [key for key in changed if key != "stop_after"]:
            raise InputError(
                f"{path}: expected the settings of this run; got other {', '.join(changed)}; use a new folder"
            )
        self.network.load_state_dict(content["network"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]


def zero_cue_weights(network: EmbeddedNetwork) -> dict[str, Tensor]:
    return {f"evidence.{k}": torch.zeros_like(v) for k, v in network.evidence.state_dict().items()}


def train(
    photos: Photos,
    labels: Path,
    run: Path,
    settings: Settings,
    *,
    start: Path | None,
    workers: int,
    device: str,
    save_every: float,
) -> None:
    """Train up to ``settings.stop_after`` or the end; resumes from the last saved state with the same result."""
    missing = [name for name in photos.names if not path_of(labels, name).exists()]
    if missing:
        raise InputError(f"expected regions of all photographs in {labels}; got none of {missing[0]}; run label first")
    state = State.begin(settings, device, start)
    run.mkdir(parents=True, exist_ok=True)
    if (run / "state.pt").exists():
        state.load(run / "state.pt", settings)
    end = settings.stop_after or settings.steps
    data = Views(photos, photos.training, labels, settings, state.step * settings.batch_size, end * settings.batch_size)
    prefetch = {"prefetch_factor": 4} if workers else {}
    saved = time.monotonic()
    resumed = state.step
    with progress_bar("train", end - resumed, resumed, show=True) as progress, (run / "metrics.jsonl").open("a") as log:
        for batch in torch.utils.data.DataLoader(data, settings.batch_size, num_workers=workers, **prefetch):
            record = _step(state, flatten_views(batch, device), settings)
            progress.advance()
            if state.step % 500 == 0 or state.step == end:
                record |= validate(state.averaged, photos, labels, settings, device)
            print(json.dumps(record), file=log, flush=True)
            if state.step == end or time.monotonic() - saved > save_every:
                state.save(run / "state.pt", settings)
                saved = time.monotonic()


def _step(state: State, batch: dict[str, Tensor], settings: Settings) -> dict[str, float]:
    begin = time.monotonic()
    lr = settings.lr * lr_factor(state.step, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    parts = compute_losses(state.network, state.averaged, batch, settings)
    total = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(total):
        raise InputError(f"expected finite losses at step {state.step}; got {parts}; lower --lr")
    state.optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    update_ema(state.averaged, state.network, min(settings.ema_decay, (1 + state.step) / (10 + state.step)))
    state.step += 1
    values = {name: round(float(part.detach()), 5) for name, part in parts.items()}
    return {"step": state.step, "lr": lr, **values, "seconds": round(time.monotonic() - begin, 3)}


@torch.no_grad()
def validate(
    network: EmbeddedNetwork, photos: Photos, labels: Path, settings: Settings, device: str
) -> dict[str, float]:
    """Losses on the held-out photographs, for model selection without labels."""
    names = photos.held_out
    data = Views(photos, names, labels, replace(settings, seed=settings.seed + 1), 0, len(names))
    network.eval()
    batches = torch.utils.data.DataLoader(data, settings.batch_size)
    found = [compute_losses(network, network, flatten_views(b, device), settings) for b in batches]
    network.train()
    return {f"held_out_{name}": round(float(np.mean([float(f[name]) for f in found])), 5) for name in found[0]}


def flatten_views(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """A flat batch of all views, on the device."""
    flat = {key: value.flatten(0, 1).to(device) for key, value in batch.items()}
    return flat | {key: flat[key].contiguous(memory_format=torch.channels_last) for key in ("image", "cues")}


@torch.no_grad()
def update_ema(averaged: EmbeddedNetwork, network: EmbeddedNetwork, decay: float) -> None:
    """Update the EMA weights, batch norm statistics included."""
    for old, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def lr_factor(step: int, settings: Settings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    decay_steps = max(1, settings.steps - settings.warmup_steps)
    return 0.5 + 0.5 * math.cos(math.pi * (step - settings.warmup_steps) / decay_steps)


def export(runs: Sequence[Path], path: Path) -> None:
    """Write EMA weights as float16 safetensors, batch norm folded into the convolutions.

    Of several runs, each started from the previous one, the mean is written (Wortsman et al. 2022, arXiv 2203.05482).
    """
    from safetensors.torch import save

    network = EmbeddedNetwork()
    states = [torch.load(run / "state.pt", weights_only=True, map_location="cpu")["averaged"] for run in runs]
    network.load_state_dict({k: torch.stack([s[k].double() for s in states]).mean(0) for k in states[0]})
    fuse_batch_norm(network.eval())
    content = save({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()})
    write_atomically(path, lambda handle: handle.write(content))


# --- command line ---------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    to_label, to_train = verbs.add_parser("label"), verbs.add_parser("train")
    for verb in (to_label, to_train):
        verb.add_argument("photos", type=Path)
        verb.add_argument("labels", type=Path)
        verb.add_argument("--workers", type=int, default=1)
    to_label.add_argument("--backbone", default="texture", help="backbone for region discovery")
    to_train.add_argument("run", type=Path)
    to_train.add_argument("--start", type=Path, help="earlier run whose weights initialise this one")
    to_train.add_argument("--device", default="cpu")
    to_train.add_argument("--threads", type=int, default=2)
    to_train.add_argument("--save-every", type=float, default=120, help="seconds")
    for key, value in asdict(Settings()).items():
        to_train.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=value)
    to_export = verbs.add_parser("export")
    to_export.add_argument(
        "runs", type=Path, nargs="+", help="of several, each started from the previous one, the mean"
    )
    to_export.add_argument("path", type=Path)
    options = parser.parse_args()
    try:
        if options.verb == "label":
            label(Photos(options.photos), options.labels, options.backbone, options.workers)
        elif options.verb == "export":
            export(options.runs, options.path)
        else:
            torch.set_num_threads(options.threads)
            settings = Settings(**{key: getattr(options, key) for key in asdict(Settings())})
            train(
                Photos(options.photos),
                options.labels,
                options.run,
                settings,
                start=options.start,
                workers=options.workers,
                device=options.device,
                save_every=options.save_every,
            )
    except MasktreeError as error:
        raise SystemExit(f"embedded_backbone: {error}") from None


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow down the data loader processes
    main()
