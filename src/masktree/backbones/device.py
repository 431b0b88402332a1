"""Devices by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masktree.arguments import check_type
from masktree.errors import InputError, WeightsError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")  # of the networks' computation


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


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``float32``, ``bfloat16`` or ``float16``, checked to be computed by the device.

    Raises:
        InputError: another name, float16 on a CPU, or bfloat16 on a GPU without it.
    """
    import torch

    if dtype not in DTYPES:
        raise InputError(f"expected dtype {', '.join(map(repr, DTYPES))}; got {dtype!r}; give one of these")
    if dtype == "float16" and device.type == "cpu":
        raise InputError(
            "expected dtype float16 on a GPU; got the CPU; use bfloat16, or float32, which is faster there"
        )
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise InputError(f"expected dtype bfloat16 on a GPU that computes with it; got {name}; use float16 or float32")
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved
