"""The record of a run: run.json and failures.json in the folder of its results."""

from __future__ import annotations

import hashlib
import json
import platform
import reprlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from masktree import __version__
from masktree.errors import FormatError, InputError
from masktree.io.files import is_number, parse_json, read_json, write_json
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult

RECORD, FAILURES = "run.json", "failures.json"
_PACKAGES = ("numpy", "scipy", "numba", "pillow", "tifffile", "imagecodecs", "scikit-image", "torch", "timm")
_WRITE_INTERVAL = 10.0  # seconds between updates of the files during a run (our choice)


@dataclass
class RunRecord:
    """Configuration, versions, weights, seconds per image and failures of a run.

    Attributes:
        folder: folder of run.json and failures.json.
        config: everything that determines the content of the results.
        weights: provenance of the weights, with hashes.
        seconds: seconds by output name, over all runs into this folder; None where a run was killed before it had
            recorded them.
        failures: {"path", "error"} of this run.
        notes: what the photographs hold that was not looked at, by kind; left out where there is nothing.
        status: running, complete or interrupted.
        is_resumed: whether the folder holds a run of this configuration already.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Any]
    seconds: dict[str, float | None] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    is_resumed: bool = False
    _written: float = 0.0

    @classmethod
    def open(
        cls,
        folder: Path,
        config: dict[str, Any],
        weights: dict[str, Any],
        *,
        overwrite: bool,
        ignored_keys: frozenset[str] = frozenset(),
    ) -> RunRecord:
        """Start or continue the run in ``folder``. Writes nothing yet: the caller may have more to check.

        A run that has made no result does not bind the next one: who mistyped an option corrects it and goes on.

        Args:
            folder, config, weights: see the attributes.
            overwrite: whether results of another configuration may be replaced.
            ignored_keys: configuration keys that may differ from those of the existing results.

        Raises:
            InputError: the folder holds results of another configuration, other weights or another version, or a
                failures.json of something else.
            FormatError: run.json is damaged or of something else.
        """
        config, weights = json.loads(json.dumps([config, weights]))  # tuples become lists, as in the file
        record = cls(folder, config, weights)
        _refuse_foreign_failures(folder / FAILURES)
        path = folder / RECORD
        if not path.exists():
            return record
        previous = read_run(path)
        if overwrite:
            return record
        old = run_identity(previous["config"], previous["weights"], previous["versions"].get("masktree"))
        new = run_identity(config, weights, package_versions()["masktree"])
        changed = sorted(k for k in old.keys() | new.keys() if k not in ignored_keys and old.get(k) != new.get(k))
        if changed and previous["seconds"]:
            raise InputError(
                f"expected the configuration of the results already in {folder}; got other values for "
                f"{', '.join(f'{k} ({old.get(k)!r} there, {new.get(k)!r} now)' for k in changed)}; "
                "choose another output folder, or --overwrite"
            )
        record.seconds = dict(previous["seconds"])
        record.notes = dict(previous["notes"]) if isinstance(previous.get("notes"), dict) else {}
        record.is_resumed = not changed
        return record

    def add(self, result: JobResult[Photo]) -> None:
        """Record the result of one image; the files are updated at the first one and then every few seconds."""
        is_first = result.error is None and not self.seconds
        if result.error is None:
            self.seconds[result.item.name] = round(result.seconds, 3)
        else:
            self.failures.append({"path": result.item.location, "error": result.error})
        if is_first or time.monotonic() - self._written > _WRITE_INTERVAL:
            try:
                self.write()
            except OSError:  # a full disk must not end the run; the last write, in close, raises
                self._written = time.monotonic()

    def add_finished(self, names: Iterable[str]) -> None:
        """Record results of earlier runs, also those that an earlier run was killed too soon to record."""
        for name in names:
            self.seconds.setdefault(name, None)

    def close(self, status: str) -> None:
        """Write the final state: "complete" or "interrupted"."""
        self.status = status
        self.write()

    @property
    def seconds_per_image(self) -> float:
        """Mean over the results whose time is known; 0 if there is none."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        return round(sum(known) / max(len(known), 1), 3)

    def write(self) -> None:
        self._written = time.monotonic()
        failures = self.folder / FAILURES
        if self.failures:
            write_json(failures, self.failures, indent=1)
        else:
            failures.unlink(missing_ok=True)
        write_json(
            self.folder / RECORD,
            {
                "status": self.status,
                "config": self.config,
                "weights": self.weights,
                "versions": package_versions(),
                "platform": platform.platform(),
                "images": len(self.seconds),
                "failed": len(self.failures),
                "seconds_per_image": self.seconds_per_image,
                "seconds": self.seconds,
            }
            | ({"notes": self.notes} if self.notes else {}),
            indent=1,
        )


def has_results(folder: Path) -> bool:
    """Whether a run has recorded a result in this folder.

    Raises:
        FormatError: run.json is damaged or of something else.
    """
    path = folder / RECORD
    return path.exists() and bool(read_run(path)["seconds"])


def read_run(path: Path) -> dict[str, Any]:
    """Content of a run.json.

    Raises:
        FormatError: damaged, or another file.
    """
    run = read_json(path, {"config": dict, "weights": dict, "versions": dict, "seconds": dict})
    wrong = [name for name, seconds in run["seconds"].items() if seconds is not None and not is_number(seconds, 0)]
    if wrong:
        raise FormatError(
            f"{path}: expected a number of seconds or null; got {reprlib.repr(run['seconds'][wrong[0]])} for "
            f"{wrong[0]}; restore or delete it"
        )
    return run


def _refuse_foreign_failures(path: Path) -> None:
    """Raise InputError if there is a failures.json that no run of masktree wrote."""
    if not path.exists():
        return
    try:
        failures = parse_json(path.read_bytes(), path)
    except FormatError:
        failures = None
    if not isinstance(failures, list) or not all(
        isinstance(f, dict) and f.keys() == {"path", "error"} for f in failures
    ):
        raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")


def package_versions(extra: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and of the ``extra`` packages."""
    versions = {"python": platform.python_version(), "masktree": __version__}
    for package in (*_PACKAGES, *extra):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def run_identity(config: dict[str, Any], weights: dict[str, Any], package: str | None) -> dict[str, Any]:
    """What all results of one run share: configuration, weights and version of masktree (``package``)."""
    return config | {"weights": f"{weights.get('name')}, sha256 {weights.get('sha256')}", "version": package}


def run_fingerprint(config: dict[str, Any], weights: dict[str, Any]) -> str:
    """Short hash of ``run_identity``, written into every result."""
    text = json.dumps(run_identity(config, weights, package_versions()["masktree"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
