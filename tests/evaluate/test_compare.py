"""Paired bootstrap: planted differences, agreement with plain resampling, and results that cannot be compared."""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pytest

from masktree.errors import FormatError, InputError
from masktree.evaluate.compare import compare, resampler
from masktree.evaluate.harness import evaluate as evaluate_in_workers
from masktree.evaluate.protocols import PROTOCOLS
from masktree.evaluate.result import EvaluationResult
from tests.evaluate.planted import results, tree, write_ground_truth, write_json, write_trees

evaluate = partial(evaluate_in_workers, workers=1)  # starting processes takes longer than a few small images
MANY = tuple(f"{i:02d}.jpg" for i in range(12))


@pytest.fixture
def two(tmp_path):
    """Results of perfect trees, and of trees that are off in every second image."""
    ground_truth = write_ground_truth(tmp_path / "ground_truth", MANY)
    good = write_trees(tmp_path / "good", MANY)
    mixed = write_trees(tmp_path / "mixed", MANY)
    for name in MANY[::2]:
        tree(shift=4).save(mixed / f"{name[:-4]}.json")
    return lambda protocol: (evaluate(protocol, mixed, ground_truth), evaluate(protocol, good, ground_truth))


def sum_result(values, names=None, **changes):
    """A result of the protocol points whose metric max_iou is the mean of the values."""
    stats = tuple({"n": 1, "clicks": 20, "max_iou": float(v)} for v in values)
    names = tuple(names or (f"{i}.jpg" for i in range(len(values))))
    fields = {
        "protocol": "points",
        "dataset": "json",
        "settings": {},
        "metrics": {"max_iou": float(np.mean(values))},
        "provenance": {"predictions": "p", "kind": "trees"},
    }
    return EvaluationResult(**(fields | changes), names=names, stats=stats)


def test_interval_of_a_mean_is_that_of_theory(rng):
    base, gain = rng.uniform(size=200), rng.normal(0.1, 0.2, size=200)
    comparison = compare(sum_result(base), sum_result(base + gain), resamples=4000)
    (d,) = comparison.differences
    assert d.difference == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / np.sqrt(200)  # paired: the spread of base plays no part
    assert d.low == pytest.approx(gain.mean() - half, abs=0.1 * half)
    assert d.high == pytest.approx(gain.mean() + half, abs=0.1 * half)
    assert d.significant
    assert "second is better" in comparison.table()


def test_a_result_does_not_differ_from_itself(two):
    first, second = two("ar")
    comparison = compare(first, first)
    assert all(d.difference in (0, None) and d.low in (0, None) and not d.significant for d in comparison.differences)
    reverse = {d.metric: d for d in compare(second, first).differences}
    for d in compare(first, second).differences:
        if d.difference is not None:
            assert d.difference == pytest.approx(-reverse[d.metric].difference)
            assert (d.low, d.high) == (pytest.approx(-reverse[d.metric].high), pytest.approx(-reverse[d.metric].low))


@pytest.mark.parametrize("protocol", ["ar", "hierarchy", "points"])
def test_weights_equal_repeated_images(two, rng, protocol):
    first, second = two(protocol)
    for result in (first, second):
        quick = resampler(protocol, result.stats)
        n = len(result.stats)
        assert quick(np.ones(n, np.int64)) == pytest.approx(result.metrics)
        for _ in range(5):
            draw = rng.integers(n, size=n)
            plain = PROTOCOLS[protocol].summarise([result.stats[i] for i in sorted(draw)])
            assert quick(np.bincount(draw, minlength=n)) == pytest.approx(plain)


def test_a_planted_difference_is_significant(two):
    comparison = compare(*two("ar"))
    differences = {d.metric: d for d in comparison.differences}
    assert differences["ar1000"].difference > 0
    assert differences["ar1000"].significant
    assert differences["ar_l"] == type(differences["ar_l"])("ar_l", None, None, None, None, None)
    assert comparison.images == 12


def test_order_of_images_does_not_matter(rng):
    values, gains = rng.uniform(size=9), rng.uniform(size=9)
    order = rng.permutation(9)
    names = [f"{i}.jpg" for i in range(9)]
    straight = compare(sum_result(values, names), sum_result(gains, names))
    shuffled = compare(sum_result(values, names), sum_result(gains[order], [names[i] for i in order]))
    assert straight.differences == shuffled.differences


def test_lower_is_better_for_clicks():
    def clicks(values):
        result = sum_result(values)
        stats = tuple({"n": 1, "clicks": 20, "noc80": s["max_iou"]} for s in result.stats)
        return EvaluationResult("points", "json", {}, {"noc80": 1.0}, result.names, stats, {"predictions": "p"})

    table = compare(clicks([9, 8, 9, 8]), clicks([3, 3, 2, 2])).table()
    assert "second is better" in table
    assert "first is better" not in table


def test_a_comparison_is_written_as_json(tmp_path, two):
    compare(*two("hierarchy"), resamples=20).write(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["format"] == "masktree-comparison"
    assert {"metric", "first", "second", "difference", "low", "high"} == set(document["differences"][0])


def test_results_that_cannot_be_compared_are_refused(tmp_path):
    a = sum_result([0.1, 0.2, 0.3])
    for other, message in (
        (sum_result([0.1, 0.2]), r"got 2.jpg in the first only \(1 such images\)"),
        (sum_result([0.1] * 3, ["0.jpg", "1.jpg", "9.jpg"]), r"got 2.jpg in the first only"),
        (sum_result([0.1] * 3, protocol="ar"), "of one protocol; got points and ar"),
        (sum_result([0.1] * 3, dataset="coco"), "of one dataset; got json and coco"),
        (sum_result([0.1] * 3, settings={"kind": "boxes"}), "of one setting"),
    ):
        with pytest.raises(InputError, match=message):
            compare(a, other)
    one, two = (sum_result([0.1] * 3, provenance={"ground_truth_sha256": h}) for h in "ab")
    with pytest.raises(InputError, match="by one ground truth"):
        compare(one, two)
    with pytest.raises(InputError, match="at least one resample"):
        compare(a, a, resamples=0)
    odd = EvaluationResult("points", "json", {}, {"max_iou": 0.1}, a.names, ({"n": 1}, {}, {}), {})
    with pytest.raises(FormatError, match="got other stats"):
        compare(odd, odd)


def test_a_thousand_resamples_of_a_hundred_images_take_seconds(tmp_path):
    names = tuple(f"{i}.jpg" for i in range(100))
    ground_truth = write_ground_truth(tmp_path / "ground_truth", names)
    path = write_json(tmp_path / "r.json", results(images=100))
    result = evaluate("ar", path, ground_truth)
    start = time.perf_counter()
    compare(result, result)
    assert time.perf_counter() - start < 30
