"""The arrays that travel between modules, named once.

Images are height x width x channel **RGB** uint8; feature grids are float32 with the feature axis last; label
maps are int32 and start at 0 without gaps; boxes are XYWH in pixels. The aliases below are jaxtyping
annotations: documentation in normal use, checked at every call of a ``@checked`` function when the environment
variable ``MASKTREE_CHECK_TYPES=1`` is set (the test run sets it).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8, jaxtyped

RGB = UInt8[np.ndarray, "H W 3"]
Features = Float32[np.ndarray, "h w d"]
Labels = Int32[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
Masks = Bool[np.ndarray, "n H W"]
Probabilities = Float32[np.ndarray, "k H W"]

_F = TypeVar("_F", bound=Callable[..., object])


def checked(function: _F) -> _F:
    """Check argument and return arrays against their annotations; free of cost outside the test run."""
    if os.environ.get("MASKTREE_CHECK_TYPES") != "1":
        return function
    from beartype import BeartypeConf, beartype

    # is_pep484_tower: an int is a fine float, as everywhere in Python
    return jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))(function)
