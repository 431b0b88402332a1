"""One backbone for several threads: what waits while the network runs goes through it together."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from masktree.backbones.base import Backbone, Grids, Images, check_images


@dataclass(eq=False)
class _Request:
    """Images of one call, and what became of them."""

    images: Images
    grids: Grids | None = None
    error: BaseException | None = None


class PooledBackbone:
    """A ``Backbone`` whose calls share forward passes.

    The first thread that finds the network free runs it for all images of its shape that wait, so that the network is
    never idle while there are images. Results are those of ``backbone`` up to rounding, as for any batch.

    Args:
        backbone: is called by one thread at a time.
        batch_size: most images of its calls, unless one call has more by itself.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self.name, self.stride, self.dim = backbone.name, backbone.stride, backbone.dim
        self.device, self.provenance = backbone.device, backbone.provenance
        self._backbone = backbone
        self._batch_size = batch_size
        self._waiting: list[_Request] = []
        self._queue, self._network = threading.Lock(), threading.Lock()

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """As that of the backbone."""
        return self._backbone.input_size(H, W)

    def __call__(self, images: Images) -> Grids:
        """As a call of the backbone; waits for other threads that run it."""
        check_images(images)
        request = _Request(images)
        with self._queue:
            self._waiting.append(request)
        with self._network:
            if request.grids is None and request.error is None:
                self._run(self._take(request))
        if request.error is not None:
            raise request.error
        assert request.grids is not None
        return request.grids

    def _take(self, first: _Request) -> list[_Request]:
        """Remove a request and those of its shape that fit into its pass from the queue, the oldest ones first."""
        taken, count = [first], len(first.images)
        with self._queue:
            for request in self._waiting:
                is_alike = request.images.shape[1:] == first.images.shape[1:]
                if request is not first and is_alike and count + len(request.images) <= self._batch_size:
                    taken.append(request)
                    count += len(request.images)
            self._waiting = [request for request in self._waiting if request not in taken]
        return taken

    def _run(self, requests: list[_Request]) -> None:
        try:
            grids = self._backbone(np.concatenate([request.images for request in requests]))
        except BaseException as error:
            for request in requests:
                request.error = error
            return
        ends = np.cumsum([len(request.images) for request in requests])
        for request, part in zip(requests, np.split(grids, ends[:-1]), strict=True):
            request.grids = part
