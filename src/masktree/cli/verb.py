"""A verb of the command line: its options as they are documented, its page of help, and its call.

tyro parses the arguments. Its own pages and answers to unknown options are not used: they list the options of other
verbs too, and types instead of defaults.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import math
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from masktree.errors import InputError

_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}
_TEXT_COLUMN = 24  # where the texts of the options begin
_SIMILARITY = 0.6  # least one of a suggestion, as difflib measures it


@dataclass(frozen=True)
class Option:
    """An option, or a positional argument, of a verb.

    Attributes:
        name: without dashes; of a positional argument that of the parameter.
        flags: as typed, such as ("-o", "--output"); empty for a positional argument.
        metavar: stands for the value; empty for a switch.
        text: what it does.
        kind: type of the value, without ``| None``.
        default: where it is None, the text says what happens.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    text: str
    kind: Any
    default: object

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def has_plain_default(self) -> bool:
        """Whether the default is a value that can be typed."""
        return not self.is_required and self.default is not None and self.default != () and bool(self.metavar)

    @property
    def num_values(self) -> float:
        """Number of values; infinite where any number is right."""
        return math.inf if self.metavar.endswith("...") else len(self.metavar.split())

    def take(self, name: str, given: Sequence[str]) -> int:
        """How many of ``given``, which follow the flag ``name`` or are positional, are values of this option.

        Raises:
            InputError: too few, or of the wrong type.
        """
        if len(given) < self.num_values < math.inf:
            raise InputError(f"expected {name} {self.metavar}; got {' '.join([name, *given])}; add what is missing")
        count = min(len(given), self.num_values)
        kinds = get_args(self.kind) if get_origin(self.kind) is tuple else (self.kind,)
        for value, kind in zip(given[: int(count)], kinds, strict=False):
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            if choices and value not in choices:
                similar = difflib.get_close_matches(value, choices, 1)
                advice = f"did you mean {similar[0]}?" if similar else "give one of these"
                raise InputError(f"expected {name} to be one of {', '.join(choices)}; got {value}; {advice}")
            if kind in (int, float):
                try:
                    kind(value)
                except ValueError as error:
                    what = "a whole number" if kind is int else "a number"
                    raise InputError(f"expected {what} after {name}; got {value}") from error
        return int(count)

    def lines(self, width: int) -> Iterator[str]:
        """The entry on the page of help."""
        head = " ".join(filter(None, (", ".join(self.flags), self.metavar.replace(",", ", "))))
        *heads, head = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent=" " * 4)
        default = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        text = " ".join(self.text.split())
        if self.default is True:  # its flag switches it off
            text = f"Do not {text[:1].lower()}{text[1:]}"
        text += f" Default: {default}." if self.has_plain_default else ""
        lines = textwrap.wrap(text, width - _TEXT_COLUMN, break_on_hyphens=False)
        yield from heads
        if len(head) <= _TEXT_COLUMN - 2 and lines:
            yield head.ljust(_TEXT_COLUMN) + lines.pop(0)
        else:
            yield head
        yield from (" " * _TEXT_COLUMN + line for line in lines)


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        name: as typed.
        function: what it calls: a typed function with a Google-style docstring; parameters before ``/`` are positional,
            those that are dataclasses stand for their fields.
        groups: names of the options by heading of the page of help, in its order.
    """

    name: str
    function: Callable[..., int]
    groups: Mapping[str, Sequence[str]]

    @functools.cached_property
    def options(self) -> Mapping[str, Option]:
        """All options by name."""
        return {option.name: option for option in _options_of(self.function, _parameters(self.function))}

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return self._paragraphs[0].partition(". ")[0].removesuffix(".") + "."

    @property
    def _paragraphs(self) -> list[str]:
        """What the docstring says before the arguments."""
        text = (inspect.getdoc(self.function) or "").partition("\n\nArgs:")[0]
        return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

    def help(self, width: int = 80) -> str:
        """The page of help.

        Args:
            width: columns of the terminal; more than 100 are not used.
        """
        width = max(60, min(width, 100))
        positional = [option for option in self.options.values() if not option.flags]
        needed = [option.metavar if option.is_required else f"[{option.metavar}]" for option in positional]
        needed += [f"{o.flags[0]} {o.metavar}" for o in self.options.values() if o.flags and o.is_required]
        lines = [" ".join(["usage: masktree", self.name, *needed, "[options]"]), ""]
        for paragraph in self._paragraphs:
            lines += [*textwrap.wrap(paragraph, width), ""]
        for heading, names in self.groups.items():
            lines.append(f"{heading}:")
            lines += [line for name in names for line in self.options[name].lines(width)]
        return "\n".join(lines)

    def parse(self, arguments: Sequence[str]) -> functools.partial[int]:
        """The call that the arguments describe.

        Raises:
            InputError: an unknown option, a wrong value, a missing argument, or one too many.
        """
        self._check(arguments)

        @functools.wraps(self.function)
        def bind(*positional: Any, **named: Any) -> functools.partial[int]:
            return functools.partial(self.function, *positional, **named)

        call, surplus = tyro.cli(
            bind,
            prog=f"masktree {self.name}",
            args=list(arguments),
            return_unknown_args=True,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
        if surplus:
            taken = " ".join(option.metavar for option in self.options.values() if not option.flags) or "options alone"
            raise InputError(f"expected {taken} after masktree {self.name}; got {' '.join(surplus)} as well; omit it")
        return call

    def _check(self, arguments: Sequence[str]) -> None:
        """Raise InputError for what tyro would answer with a page: unknown options, wrong values, missing ones."""
        by_flag = {flag: option for option in self.options.values() for flag in option.flags}
        missing = [option for option in self.options.values() if option.is_required]
        positional = [option for option in self.options.values() if not option.flags]
        verb, tokens = f"masktree {self.name}", list(arguments)
        while tokens:
            token = tokens.pop(0)
            flag, equals, value = token.partition("=")
            flag = flag.replace("_", "-")
            if _is_value(token) or token == "--":
                rest = tokens if token == "--" else [token, *itertools.takewhile(_is_value, tokens)]
                while rest and positional:
                    option = positional.pop(0)
                    missing = [other for other in missing if other is not option]
                    rest = rest[option.take(option.metavar, rest) :]
                tokens = list(itertools.dropwhile(_is_value, tokens)) if token != "--" else []
            elif flag not in by_flag:
                similar = [name for name in by_flag if name.startswith(flag)]
                similar = similar or difflib.get_close_matches(flag, by_flag, 1, _SIMILARITY)
                advice = f"did you mean {similar[0]}?" if similar else "it has no option like that;"
                raise InputError(f"expected an option of {verb}; got {flag}; {advice} {verb} --help lists all")
            else:
                option = by_flag[flag]
                missing = [other for other in missing if other is not option]
                taken = option.take(flag, [value] if equals else list(itertools.takewhile(_is_value, tokens)))
                tokens = tokens[0 if equals else taken :]
        if missing:
            names = " and ".join(" ".join(filter(None, (*option.flags[:1], option.metavar))) for option in missing)
            raise InputError(f"expected {names} after {verb}; got none; {verb} --help describes all options")


def _is_value(argument: str) -> bool:
    """Whether an argument is not meant as an option, as -1 is not."""
    return re.match(r"--?[A-Za-z]|--$", argument) is None


def _parameters(function: Callable[..., int]) -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, type, default and whether it is positional, of each parameter."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        yield name, hints[name], parameter.default, parameter.kind is parameter.POSITIONAL_ONLY


def _options_of(documented: Any, parameters: Iterator[tuple[str, Any, Any, bool]]) -> Iterator[Option]:
    """The options of a function, or of a dataclass of options."""
    texts = {p.arg_name: p.description or "" for p in docstring_parser.parse(documented.__doc__ or "").params}
    for name, annotation, default, is_positional in parameters:
        kind, settings = _unwrap(annotation)
        if is_dataclass(kind) and isinstance(kind, type):
            hints = get_type_hints(kind, include_extras=True)
            inner = ((f.name, hints[f.name], getattr(default, f.name), False) for f in fields(kind))
            yield from _options_of(kind, inner)
            continue
        is_switch = kind is bool
        flag = "--" + (settings.get("name") or ("no_" if is_switch and default else "") + name).replace("_", "-")
        yield Option(
            flag.removeprefix("--"),
            () if is_positional else (*(settings.get("aliases") or ()), flag),
            "" if is_switch else settings.get("metavar") or _metavar(kind),
            settings.get("help") or texts.get(name, ""),
            kind,
            default,
        )


def _unwrap(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """The type without ``Annotated`` and ``| None``, and what ``tyro.conf.arg`` says of it."""
    settings: dict[str, Any] = {}
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        for extra in extras:
            settings |= {k: v for k in ("name", "metavar", "help", "aliases") if (v := getattr(extra, k, None))}
    if get_origin(annotation) in (Union, types.UnionType):
        [annotation] = [kind for kind in get_args(annotation) if kind is not type(None)]
    return annotation, settings


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        return " ".join("..." if inner is Ellipsis else _metavar(inner) for inner in get_args(kind))
    return _METAVARS[kind]
