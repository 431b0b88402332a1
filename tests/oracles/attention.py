"""Vision transformers written out in float64 numpy, one formula per line, from their published equations.

Dosovitskiy et al., ICLR 2021 (arXiv 2010.11929) for the network; Darcet et al., ICLR 2024 (2309.16588) for
registers; Su et al. (2104.09864) and Siméoni et al. (2508.10104) for the rotary position code. Weights are
dictionaries of arrays by the names of timm's layout.
"""

from __future__ import annotations

import math

import numpy as np

State = dict[str, np.ndarray]


def patches(image: np.ndarray, mean: tuple, std: tuple, size: int) -> np.ndarray:
    """(h*w, 3*size*size) normalised pixels of each patch of an (H, W, 3) uint8 image, channel first."""
    pixels = (image / 255.0 - np.array(mean)) / np.array(std)
    h, w = image.shape[0] // size, image.shape[1] // size
    rows = []
    for i in range(h):
        for j in range(w):
            block = pixels[i * size : (i + 1) * size, j * size : (j + 1) * size]
            rows.append(block.transpose(2, 0, 1).ravel())
    return np.array(rows)


def layer_norm(x: np.ndarray, state: State, name: str, eps: float) -> np.ndarray:
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def affine(x: np.ndarray, state: State, name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def qkv(x: np.ndarray, state: State, block: str, heads: int) -> list[list[np.ndarray]]:
    """Query, key and value by head: [q, k, v][head] is (n, d / heads); W's rows are q, k, v, each by head."""
    weight, d = state[f"{block}.attn.qkv.weight"], x.shape[1]
    bias = state.get(f"{block}.attn.qkv.bias", np.zeros(3 * d))
    size = d // heads
    return [
        [x @ weight[part * d + head * size :][:size].T + bias[part * d + head * size :][:size] for head in range(heads)]
        for part in range(3)
    ]


def rotary(h: int, w: int, size: int, base: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (h*w, size) of DINOv3's code: centred coordinates in [-1, 1], y then x, taken twice."""
    periods = [base ** (2 * j / (size / 2)) for j in range(size // 4)]
    rows = []
    for i in range(h):
        for j in range(w):
            y, x = 2 * (i + 0.5) / h - 1, 2 * (j + 0.5) / w - 1
            angles = [2 * math.pi * y / p for p in periods] + [2 * math.pi * x / p for p in periods]
            rows.append(angles * 2)
    return np.cos(rows), np.sin(rows)


def rotate(x: np.ndarray, code: tuple[np.ndarray, np.ndarray], prefix: int) -> np.ndarray:
    """Turn the tokens after the first ``prefix``: pairs are (i, i + size/2)."""
    first, second = np.split(x[prefix:], 2, axis=1)
    turned = x[prefix:] * code[0] + np.concatenate([-second, first], 1) * code[1]
    return np.concatenate([x[:prefix], turned])


def run_block(
    x: np.ndarray, state: State, block: str, heads: int, eps: float, code: tuple | None, prefix: int
) -> np.ndarray:
    q, k, v = qkv(layer_norm(x, state, f"{block}.norm1", eps), state, block, heads)
    if code is not None:
        q, k = ([rotate(head, code, prefix) for head in part] for part in (q, k))
    mixed = [
        softmax(q[i] @ k[i].T / math.sqrt(q[i].shape[1])) @ v[i]  # one head's scaled dot products
        for i in range(heads)
    ]
    x = x + affine(np.concatenate(mixed, 1), state, f"{block}.attn.proj") * layer_scale(state, block, 1)
    hidden = hidden_layer(layer_norm(x, state, f"{block}.norm2", eps), state, f"{block}.mlp")
    return x + affine(hidden, state, f"{block}.mlp.fc2") * layer_scale(state, block, 2)


def hidden_layer(x: np.ndarray, state: State, name: str) -> np.ndarray:
    """GELU(W1 x), or SwiGLU (Shazeer, 2002.05202): (W1 x) sigmoid(W1 x) times W2 x."""
    if f"{name}.fc1_g.weight" not in state:
        return gelu(affine(x, state, f"{name}.fc1"))
    gate = affine(x, state, f"{name}.fc1_g")
    return gate / (1 + np.exp(-gate)) * affine(x, state, f"{name}.fc1_x")


def layer_scale(state: State, block: str, which: int) -> np.ndarray | float:
    return state.get(f"{block}.ls{which}.gamma", state.get(f"{block}.gamma_{which}", 1.0))


def embed(image: np.ndarray, state: State, size: int, grid: tuple[int, int], mean: tuple, std: tuple) -> np.ndarray:
    """Class token, registers and patches with their position codes; ``grid`` is the stored code's (h, w)."""
    kernel = state["patch_embed.proj.weight"]
    x = patches(image, mean, std, size) @ kernel.reshape(len(kernel), -1).T + state["patch_embed.proj.bias"]
    first = [state["cls_token"][0]] + ([state["reg_token"][0]] if "reg_token" in state else [])
    if "pos_embed" in state:
        code = state["pos_embed"][0]
        own = len(code) - grid[0] * grid[1]  # 1 where the class token has a position code as well
        x = x + resized_code(code[own:], grid, (image.shape[0] // size, image.shape[1] // size))
        first[0] = first[0] + code[:own].sum(0)
    return np.concatenate([*first, x])


def resized_code(code: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Position code (h*w, d) resampled to another grid, separable bicubic with antialiasing."""
    if old == new:
        return code
    grid = code.reshape(*old, -1)
    rows, columns = cubic_matrix(old[0], new[0]), cubic_matrix(old[1], new[1])
    return np.einsum("ai,bj,ijd->abd", rows, columns, grid).reshape(new[0] * new[1], -1)


def cubic_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) weights of Keys' cubic convolution (1981) with a = -1/2, widened by n/m when shrinking."""
    a, scale = -0.5, n / m
    t = np.abs((np.arange(n) + 0.5)[None] - ((np.arange(m) + 0.5) * scale)[:, None]) / max(scale, 1.0)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


def features(
    image: np.ndarray,
    state: State,
    *,
    size: int,
    grid: tuple[int, int],
    heads: int,
    eps: float,
    mean: tuple,
    std: tuple,
    rope: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of the last block as computed, the same keys turned by the rotary code, and final patch tokens.

    ``image`` (H, W, 3) uint8 with H and W multiples of ``size``; each result is (h*w, d).
    """
    h, w = image.shape[0] // size, image.shape[1] // size
    x = embed(image, state, size, grid, mean, std)
    prefix = len(x) - h * w
    code = rotary(h, w, x.shape[1] // heads) if rope else None
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(depth - 1):
        x = run_block(x, state, f"blocks.{i}", heads, eps, code, prefix)
    last = f"blocks.{depth - 1}"
    keys = qkv(layer_norm(x, state, f"{last}.norm1", eps), state, last, heads)[1]
    turned = [rotate(head, code, prefix) for head in keys] if code else keys
    x = layer_norm(run_block(x, state, last, heads, eps, code, prefix), state, "norm", eps)
    return np.concatenate(keys, 1)[prefix:], np.concatenate(turned, 1)[prefix:], x[prefix:]
