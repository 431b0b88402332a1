"""Mutations of valid inputs, as hypothesis strategies: of bytes, and of the values of a JSON document."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

MAX_MUTATIONS = 3  # of one input: more hide each other
_RAW = "@raw@"  # begins text that stands in the document without quotes
# JSON texts in place of a value: other types, values out of range, and what a JSON text must not hold
HOSTILE_VALUES = (
    *("null", "true", '""', '"0"', "[]", "{}", "[null]", '[{"id": 0}]', "-1", "0", "1", "0.5", "-0.0", "2"),
    *(
        "1e999",
        "-1e999",
        "NaN",
        "-Infinity",
        "1e300",
        "1e16",
        "2147483648",
        "9223372036854775808",
        "-9223372036854775809",
    ),
    "9" * 400,
    "9" * 5001,
    "[" * 500 + "]" * 500,
    '{"a":' * 900 + "1" + "}" * 900,
    "[" * 100_000 + "]" * 100_000,
    json.dumps("a" * 3000),
    json.dumps("\0"),
    json.dumps("../../../outside.json"),
    json.dumps("/outside.json"),
    json.dumps("\ud800"),
    "[1000000000, 1000000000]",
    "[" + "1e308," * 3 + "1e308]",
)


@st.composite
def mutated_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few bytes changed, cut out, inserted or repeated."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, MAX_MUTATIONS))):
        data = draw(st.sampled_from(_BYTE_MUTATIONS))(draw, data)
    return data


def mutated_json(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """One of the documents as JSON, with a few values replaced, dropped or repeated; or as mutated bytes."""
    texts = [json.dumps(document).encode() for document in documents]
    return st.one_of(_mutated_values(documents), _mutated_values(documents), mutated_bytes(texts))


@st.composite
def _mutated_values(draw: st.DrawFn, documents: Sequence[Any]) -> bytes:
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, MAX_MUTATIONS))):
        places = [place for place in _places(document) if place[1] is not None]
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        draw(st.sampled_from(_VALUE_MUTATIONS))(draw, holder, key)
    return _text(document)


def _text(document: Any) -> bytes:
    """The document as JSON, with hostile values as they are."""
    parts = json.dumps(document).split(f'"{_RAW}')
    return "".join([parts[0], *(_unquoted(part) for part in parts[1:])]).encode()


def _unquoted(part: str) -> str:
    number, _, rest = part.partition('"')
    return HOSTILE_VALUES[int(number)] + rest


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Each holder (an object or a list) with a key or an index in it, outermost first."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        holder = pending.pop(0)
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def _replace(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = f"{_RAW}{draw(st.integers(0, len(HOSTILE_VALUES) - 1))}"


def _remove(draw: st.DrawFn, holder: Any, key: Any) -> None:
    del holder[key]


def _double(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """Repeat an entry of a list; an entry of an object under another name."""
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[f"{key}x"] = holder[key]


def _swap(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """Give an entry the value of another one."""
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    holder[key] = copy.deepcopy(holder[draw(st.sampled_from(keys))])


def _flip(draw: st.DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    position = draw(st.integers(0, len(data) - 1))
    return data[:position] + bytes([data[position] ^ draw(st.integers(1, 255))]) + data[position + 1 :]


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return data[:start] + data[end:]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    position = draw(st.integers(0, len(data)))
    return data[:position] + draw(st.binary(min_size=1, max_size=8)) + data[position:]


def _repeat(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]


_BYTE_MUTATIONS: tuple[Callable[[st.DrawFn, bytes], bytes], ...] = (_flip, _cut, _insert, _repeat)
_VALUE_MUTATIONS: tuple[Callable[[st.DrawFn, Any, Any], None], ...] = (
    _replace,
    _replace,
    _replace,
    _remove,
    _double,
    _swap,
)
