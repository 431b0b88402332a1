"""Train the weights of the embedded backbone from unlabelled photographs alone.

    python recipes/embedded_backbone.py label  PHOTOS LABELS        # regions of every photograph, by the present method
    python recipes/embedded_backbone.py train  PHOTOS LABELS RUN    # the network learns them; the same command goes on
    python recipes/embedded_backbone.py export RUN OUT.safetensors  # averaged weights, float16, batch norm folded away

PHOTOS is a folder of images, or of tar files of images. Nothing else goes in: no label, no weight from outside.

The regions that boundary cues find in one image are noisy; a network that has to predict them for thousands of
images can only learn what they have in common. It learns at which of six granularities a border passes each pixel;
which pixels lie in one region there, as the cosine of their embeddings against the thresholds of the published rules;
and to know a region again in another view among those of all other photographs of the step. ``label --backbone
embedded`` makes the next round's regions with what was learned. Co-occurrence of neighbours and self-distillation of
hidden blocks are two more objectives, off unless asked for; docs/log.md compares them all.

Command, cost and result of the shipped weights: src/masktree/weights/README.md.
"""

from __future__ import annotations

import argparse
import copy
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
from masktree.io.images import pillow_to_rgb
from masktree.jobs.progress import progress_bar

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEAST = 64  # photographs; fewer teach nothing that is not in one image
SMALLEST = 64  # pixels of the shorter side
HELD_OUT = 50  # every so many photographs one is judged by and never trained on
SCALES = (1.0, 1.5)  # sizes at which the photographs' regions are found; a third would double the time
BLOCK, HIDDEN = 16, 0.4  # pixels of a block that may be hidden, and the share that is
CUE_UNIT = 85  # cues are kept in bytes: 0 to 3 times a clear border


@dataclass(frozen=True)
class Settings:
    """What decides the weights, beside photographs and regions. All values are our choice.

    ``border``, ``pairs``, ``views``, ``near``, ``hidden`` weigh the objectives; 0 leaves one out. ``stop`` ends a run
    early, on the schedule of ``steps``; 0 does not.
    """

    seed: int = 0
    steps: int = 6000
    stop: int = 0
    images: int = 5  # per step, each in two views
    crop: int = 192  # pixels
    zoom: float = 1.3  # largest; the smallest is 0.75
    cues: int = 1  # 0: the network sees the image alone
    rate: float = 1.5e-3  # AdamW's, after the warm-up; then a cosine to 0
    decay: float = 0.02
    warm_up: int = 100
    average: float = 0.998  # of the weights that are kept
    border: float = 1.0
    rarity: float = 4.0  # weight of border cells, which are few
    pairs: float = 1.0
    scale: float = 8.0  # of (cosine - threshold), as a logit
    points: int = 320  # per view
    views: float = 0.2
    near: float = 0.0
    hidden: float = 0.0
    prototypes: int = 512
    temperature: float = 0.1


# --- photographs ----------------------------------------------------------------------------------------------------


