"""The backbone that ships with the package: learned from raw photographs alone, small enough for a laptop's CPU.

``recipes/embedded_backbone.py`` makes the weights, ``weights/README.md`` is their model card. torch is imported where
the network is loaded, not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.texture import Evidence, evidence
from masktree.backbones.weights import Weights
from masktree.errors import WeightsError
from masktree.io.files import sha256_of
from masktree.io.images import resize_image
from masktree.types import RGB, Features, checked

if TYPE_CHECKING:
    import torch

    from masktree.backbones.embedded.network import Network

PATH = Path(__file__).resolve().parents[2] / "weights" / "embedded.safetensors"
CARD = PATH.with_name("README.md")
DIMENSIONS = 64
WEIGHTS = Weights(
    name="embedded",
    source="part of the package",
    licence="Apache-2.0",
    patch=8,
    dim=DIMENSIONS,
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    url="",
    trained_on="7,328 unlabelled photographs of mixed origin; the model card says which",
    label_free=True,
    sha256="5de1e3ce582f34424b14e44660cf555e0a4f8895885550eda9d8fb303904ddcf",
)
_CELL = 4  # pixels between embeddings


@dataclass(frozen=True)
class Look:
    """What the network sees in an H x W image.

    ``borders`` (H, W) float32 in [0, 1]: higher where a border passes that lasts to a coarser granularity.
    ``embeddings`` (ceil(H/4), ceil(W/4), 64) float32 of unit length: their cosines say what belongs together.
    ``evidence``: the hand-made evidence that entered beside the image.
    """

    borders: np.ndarray
    embeddings: Features
    evidence: Evidence


class EmbeddedBackbone:
    """The embedded network as a :class:`~masktree.backbones.base.Backbone`; ``look`` gives its borders too.

    Parameters
    ----------
    device, dtype: as in :func:`masktree.backbones.load_backbone`; the hand-made cues are always computed on the CPU.
    path: other weights for the same network, from ``recipes/embedded_backbone.py``; None takes those of the package.

    Raises
    ------
    WeightsError: the weight file is missing, does not fit the network, or is not the one of this version.
    """

    name = "embedded"
    stride = 2 * _CELL
    dim = DIMENSIONS

    def __init__(
        self, *, device: torch.device | str = "cpu", dtype: str = "float32", path: str | Path | None = None
    ) -> None:
        import torch

        self._device = torch.device(device)
        self.device = self._device.type
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._network = load_network(PATH, WEIGHTS.sha256) if path is None else load_network(Path(path), None)
        self.provenance = WEIGHTS if path is None else _own_weights(Path(path))
        self._network.to(self._device, self._dtype).to(memory_format=torch.channels_last)

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """Nearest multiples of the stride."""
        return nearest_multiple(H, W, self.stride)

    def __call__(self, images: Images) -> Grids:
        """Feature grids of (b, H, W, 3) uint8 images: (b, h, w, 64) float32; see :class:`.base.Backbone`.

        A cell is the mean of its 2 x 2 embeddings of unit length. Images pass one by one: the network is small.
        """
        check_images(images)
        H, W = self.input_size(*images.shape[1:3])
        grids = np.empty((len(images), H // self.stride, W // self.stride, self.dim), np.float32)
        for grid, image in zip(grids, images, strict=True):
            fine = self.look(resize_image(image, (H, W))).embeddings
            grid[:] = fine.reshape(len(grid), 2, -1, 2, self.dim).mean((1, 3))
        return grids

    @checked
    def look(self, image: RGB) -> Look:
        """Borders and embeddings of one image of any size; about 0.3 s for 480 x 320 on one core.

        Memory: about 1 kB a pixel.
        """
        import torch
        from torch.nn import functional

        H, W, _ = image.shape
        seen = evidence(image)
        pixels = self._padded(image.transpose(2, 0, 1), H, W, 1) / 255
        cues = self._padded(seen.cues, H, W, 2)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            logits, embeddings = self._network(pixels, cues)
            strength = logits.float().sigmoid().mean(1, keepdim=True)
            borders = functional.interpolate(strength, scale_factor=2.0, mode="bilinear", align_corners=False)[0, 0]
            units = functional.normalize(embeddings.float(), dim=1)[0].permute(1, 2, 0)
            fine = units[: -(-H // _CELL), : -(-W // _CELL)].cpu().numpy()
            return Look(borders[:H, :W].cpu().numpy(), np.ascontiguousarray(fine), seen)

    def _padded(self, planes: np.ndarray, H: int, W: int, cell: int) -> torch.Tensor:
        """(1, k, h, w) of (k, ceil(H/cell), ceil(W/cell)) planes, mirrored to multiples of the network's stride."""
        import torch

        from masktree.backbones.embedded.network import STRIDE

        h, w = (-(-side // STRIDE) * STRIDE // cell for side in (H, W))
        fill = [(0, 0), (0, h - planes.shape[1]), (0, w - planes.shape[2])]
        padded = torch.from_numpy(np.pad(planes, fill, mode="symmetric")[None]).to(self._device, self._dtype)
        return padded.contiguous(memory_format=torch.channels_last)


def _own_weights(path: Path) -> Weights:
    """The record of weights that somebody made with the recipe."""
    unknown = "not known; whoever made the file can say"
    return replace(
        WEIGHTS, source=str(path), licence=unknown, trained_on=unknown, label_free=False, sha256=sha256_of(path)
    )


def load_network(path: Path, sha256: str | None) -> Network:
    """The network with folded batch norm, in evaluation mode, from a safetensors file.

    Raises
    ------
    WeightsError: no such file, another hash than ``sha256`` (None accepts any), or tensors that do not fit.
    """
    from masktree.backbones.embedded.network import Network, fold
    from masktree.backbones.weights import read_state

    if not path.is_file():
        remedy = "install masktree again" if sha256 else "give a file that recipes/embedded_backbone.py has exported"
        raise WeightsError(f"expected weights of the embedded network at {path}; got no file; {remedy}")
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise WeightsError(f"expected embedded weights with sha256 {sha256}; got {found}; install masktree again")
    network = Network().eval()
    fold(network)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in read_state(path).items()})
    except RuntimeError as error:
        raise WeightsError(f"{path}: expected the tensors of the embedded network; got others ({error})") from error
    return network.requires_grad_(False)
