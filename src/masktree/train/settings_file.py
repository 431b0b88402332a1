"""Settings of a run from a TOML file, which override those of its preset.

Tables ``model``, ``optimisation`` and ``augmentation`` have the names of ``masktree.models.config``,
``masktree.train.optimiser.Optimisation`` and ``masktree.train.augmentation.Augmentation``::

    [optimisation]
    weight_decay = 0.01
    milestones = [0.5, 0.9]

    [augmentation]
    scale = [0.5, 2.0]
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from masktree.errors import FormatError, InputError

if TYPE_CHECKING:
    from masktree.train.presets import Preset

TABLES = ("model", "optimisation", "augmentation")
_FIXED = ("kind", "cues")  # decided by the preset and by the model
Settings = Mapping[str, Mapping[str, Any]]
Part = TypeVar("Part")


def read_settings(path: Path) -> Settings:
    """The tables of a file.

    Raises:
        InputError: no such file, or a table of another name.
        FormatError: the file is not TOML.
    """
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"expected a TOML file of settings; got {path}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: expected TOML; got something else ({error}); correct the file") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise InputError(f"{path}: expected the tables {', '.join(TABLES)}; got {name}; write [model] above it")
    return tables


def with_settings(preset: Preset, settings: Settings) -> Preset:
    """The preset with the values of ``settings``.

    Raises:
        InputError: an unknown name, or a value of the wrong type or out of range.
    """
    parts = {name: _replace_values(getattr(preset, name), name, settings.get(name, {})) for name in TABLES}
    return replace(preset, **parts)


def format_settings(preset: Preset) -> str:
    """All values of a preset as TOML, which ``read_settings`` reads; those that are not set are left out."""
    tables = []
    for table in TABLES:
        part = getattr(preset, table)
        values = {item.name: getattr(part, item.name) for item in fields(part) if item.name not in _FIXED}
        lines = [f"{name} = {_format(value)}" for name, value in values.items() if value is not None]
        tables.append("\n".join([f"[{table}]", *lines]))
    return "\n\n".join(tables)


def _format(value: Any) -> str:
    """JSON's forms of strings, numbers, truth values and lists are TOML's too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _replace_values(part: Any, table: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(type(part))
    known = [field.name for field in fields(part) if field.name not in _FIXED]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise InputError(f"expected a setting of [{table}] for this preset; got {name}; {advice}")
    return replace(part, **{name: _convert(f"{table}.{name}", value, hints[name]) for name, value in values.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    """The value as its field has it: TOML has lists for tuples, and whole numbers for others."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"expected {name} to be one of {', '.join(get_args(hint))}; got {value!r}")
        return value
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if isinstance(value, list) and (kinds[-1] is Ellipsis or len(kinds) == len(value)):
            kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
            return tuple(_convert(name, item, kind) for item, kind in zip(value, kinds, strict=True))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    wanted = "a list of numbers" if get_origin(hint) is tuple else f"a value of type {hint.__name__}"
    raise InputError(f"expected {name} as {wanted}; got {value!r}; see masktree.train.settings_file")
