"""Granularity, choice of masks and IoU of questions, written out from their definitions."""

from __future__ import annotations

import math


def granularity(areas, parents) -> list[float]:
    """0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min) within each mask's tree."""

    def root(i):
        while parents[i] >= 0:
            i = parents[i]
        return i

    result = []
    for i, area in enumerate(areas):
        sides = [math.sqrt(a) for k, a in enumerate(areas) if root(k) == root(i)]
        spread = max(sides) - min(sides)
        result.append(1.0 if spread == 0 else 0.1 + 0.9 * (math.sqrt(area) - min(sides)) / spread)
    return result


def most_different(areas, most) -> list[int]:
    """The largest, the smallest, then again and again the one whose ratio to the nearest taken is largest."""
    everyone = list(range(len(areas)))
    if len(everyone) <= most:
        return everyone
    taken = [max(everyone, key=lambda i: areas[i]), min(everyone, key=lambda i: areas[i])]
    while len(taken) < most:
        rest = [i for i in everyone if i not in taken]
        taken.append(max(rest, key=lambda i: min(abs(math.log(areas[i] / areas[k])) for k in taken)))
    return sorted(taken)


def iou(a, b) -> float:
    both = sum(1 for x, y in zip(a, b, strict=True) if x and y)
    either = sum(1 for x, y in zip(a, b, strict=True) if x or y)
    return both / either if either else 0.0


def dense_mask_nms(masks, limit) -> list[int]:
    kept: list[int] = []
    for i, mask in enumerate(masks):
        if all(iou(mask, masks[k]) <= limit for k in kept):
            kept.append(i)
    return kept


def fourier(x, y, side, frequencies) -> list[float]:
    """Sines, then cosines, of 2 pi (f_x x + f_y y) / side."""
    turns = [2 * math.pi * (fx * x + fy * y) / side for fx, fy in zip(*frequencies, strict=True)]
    return [math.sin(t) for t in turns] + [math.cos(t) for t in turns]


def prompt_maps(row, column, marks, box, cells, *, side, cell) -> list[float]:
    """Of a cell: nearness at three widths and highest cosine, for clicks inside and outside; how far inside the box."""
    depth, rows, columns = cells.shape

    def unit(v):
        length = math.sqrt(sum(x * x for x in v))
        return [x / length for x in v]

    def vector(r, c):
        r, c = min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)
        return unit([float(cells[d, r, c]) for d in range(depth)])

    def under(x, y):
        x, y = x / cell - 0.5, y / cell - 0.5
        c, r = math.floor(x), math.floor(y)
        total = [0.0] * depth
        for dr, dc in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (y - r if dr else 1 - (y - r)) * (x - c if dc else 1 - (x - c))
            total = [a + weight * b for a, b in zip(total, vector(r + dr, c + dc), strict=True)]
        return unit(total)

    cx, cy = (column + 0.5) * cell, (row + 0.5) * cell
    own, out = vector(row, column), []
    for kind in (1, 0):
        clicks = [place for place, label in marks if label == kind]
        for width in (1 / 32, 1 / 8, 1 / 2):
            near = [math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (width * side) ** 2)) for x, y in clicks]
            out.append(max([0.0, *near]))
        alike = [sum(a * b for a, b in zip(own, under(x, y), strict=True)) for x, y in clicks]
        # a value of 0 stands for what is no click, so that no cosine is below it where something is padded
        out.append(max([0.0, *alike]))

    def step(pixels):
        return 1 / (1 + math.exp(-pixels / (side / 64)))

    if box is None:
        return [*out, 0.0]
    left, top, right, bottom = box
    return [*out, step(cx - left) * step(cy - top) * step(right - cx) * step(bottom - cy)]
