"""Boundary benchmark written out: thinning pixel by pixel, matching by trying all, and the curve point by point."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import dist, hypot

import numpy as np

# The eight neighbours from the east against the clock, as (rows, columns).
AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def thin(mask: np.ndarray) -> np.ndarray:
    """Guo and Hall 1989, algorithm A1, with their x1 ... x8."""
    image = np.pad(mask, 1)
    while True:
        before = image.copy()
        for odd in (True, False):
            gone = []
            for y, x in np.argwhere(image):
                x1, x2, x3, x4, x5, x6, x7, x8 = (bool(image[y + dy, x + dx]) for dy, dx in AROUND)
                c = (
                    (not x1 and (x2 or x3))
                    + (not x3 and (x4 or x5))
                    + (not x5 and (x6 or x7))
                    + (not x7 and (x8 or x1))
                )
                n1 = (x1 or x2) + (x3 or x4) + (x5 or x6) + (x7 or x8)
                n2 = (x2 or x3) + (x4 or x5) + (x6 or x7) + (x8 or x1)
                edge = (x2 or x3 or not x8) and x1 if odd else (x6 or x7 or not x4) and x5
                if c == 1 and 2 <= min(n1, n2) <= 3 and not edge:
                    gone.append((y, x))
            for y, x in gone:
                image[y, x] = False
        if (image == before).all():
            return image[1:-1, 1:-1]


def best_matching(first: np.ndarray, second: np.ndarray, reach: float) -> tuple[int, float]:
    """Most pairs, and the least total distance with so many, over all one-to-one matchings."""
    points = [tuple(p) for p in np.argwhere(first)]
    others = [tuple(p) for p in np.argwhere(second)]

    @cache
    def best(i: int, free: frozenset) -> tuple[int, float]:
        if i == len(points):
            return 0, 0.0
        options = [best(i + 1, free)]
        for q in free:
            if dist(points[i], q) <= reach:
                pairs, cost = best(i + 1, free - {q})
                options.append((pairs + 1, cost + dist(points[i], q)))
        return max(options, key=lambda option: (option[0], -option[1]))

    return best(0, frozenset(others))


def ratio(a: float, b: float) -> float:
    return a / b if b else 0.0


def f(r: float, p: float) -> float:
    return ratio(2 * p * r, p + r)


def summary(images: list[dict]) -> dict[str, float]:
    """F ODS, OIS and AP from counts of each image at each threshold."""
    count = len(images[0]["cnt_r"])
    curve = []
    for t in range(count):
        r = ratio(sum(i["cnt_r"][t] for i in images), sum(i["sum_r"] for i in images))
        p = ratio(sum(i["cnt_p"][t] for i in images), sum(i["sum_p"][t] for i in images))
        curve.append((r, p))
    ods = f(*curve[0])
    for (r0, p0), (r1, p1) in pairwise(curve):
        for k in range(100):
            d = k / 99
            ods = max(ods, f(r1 * d + r0 * (1 - d), p1 * d + p0 * (1 - d)))
    totals = [0.0] * 4
    for i in images:
        at = [f(ratio(i["cnt_r"][t], i["sum_r"]), ratio(i["cnt_p"][t], i["sum_p"][t])) for t in range(count)]
        t = at.index(max(at))
        for k, value in enumerate((i["cnt_r"][t], i["sum_r"], i["cnt_p"][t], i["sum_p"][t])):
            totals[k] += value
    ois = f(ratio(totals[0], totals[1]), ratio(totals[2], totals[3]))
    first = {}
    for r, p in curve:
        first.setdefault(r, p)
    known = sorted(first.items())
    area = 0.0
    for k in range(101):
        at_r = k / 100
        for (r0, p0), (r1, p1) in pairwise(known):
            if r0 <= at_r <= r1:
                area += 0.01 * (p0 + (p1 - p0) * (at_r - r0) / (r1 - r0))
                break
    return {"f_ods": ods, "f_ois": ois, "f_ap": area}


def reach(shape: tuple[int, int], tolerance: float) -> float:
    return tolerance * hypot(*shape)