class Photos:
    """Encoded photographs by name, in memory: those of a folder, or of its tar files.

    Raises:
        InputError: no folder, too few photographs, or one that cannot be read or is too small.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"expected a folder of photographs or of tar files; got {folder}")
        self.encoded = dict(sorted(_read_all(folder)))
        self.names = list(self.encoded)
        if len(self.names) < LEAST:
            raise InputError(f"expected at least {LEAST} photographs in {folder}; got {len(self.names)}; add more")
        for name, content in self.encoded.items():
            try:
                with Image.open(io.BytesIO(content)) as image:
                    size = image.size
            except OSError as error:
                raise InputError(f"{name}: expected a photograph; got {error}; leave it out") from error
            if min(size) < SMALLEST:
                raise InputError(f"{name}: expected at least {SMALLEST} pixels a side; got {size}; leave it out")

    def __getitem__(self, name: str) -> np.ndarray:
        return decode(self.encoded[name])

    @property
    def held_out(self) -> list[str]:
        return self.names[::HELD_OUT]

    @property
    def trained_on(self) -> list[str]:
        return [name for index, name in enumerate(self.names) if index % HELD_OUT]


def decode(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an encoded image."""
    return pillow_to_rgb(Image.open(io.BytesIO(content)))


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
    """What one photograph teaches.

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
    """Write the regions of every photograph that has none yet."""
    todo = [name for name in photos.names if not path_of(labels, name).exists()]
    jobs = ((photos.encoded[name], path_of(labels, name), backbone) for name in todo)
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # of the workers, which are started anew
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        progress_bar("label", len(todo), len(photos.names) - len(todo), show=True) as progress,
    ):
        for _ in pool.imap_unordered(_label, jobs, chunksize=4):
            progress.advance()


def _label(job: tuple[bytes, Path, str]) -> None:
    content, path, backbone = job
    image = decode(content)
    tree = build_cost_dendrogram(image, backbone=_backbone(backbone), scales=SCALES)
    tree = tree.with_altitudes(costs_to_granularities(tree.altitudes, learned=backbone.startswith("embedded")))
    columns = [np.unique(tree.cut_nodes(tree.merges_at(level)), return_inverse=True)[1] for level in GRANULARITIES]
    arrays = {
        "leaves": tree.leaves.astype(np.uint16),
        "table": np.stack(columns, axis=1).astype(np.uint16),
        "cues": np.clip(np.rint(boundary_cues(image).maps * CUE_UNIT), 0, 255).astype(np.uint8),
    }
    write_atomically(path, lambda handle: np.savez(handle, **arrays))


_loaded: dict = {}  # of a worker process


def _backbone(name: str):
    from masktree.backbones import load_backbone

    if name not in _loaded:
        _loaded[name] = load_backbone(name)
    return _loaded[name]


# --- examples -------------------------------------------------------------------------------------------------------


class Views(torch.utils.data.Dataset):
    """Item i of a run: two views of a photograph, the same for the same seed whenever and wherever it is made."""

    def __init__(
        self, photos: Photos, names: list[str], labels: Path, settings: Settings, first: int, last: int
    ) -> None:
        self.photos, self.names, self.labels, self.settings = photos, names, labels, settings
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = self.first + index
        epoch, place = divmod(at, len(self.names))
        order = np.random.default_rng([self.settings.seed, 1, epoch]).permutation(len(self.names))
        rng = np.random.default_rng([self.settings.seed, 2, at])
        name = self.names[order[place]]
        image, regions = self.photos[name], Regions.load(self.labels, name)
        views = [view(image, regions, self.settings, rng) for _ in range(2)]
        return {key: torch.from_numpy(np.stack([v[key] for v in views])) for key in views[0]}


def view(image: np.ndarray, regions: Regions, settings: Settings, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A crop at some scale, mirrored or not, in other light; its borders, and the regions of sampled points."""
    size = settings.crop
    H, W, _ = image.shape
    side = min(size / math.exp(rng.uniform(math.log(0.75), math.log(settings.zoom))), H, W)
    top, left = rng.uniform(0, H - side), rng.uniform(0, W - side)
    box = (left, top, left + side, top + side)
    crop = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))
    half, small = tuple(edge / 2 for edge in box), (size // 2, size // 2)
    planes = [Image.fromarray(plane).resize(small, Image.Resampling.BILINEAR, box=half) for plane in regions.cues]
    cues = np.stack([np.asarray(plane) for plane in planes])
    steps = (np.arange(size) + 0.5) * side / size
    rows, columns = np.minimum((top + steps).astype(int), H - 1), np.minimum((left + steps).astype(int), W - 1)
    leaves = regions.leaves[rows[:, None], columns]
    if rng.random() < 0.5:
        crop, leaves, cues = crop[:, ::-1], leaves[:, ::-1], cues[:, :, ::-1]
    labels = regions.table[leaves]  # (size, size, levels)
    points = sample_points(settings.points, size // 4, rng)
    crop = relight(crop, rng)
    return {
        "image": np.ascontiguousarray(crop.transpose(2, 0, 1)),
        "hidden": rng.random((size // BLOCK, size // BLOCK)) < HIDDEN,
        "cues": cues.astype(np.float32) / CUE_UNIT,
        "borders": borders(labels).transpose(2, 0, 1),
        "points": points,
        "point_regions": labels[4 * points[:, 0] + 2, 4 * points[:, 1] + 2].astype(np.int32),
        "cells": labels[2::4, 2::4, 3].astype(np.int32),
    }


def borders(labels: np.ndarray) -> np.ndarray:
    """(H/2, W/2, levels) bool: cells of 2 x 2 pixels of which one has a neighbour in another region."""
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge[::2, ::2] | edge[1::2, ::2] | edge[::2, 1::2] | edge[1::2, 1::2]


def sample_points(count: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) int64 cells, in clusters of 16 of various widths, so that many pairs are near and many far."""
    clusters = (count // 16, 1, 1)
    widths = np.exp(rng.uniform(math.log(1.5), math.log(cells / 4), clusters))
    centres = rng.uniform(0, cells, (count // 16, 1, 2))
    places = centres + widths * rng.normal(size=(count // 16, 16, 2))
    return np.clip(places, 0, cells - 1).astype(np.int64).reshape(-1, 2)


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other exposure, contrast, cast and saturation; sometimes grey, blurred or noisy. float32 in [0, 1]."""
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


def border_loss(logits: Tensor, wanted: Tensor, rarity: float) -> Tensor:
    """Cross-entropy of the borders at all levels, with border cells weighted by ``rarity``."""
    weight = torch.tensor(rarity, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits.float(), wanted.float(), pos_weight=weight)


def pair_loss(embeddings: Tensor, points: Tensor, regions: Tensor, scale: float) -> Tensor:
    """Do two points of an image lie in one region at a level? Log-odds: scale x (cosine - threshold of the level).

    Pairs of both answers weigh the same at each level, whatever their numbers.
    """
    sampled = at_points(embeddings, points)
    cosines = sampled @ sampled.transpose(1, 2)
    apart = ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)
    parts = []
    for level, threshold in enumerate(COSINE_THRESHOLDS):
        same = regions[:, :, None, level] == regions[:, None, :, level]
        logits = scale * (cosines - threshold)
        answers = functional.softplus(-logits[same & apart]), functional.softplus(logits[~same])
        parts += [answer.mean() for answer in answers if len(answer)]
    return torch.stack(parts).mean()


def view_loss(embeddings: Tensor, cells: Tensor, temperature: float, least: int = 24) -> Tensor:
    """Know a region of one view again in the other, among all regions of the step (InfoNCE, arXiv 1807.03748).

    ``embeddings`` (2b, d, h, w), views of one photograph side by side; ``cells`` (2b, h, w) region numbers.
    """
    first, second = [], []
    vectors = functional.normalize(embeddings.float(), dim=1).flatten(2)
    for i in range(0, len(cells), 2):
        a, b = cells[i].flatten(), cells[i + 1].flatten()
        width = int(max(a.max(), b.max())) + 1
        in_a, in_b = functional.one_hot(a.long(), width).float(), functional.one_hot(b.long(), width).float()
        shared = (in_a.sum(0) >= least) & (in_b.sum(0) >= least)
        first.append((vectors[i] @ in_a[:, shared]).T)
        second.append((vectors[i + 1] @ in_b[:, shared]).T)
    x, y = functional.normalize(torch.cat(first), dim=1), functional.normalize(torch.cat(second), dim=1)
    if len(x) < 2:
        return embeddings.sum() * 0
    logits, target = x @ y.T / temperature, torch.arange(len(x), device=x.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def near_loss(embeddings: Tensor, points: Tensor, temperature: float) -> Tensor:
    """Co-occurrence, without any regions: a point and its neighbour against all other points of the step.

    What InfoNCE learns from pairs is their point-wise mutual information (after Isola et al. 2015, arXiv 1511.06811).
    Points come in clusters of 16; the neighbour is the nearest other cell in the cluster.
    """
    sampled = at_points(embeddings, points).flatten(0, 1)
    place = points.view(-1, 16, 2).float()
    distance = torch.cdist(place, place)
    nearest = distance.masked_fill(distance == 0, math.inf).argmin(2)
    partner = (nearest + 16 * torch.arange(len(place), device=place.device)[:, None]).flatten()
    logits = sampled @ sampled.T / temperature
    return functional.cross_entropy(logits.fill_diagonal_(-1e4), partner)


def hidden_loss(
    network: EmbeddedNetwork, averaged: EmbeddedNetwork, batch: dict[str, Tensor], settings: Settings
) -> Tensor:
    """Self-distillation: name the prototypes of hidden blocks as the averaged network does, which sees them.

    After iBOT (Zhou et al. 2022, arXiv 2111.07832); balanced assignments (Caron et al. 2020, arXiv 2006.09882) to
    fixed random prototypes, which need no centring and no weights. Costs a second pass and a teacher's.
    """
    directions = torch.randn(settings.prototypes, EMBEDDING_DIM, generator=torch.Generator().manual_seed(settings.seed))
    prototypes = functional.normalize(directions, dim=1).to(batch["image"].device)
    hidden = batch["hidden"][:, None].float()
    keep = 1 - functional.interpolate(hidden, scale_factor=float(BLOCK))
    cues = functional.avg_pool2d(keep, 2) * batch["cues"] if settings.cues else None
    with torch.autocast(batch["image"].device.type, torch.bfloat16):
        guesses = network(0.45 + keep * (batch["image"] - 0.45), cues)[1]
        with torch.no_grad():
            averaged.eval()
            seen = averaged(batch["image"], batch["cues"] if settings.cues else None)[1]
    at = functional.interpolate(hidden, scale_factor=BLOCK / 4).bool()[:, 0]
    guessed, known = (functional.normalize(x.float(), dim=1).permute(0, 2, 3, 1)[at] for x in (guesses, seen))
    wanted = balanced(known @ prototypes.T / 0.05)
    return functional.cross_entropy(guessed @ prototypes.T / settings.temperature, wanted)


def balanced(scores: Tensor, rounds: int = 3) -> Tensor:
    """(n, k) assignments, rows of sum 1, in which every prototype gets about the same share (Sinkhorn-Knopp)."""
    shares = torch.exp(scores - scores.max())
    for _ in range(rounds):
        shares = shares / shares.sum(0).clamp(min=1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return shares


def at_points(embeddings: Tensor, points: Tensor) -> Tensor:
    """(b, n, d) unit vectors at (b, n, 2) cells."""
    b, d, _, w = embeddings.shape
    index = (points[..., 0] * w + points[..., 1])[:, None].expand(b, d, -1)
    return functional.normalize(embeddings.float().flatten(2).gather(2, index), dim=1).transpose(1, 2)


def losses(
    network: EmbeddedNetwork, averaged: EmbeddedNetwork, batch: dict[str, Tensor], settings: Settings
) -> dict[str, Tensor]:
    """The weighted objectives of a batch."""
    with torch.autocast(batch["image"].device.type, torch.bfloat16):
        logits, embeddings = network(batch["image"], batch["cues"] if settings.cues else None)
    parts = {}
    if settings.border:
        parts["border"] = settings.border * border_loss(logits, batch["borders"], settings.rarity)
    if settings.pairs:
        parts["pairs"] = settings.pairs * pair_loss(embeddings, batch["points"], batch["point_regions"], settings.scale)
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
    """All that a killed run goes on from."""

    network: EmbeddedNetwork
    averaged: EmbeddedNetwork
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def begin(cls, settings: Settings, device: str, start: Path | None) -> State:
        torch.manual_seed(settings.seed)
        network = EmbeddedNetwork().to(device).to(memory_format=torch.channels_last)
        if start is not None:  # cues that the earlier run did not have begin without effect
            earlier = torch.load(start / "state.pt", weights_only=True, map_location=device)["averaged"]
            network.load_state_dict(network.state_dict() | without_effect(network) | earlier)
        optimizer = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=settings.decay)
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
        if [key for key in changed if key != "stop"]:
            raise InputError(
                f"{path}: expected the settings of this run; got other {', '.join(changed)}; use a new folder"
            )
        self.network.load_state_dict(content["network"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]


def without_effect(network: EmbeddedNetwork) -> dict[str, Tensor]:
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
    """Train to the end, or to ``settings.stop``; goes on where a killed run was last saved, with the same result."""
    missing = [name for name in photos.names if not path_of(labels, name).exists()]
    if missing:
        raise InputError(f"expected regions of all photographs in {labels}; got none of {missing[0]}; run label first")
    state = State.begin(settings, device, start)
    run.mkdir(parents=True, exist_ok=True)
    if (run / "state.pt").exists():
        state.load(run / "state.pt", settings)
    end = settings.stop or settings.steps
    data = Views(photos, photos.trained_on, labels, settings, state.step * settings.images, end * settings.images)
    ahead = {"prefetch_factor": 4} if workers else {}
    saved = time.monotonic()
    kept = state.step
    with progress_bar("train", end - kept, kept, show=True) as progress, (run / "metrics.jsonl").open("a") as log:
        for batch in torch.utils.data.DataLoader(data, settings.images, num_workers=workers, **ahead):
            record = _step(state, ready(batch, device), settings)
            progress.advance()
            if state.step % 500 == 0 or state.step == end:
                record |= judge(state.averaged, photos, labels, settings, device)
            print(json.dumps(record), file=log, flush=True)
            if state.step == end or time.monotonic() - saved > save_every:
                state.save(run / "state.pt", settings)
                saved = time.monotonic()


def _step(state: State, batch: dict[str, Tensor], settings: Settings) -> dict[str, float]:
    begin = time.monotonic()
    rate = settings.rate * schedule(state.step, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    parts = losses(state.network, state.averaged, batch, settings)
    total = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(total):
        raise InputError(f"expected finite losses at step {state.step}; got {parts}; lower --rate")
    state.optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    average(state.averaged, state.network, min(settings.average, (1 + state.step) / (10 + state.step)))
    state.step += 1
    values = {name: round(float(part.detach()), 5) for name, part in parts.items()}
    return {"step": state.step, "rate": rate, **values, "seconds": round(time.monotonic() - begin, 3)}


@torch.no_grad()
def judge(network: EmbeddedNetwork, photos: Photos, labels: Path, settings: Settings, device: str) -> dict[str, float]:
    """The objectives on photographs that are never trained on: by these a run is chosen, without any label."""
    names = photos.held_out
    data = Views(photos, names, labels, replace(settings, seed=settings.seed + 1), 0, len(names))
    network.eval()
    found = [
        losses(network, network, ready(b, device), settings) for b in torch.utils.data.DataLoader(data, settings.images)
    ]
    network.train()
    return {f"held_out_{name}": round(float(np.mean([float(f[name]) for f in found])), 5) for name in found[0]}


def ready(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Views as a flat batch, on the device."""
    flat = {key: value.flatten(0, 1).to(device) for key, value in batch.items()}
    return flat | {key: flat[key].contiguous(memory_format=torch.channels_last) for key in ("image", "cues")}


@torch.no_grad()
def average(averaged: EmbeddedNetwork, network: EmbeddedNetwork, decay: float) -> None:
    """Move the averaged weights, batch norm's statistics among them, towards the present ones."""
    for old, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def schedule(step: int, settings: Settings) -> float:
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - settings.warm_up) / max(1, settings.steps - settings.warm_up))


def export(runs: Sequence[Path], path: Path) -> None:
    """Averaged weights as float16 safetensors, batch norm folded into the convolutions.

    Of several runs, each begun with the weights of the one before, the mean (Wortsman et al. 2022, arXiv 2203.05482).
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
    to_label.add_argument("--backbone", default="texture", help="what the regions are found with")
    to_train.add_argument("run", type=Path)
    to_train.add_argument("--start", type=Path, help="an earlier run, whose weights this one begins with")
    to_train.add_argument("--device", default="cpu")
    to_train.add_argument("--threads", type=int, default=2)
    to_train.add_argument("--save-every", type=float, default=120, help="seconds")
    for key, value in asdict(Settings()).items():
        to_train.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=value)
    to_export = verbs.add_parser("export")
    to_export.add_argument("runs", type=Path, nargs="+", help="several, each started from the one before: their mean")
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
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin slow the loader's processes
    main()
