"""The backbone that ships with the package: trained on unlabelled photographs, small enough for a laptop's CPU.

``recipes/embedded_backbone.py`` trains the weights, ``weights/README.md`` is their model card. torch is imported only
when the network is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.device import resolve_dtype
from masktree.backbones.texture import BoundaryCues, Vocabulary, boundary_cues
from masktree.backbones.weights import Weights
from masktree.errors import WeightsError
from masktree.io.files import sha256_of
from masktree.io.resize import resize_image
from masktree.types import RGB, Features, checked

if TYPE_CHECKING:
    import torch

    from masktree.backbones.embedded.network import EmbeddedNetwork

WEIGHT_FILE = Path(__file__).resolve().parents[2] / "weights" / "embedded.safetensors"
MODEL_CARD = WEIGHT_FILE.with_name("README.md")
EMBEDDING_DIM = 64  # network.EMBEDDING_DIM; that module imports torch
EMBEDDED_WEIGHTS = Weights(
    name="embedded",
    source="part of the package",
    licence="Apache-2.0",
    patch=8,
    dim=EMBEDDING_DIM,
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    url="",
    trained_on="7,328 unlabelled photographs of mixed origin; the model card says which",
    label_free=True,
    sha256="5de1e3ce582f34424b14e44660cf555e0a4f8895885550eda9d8fb303904ddcf",
)
_EMBEDDING_STRIDE = 4  # pixels between embeddings


@dataclass(frozen=True)
class BoundaryPrediction:
    """Output of the embedded network for an H x W image.

    Attributes:
        boundary: (H, W) float32 in [0, 1], mean boundary probability over the granularities; boundaries that persist to
            coarser granularities have higher values.
        embeddings: (ceil(H/4), ceil(W/4), 64) float32 of unit length; pixels of one region have a high cosine
            similarity.
        cues: the hand-crafted boundary cues, which are an input of the network beside the image.
    """

    boundary: np.ndarray
    embeddings: Features
    cues: BoundaryCues


class EmbeddedBackbone:
    """The embedded network as a :class:`~masktree.backbones.base.Backbone`.

    Args:
        device, dtype: as in :func:`masktree.backbones.load_backbone`; the boundary cues are always computed on the CPU.
        path: other weights for the same network, from ``recipes/embedded_backbone.py``; None uses those of the package.

    Raises:
        WeightsError: the weight file is missing, does not fit the network, or is not the one of this version.
    """

    name = "embedded"
    stride = 2 * _EMBEDDING_STRIDE
    dim = EMBEDDING_DIM

    def __init__(
        self, *, device: torch.device | str = "cpu", dtype: str = "float32", path: str | Path | None = None
    ) -> None:
        import torch

        self._device = torch.device(device)
        self.device = self._device.type
        self._dtype = resolve_dtype(dtype, self._device)
        if path is None:
            self._network = load_embedded_network(WEIGHT_FILE, EMBEDDED_WEIGHTS.sha256)
            self.provenance = EMBEDDED_WEIGHTS
        else:
            self._network = load_embedded_network(Path(path), None)
            digest = sha256_of(Path(path))
            is_copy = digest == EMBEDDED_WEIGHTS.sha256
            self.provenance = EMBEDDED_WEIGHTS if is_copy else EMBEDDED_WEIGHTS.of_local_file(str(path), digest)
        self._network.to(self._device, self._dtype).to(memory_format=torch.channels_last)

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """Nearest multiples of the stride."""
        return nearest_multiple(H, W, self.stride)

    def __call__(self, images: Images) -> Grids:
        """Feature grids of (b, H, W, 3) uint8 images: (b, h, w, 64) float32; see :class:`.base.Backbone`.

        A cell is the mean of its 2 x 2 embeddings. Images are processed one by one: the network is small.
        """
        check_images(images)
        H, W = self.input_size(*images.shape[1:3])
        grids = np.empty((len(images), H // self.stride, W // self.stride, self.dim), np.float32)
        for grid, image in zip(grids, images, strict=True):
            embeddings = self.predict_boundaries(resize_image(image, (H, W))).embeddings
            grid[:] = embeddings.reshape(len(grid), 2, -1, 2, self.dim).mean((1, 3))
        return grids

    @checked
    def predict_boundaries(
        self, image: RGB, vocabulary: Vocabulary | None = None, scene_mean: np.ndarray | None = None
    ) -> BoundaryPrediction:
        """Boundary map and embeddings of one image of any size; about 0.3 s for 480 x 320 on one core.

        Memory: about 1 kB a pixel.

        Args:
            image: an image, or a window of one.
            vocabulary, scene_mean: of the larger image of which this is a window, see ``scene_mean``; None takes those
                of the image itself.
        """
        import torch
        from torch.nn import functional

        H, W, _ = image.shape
        cues = boundary_cues(image, vocabulary)
        mean = None if scene_mean is None else torch.from_numpy(scene_mean[None]).to(self._device, self._dtype)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            logits, embeddings = self._network(*self._inputs(image, cues), mean)
            probability = logits.float().sigmoid().mean(1, keepdim=True)
            boundary = functional.interpolate(probability, scale_factor=2.0, mode="bilinear", align_corners=False)[0, 0]
            units = functional.normalize(embeddings.float(), dim=1)[0].permute(1, 2, 0)
            units = units[: -(-H // _EMBEDDING_STRIDE), : -(-W // _EMBEDDING_STRIDE)].cpu()
            return BoundaryPrediction(boundary[:H, :W].cpu().numpy(), np.ascontiguousarray(units.numpy()), cues)

    def scene_mean(self, samples: Sequence[RGB], vocabulary: Vocabulary) -> np.ndarray:
        """Mean of the network's coarsest map over windows of one image, (224,) float32: what the network takes from the
        whole image, so that its windows are processed alike."""
        import torch

        means = []
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for sample in samples:
                _, maps = self._network.local_maps(*self._inputs(sample, boundary_cues(sample, vocabulary)))
                means.append(maps[-1].float().mean((2, 3))[0].cpu().numpy())
        return np.stack(means).mean(axis=0)

    def _inputs(self, image: RGB, cues: BoundaryCues) -> tuple[torch.Tensor, torch.Tensor]:
        H, W, _ = image.shape
        return self._padded(image.transpose(2, 0, 1), H, W, 1) / 255, self._padded(cues.maps, H, W, 2)

    def _padded(self, planes: np.ndarray, H: int, W: int, stride: int) -> torch.Tensor:
        """(1, k, h, w) tensor of (k, ceil(H/stride), ceil(W/stride)) planes of an H x W image, mirrored at the bottom
        and the right so that the image's sides become multiples of ``SIZE_DIVISOR``."""
        import torch

        from masktree.backbones.embedded.network import SIZE_DIVISOR

        h, w = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR // stride for side in (H, W))
        margins = [(0, 0), (0, h - planes.shape[1]), (0, w - planes.shape[2])]
        padded = torch.from_numpy(np.pad(planes, margins, mode="symmetric")[None]).to(self._device, self._dtype)
        return padded.contiguous(memory_format=torch.channels_last)


def load_embedded_network(path: Path, sha256: str | None) -> EmbeddedNetwork:
    """The network with fused batch norm, in evaluation mode, from a safetensors file.

    Raises:
        WeightsError: no such file, a hash other than ``sha256`` (None accepts any), or tensors that do not fit.
    """
    from masktree.backbones.embedded.network import EmbeddedNetwork, fuse_batch_norm
    from masktree.backbones.state_dict import read_state_dict

    if not path.is_file():
        remedy = "install masktree again" if sha256 else "give a file that recipes/embedded_backbone.py has exported"
        raise WeightsError(f"expected weights of the embedded network at {path}; got no file; {remedy}")
    if sha256 is not None and (digest := sha256_of(path)) != sha256:
        raise WeightsError(f"expected embedded weights with sha256 {sha256}; got {digest}; install masktree again")
    network = EmbeddedNetwork().eval()
    fuse_batch_norm(network)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in read_state_dict(path).items()})
    except RuntimeError as error:
        raise WeightsError(f"{path}: expected the tensors of the embedded network; got others ({error})") from error
    return network.requires_grad_(False)
