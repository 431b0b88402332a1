"""Errors a user can act on: each message says what was expected, what was found and what to do."""

from __future__ import annotations


class MasktreeError(ValueError):
    """Base of every error that masktree raises on purpose."""


class InputError(MasktreeError):
    """An argument has the wrong shape, range or type."""


class ImageError(MasktreeError):
    """An image file cannot be read as a photograph."""


class WeightsError(MasktreeError):
    """A backbone or its weights cannot be had: unknown name, no network, damaged or foreign file."""


class FormatError(MasktreeError):
    """A file of masktree's own formats is damaged, incomplete or from an unknown version."""


class TrainingError(MasktreeError):
    """A training run cannot go on: losses that are not finite, no memory, no room on the disk."""


class MasktreeWarning(UserWarning):
    """Something a user should know about a result that is right as it stands."""
