"""Command line: each verb is a typed function, which imports torch and numba only when it runs."""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence

from masktree import __version__
from masktree.cli.options import print_error
from masktree.cli.verbs import VERBS
from masktree.errors import InputError, MasktreeError, TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 all done, 1 something failed, 2 wrong arguments or input, 130 interrupted."""
    # SIGTERM ends a run like Ctrl-C: its record is written and no worker survives. This also works where SIGINT is
    # ignored, as in background jobs of a shell.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(sys.argv[1:] if arguments is None else arguments)
    except MasktreeError as error:
        return print_error(str(error), code=1 if isinstance(error, TrainingError) else 2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has closed the pipe; the files are complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            return print_error(f"{type(error).__name__}: {error}", code=1)
        remedy = "change its permissions" if isinstance(error, PermissionError) else "check the path"
        return print_error(f"expected to read or write {error.filename}; got: {error.strerror}; {remedy}", code=1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the place in the source."""
    print_error(str(message))


def _run(arguments: Sequence[str]) -> int:
    width = shutil.get_terminal_size().columns
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(width))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"masktree {__version__}")
        return 0
    if arguments[0] not in VERBS:
        similar = difflib.get_close_matches(arguments[0], VERBS, 1)
        advice = f"did you mean {similar[0]}?" if similar else "masktree --help describes them"
        raise InputError(f"expected one of {', '.join(VERBS)} after masktree; got {arguments[0]}; {advice}")
    verb, rest = VERBS[arguments[0]], list(arguments[1:])
    options = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in options or "--help" in options:
        print(verb.help(width))
        return 0
    return verb.parse(rest)()


def _overview(width: int) -> str:
    lines = [
        "usage: masktree VERB ...",
        "",
        "Every entity in an image, its parts and their parts, as one tree of masks. No human labels.",
        "",
    ]
    for verb in VERBS.values():
        first, *others = textwrap.wrap(verb.summary, max(60, min(width, 100)) - 14)
        lines += [f"  {verb.name:12}{first}", *(" " * 14 + line for line in others)]
    return "\n".join(
        [*lines, "", "masktree VERB --help lists the options of a verb; masktree --version tells the version."]
    )
