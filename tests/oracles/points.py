"""Simulated clicks written out pixel by pixel."""

from __future__ import annotations

import numpy as np


def farthest_point(mask: np.ndarray, clicked: frozenset = frozenset()) -> tuple[int, int]:
    """(x, y) with the greatest distance to any pixel outside the mask or outside the image, first row by row."""
    padded = np.pad(mask, 1)
    outside = [(y - 1, x - 1) for y, x in np.argwhere(~padded)]
    best, place = -1, (-1, -1)
    for y, x in np.argwhere(mask):
        distance = min((y - v) ** 2 + (x - u) ** 2 for v, u in outside)
        if (int(x), int(y)) not in clicked and distance > best:
            best, place = distance, (int(x), int(y))
    return place


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions, eight neighbours, by filling."""
    left, out = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    for start in [(int(y), int(x)) for y, x in np.argwhere(mask)]:
        if start not in left:
            continue
        region, stack = np.zeros_like(mask), [start]
        left.discard(start)
        while stack:
            y, x = stack.pop()
            region[y, x] = True
            for v in (y - 1, y, y + 1):
                for u in (x - 1, x, x + 1):
                    if (v, u) in left:
                        left.discard((v, u))
                        stack.append((v, u))
        out.append(region)
    return out


def next_click(mask: np.ndarray, target: np.ndarray, clicked: frozenset) -> tuple[tuple[int, int], int] | None:
    regions = [(r, 1) for r in components(target & ~mask)] + [(r, 0) for r in components(mask & ~target)]
    free = [(r, label) for r, label in regions if any((int(x), int(y)) not in clicked for y, x in np.argwhere(r))]
    if not free:
        return None
    region, label = max(free, key=lambda item: item[0].sum())
    return farthest_point(region, clicked), label


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def clicks_needed(predict, target: np.ndarray, goal: float, most: int, oracle: bool) -> tuple[int, bool]:
    """Number of clicks and whether the IoU was reached; ``predict(points, labels)`` gives masks, scores."""
    points, labels = [farthest_point(target)], [1]
    for number in range(1, most + 1):
        masks, scores = predict(points, labels)
        mask = np.zeros_like(target)
        if len(masks):
            mask = max(masks, key=lambda m: iou(m, target)) if oracle else masks[int(np.argmax(scores))]
        if iou(mask, target) >= goal:
            return number, True
        click = next_click(mask, target, frozenset(points))
        if click is None:
            break
        points.append(click[0])
        labels.append(click[1])
    return most, False
