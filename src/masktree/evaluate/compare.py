"""Is one method better than another on the same images? Paired differences with bootstrap intervals.

Both results are of the same images, so a resample draws images, with replacement, and evaluates both on the same draw:
what makes an image hard for both cancels out. The interval holds the middle 95 % of the differences (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3). It says how far the difference depends on
which images happened to be in the set, not how far on the seed of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.evaluate import recall
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.evaluate.metrics import format_value, metric_direction
from masktree.evaluate.protocols import PROTOCOLS
from masktree.evaluate.result import EvaluationResult
from masktree.io.files import write_json

# (our choice: the ends of a 95 % interval then move by a few per cent of its length from seed to seed)
NUM_RESAMPLES = 1000
INTERVAL_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both results; ``difference`` is second minus first, ``low`` and ``high`` its 95 % interval.

    None where the metric is undefined, in the results or in every resample.
    """

    metric: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """All metrics of two results of one protocol on the same images."""

    protocol: str
    dataset: str
    first: str
    second: str
    images: int
    resamples: int
    seed: int
    differences: tuple[MetricDifference, ...]

    def table(self) -> str:
        """For a terminal: both values, difference, interval; a star where the interval excludes 0."""
        width = max(len(d.metric) for d in self.differences)
        lines = [
            f"{self.protocol}, {self.images} images of {self.dataset}; {self.resamples} resamples, seed {self.seed}",
            f"first:  {self.first}",
            f"second: {self.second}",
            "",
            f"{'':{width}}     first    second  difference  95 % interval",
        ]
        for d in self.differences:
            interval = "-" if d.low is None or d.high is None else f"{d.low:+.4f} .. {d.high:+.4f}"
            change = "-" if d.difference is None else f"{d.difference:+.4f}"
            star = f"  * {self._verdict(d)}".rstrip() if d.significant else ""
            values = f"{format_value(d.first):>8}  {format_value(d.second):>8}"
            lines.append(f"{d.metric:{width}}  {values}  {change:>10}  {interval}{star}")
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(Path(path), {"format": "masktree-comparison", "version": 1, **asdict(self)}, indent=1)

    def _verdict(self, d: MetricDifference) -> str:
        direction = metric_direction(d.metric) * (d.difference or 0.0)
        return "" if direction == 0 else "second is better" if direction > 0 else "first is better"


def compare(
    first: EvaluationResult, second: EvaluationResult, *, resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two results of one protocol on the same images.

    Raises:
        InputError: the results are of different protocols, ground truths, settings or images.
        FormatError: stats from which no metrics can be computed.
    """
    if resamples < 1:
        raise InputError(f"expected at least one resample; got {resamples}")
    _check_comparable(first, second)
    index = {name: i for i, name in enumerate(second.names)}
    draws = np.random.default_rng(seed)
    n = len(first.names)
    try:
        pair = (
            resampler(first.protocol, first.stats),
            resampler(first.protocol, [second.stats[index[name]] for name in first.names]),
        )
        whole = [summary(np.ones(n, np.int64)) for summary in pair]
        sampled: dict[str, list[float]] = {name: [] for name in whole[0]}
        for _ in range(resamples):
            weights = np.bincount(draws.integers(n, size=n), minlength=n)
            a, b = (summary(weights) for summary in pair)
            for name, differences in sampled.items():
                change = _subtract(b[name], a[name])
                if change is not None:
                    differences.append(change)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise FormatError(f"expected two results of this version of masktree; got other stats: {error!r}") from error
    return Comparison(
        protocol=first.protocol,
        dataset=first.dataset,
        first=_label(first),
        second=_label(second),
        images=n,
        resamples=resamples,
        seed=seed,
        differences=tuple(_difference(name, whole[0][name], whole[1][name], sampled[name]) for name in whole[0]),
    )


def resampler(protocol: str, stats: Sequence[ImageStats]) -> Callable[[np.ndarray], Metrics]:
    """A function from weights, how often each image counts, (n,) int64, to the metrics; quick when called often."""
    if protocol == "ar":
        return recall.collect(stats).summary
    summarise = PROTOCOLS[protocol].summarise
    arrays = [{key: _as_array(value) for key, value in one.items()} for one in stats]
    return lambda weights: summarise([arrays[i] for i in np.repeat(np.arange(len(arrays)), weights)])


def _as_array(value: Any) -> Any:
    """A list of numbers as an array: a resample need not turn it into one again."""
    if not isinstance(value, list) or not value or isinstance(value[0], list | str | dict):
        return value
    return np.array(value)


def _check_comparable(first: EvaluationResult, second: EvaluationResult) -> None:
    for what in ("protocol", "dataset", "settings"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            raise InputError(f"expected two results of one {what.removesuffix('s')}; got {a} and {b}")
    if first.protocol not in PROTOCOLS:
        raise InputError(f"expected a protocol of {', '.join(PROTOCOLS)}; got {first.protocol!r}")
    hashes = [result.provenance.get("ground_truth_sha256") for result in (first, second)]
    if None not in hashes and hashes[0] != hashes[1]:
        raise InputError(
            "expected two results by one ground truth; got two files with other content; evaluate both by one"
        )
    for one, other, where in ((first, second, "first"), (second, first, "second")):
        unmatched = sorted(set(one.names) - set(other.names))
        if unmatched:
            raise InputError(
                f"expected results of the same images; got {unmatched[0]} in the {where} only "
                f"({len(unmatched)} such images); "
                "evaluate both with --only and the list of images that both have"
            )


def _difference(name: str, first: float | None, second: float | None, sampled: Sequence[float]) -> MetricDifference:
    low, high = (float(p) for p in np.percentile(sampled, INTERVAL_PERCENTILES)) if sampled else (None, None)
    return MetricDifference(name, first, second, _subtract(second, first), low, high)


def _subtract(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _label(result: EvaluationResult) -> str:
    made = result.provenance
    config = made.get("configuration") or {}
    keys = ("model", "method", "backbone", "quality")  # a trained model has none of the other three
    details = ", ".join(str(config[key]) for key in keys if config.get(key) is not None)
    return f"{made.get('predictions')} ({details or made.get('kind')})"
