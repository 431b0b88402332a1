"""Which channels of an image are shown, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from masktree.errors import ImageError
from masktree.io.image_description import ImageDescription
from masktree.io.value_range import ValueRange, to_bytes
from masktree.types import RGB

_COLOURS = ("red", "green", "blue")
_MAX_NAMED = 6  # channels that a message names


@dataclass(frozen=True)
class ChannelChoice:
    """The channels of a picture.

    Attributes:
        channels: one (grey), two (green and magenta) or three (red, green and blue).
        alpha: channel of the opacity, over which the picture is composited with white; None: there is none, or the
            channels were chosen, and the picture is opaque.
        is_colour: whether the channels are the colours of one photograph, which share a range of values.
    """

    channels: tuple[int, ...]
    alpha: int | None = None
    is_colour: bool = False


def choose_channels(description: ImageDescription, wanted: Sequence[int | str] | None = None) -> ChannelChoice:
    """The wanted channels, else: the colours of a photograph; channels that the file calls red, green and blue; the
    only channel; both of two; the first three of more.

    Two channels, as fluorescence microscopy has them, become green and magenta: both are seen, and where they overlap
    the picture is white.

    Raises:
        ImageError: the image has no such channel.
    """
    if wanted is not None:
        channels = tuple(_find_channel(description, channel) for channel in wanted)
        colours = description.is_coloured and all(channel < 3 for channel in channels)
        return ChannelChoice(channels, is_colour=colours and len(channels) == 3)
    if description.is_coloured:
        return ChannelChoice((0, 1, 2), description.alpha, is_colour=True)
    others = [channel for channel in range(description.num_channels) if channel != description.alpha]
    names = [(description.channel_name(channel) or "").lower() for channel in others]
    if all(names.count(colour) == 1 for colour in _COLOURS):
        return ChannelChoice(
            tuple(others[names.index(colour)] for colour in _COLOURS), description.alpha, is_colour=True
        )
    return ChannelChoice(tuple(others[:3]), description.alpha)


def unseen_channels(description: ImageDescription, choice: ChannelChoice) -> str | None:
    """A sentence on the channels that the picture does not show, or on colours that the image does not have; None: it
    shows all as they are."""
    shown = {*choice.channels, choice.alpha}
    unseen = [channel for channel in range(description.num_channels) if channel not in shown]
    if not unseen:
        if len(choice.channels) == 2:
            return f"channels {_enumerate(description, choice.channels)} shown in green and magenta; --channels chooses"
        return None
    return (
        f"{_enumerate(description, choice.channels)} of {description.num_channels} channels shown, "
        f"{_enumerate(description, unseen)} not looked at; --channels chooses"
    )


def composite(values: np.ndarray, ranges: Sequence[ValueRange], valid: np.ndarray | None = None) -> RGB:
    """(H, W, 3) RGB of an (H, W, C) block of chosen channels, C of 1 to 3, see ``ChannelChoice.channels``.

    Args:
        values: the block.
        ranges: of each channel, from ``masktree.io.value_range.find_value_ranges``: those of the whole image, so that
            all its blocks look alike.
        valid: (H, W), pixels with data; the others become black.
    """
    scaled = to_bytes(values, ranges, valid)
    if scaled.shape[2] == 1:
        return np.repeat(scaled, 3, axis=2)
    if scaled.shape[2] == 2:  # magenta and green are told apart by most colour-blind people
        return np.ascontiguousarray(scaled[..., [1, 0, 1]])
    return np.ascontiguousarray(scaled)


def _find_channel(description: ImageDescription, channel: int | str) -> int:
    count = description.num_channels
    if isinstance(channel, str) and not channel.isdecimal():
        names = [description.channel_name(index).lower() for index in range(count)]
        if names.count(channel.lower()) == 1:
            return names.index(channel.lower())
    elif int(channel) < count:
        return int(channel)
    known = f"0 to {count - 1}" if count > 1 else "0"
    raise ImageError(
        f"expected channels of the image, {known} ({_enumerate(description, range(count))}); got "
        f"{str(channel)[:60]!r}; choose others"
    )


def _enumerate(description: ImageDescription, channels: Sequence[int]) -> str:
    names = []
    for channel in channels[:_MAX_NAMED]:
        name = description.channel_name(channel)
        names.append(name if name == str(channel) else f"{channel} {name}")
    return ", ".join(names) + (", ..." if len(channels) > _MAX_NAMED else "")
