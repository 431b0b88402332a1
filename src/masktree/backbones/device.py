"""Devices by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masktree.arguments import check_type
from masktree.errors import InputError, WeightsError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> torch.device:
    """``auto`` (cuda, else mps, else cpu) or the named device, checked to exist.

    Raises:
        InputError: unknown kind of device.
        WeightsError: this machine has no such device.
    """
    check_type(device, str, "device")
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise InputError(f"expected device 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'; got {device!r}; give one of these")
    count = {"cpu": 1, "mps": int(mps), "cuda": torch.cuda.device_count() if cuda else 0}[kind]
    if int(index or 0) >= count:
        raise WeightsError(
            f"expected a device of this machine; got {device!r} where torch finds {count} of kind {kind}; "
            "use 'cpu' or 'auto', or install a torch build for that device"
        )
    return torch.device(device)
