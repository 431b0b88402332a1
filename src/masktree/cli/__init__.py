"""Command line: each verb is a typed function, which imports torch and numba only when it runs."""

from __future__ import annotations

import os
import signal
import sys

import tyro

from masktree.cli.discover import discover
from masktree.cli.evaluate import evaluate
from masktree.cli.export import export
from masktree.cli.info import info
from masktree.cli.merge import merge
from masktree.cli.options import print_error
from masktree.cli.segment import segment
from masktree.cli.self_train import self_train
from masktree.cli.train import train
from masktree.errors import MasktreeError, TrainingError


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Exit codes: 0 all done, 1 something failed, 2 wrong arguments or input, 130 interrupted."""
    # SIGTERM ends a run like Ctrl-C: its record is written and no worker survives. This also works where SIGINT is
    # ignored, as in background jobs of a shell.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {
                "segment": segment,
                "discover": discover,
                "merge": merge,
                "train": train,
                "self-train": self_train,
                "evaluate": evaluate,
                "export": export,
                "info": info,
            },
            prog="masktree",
            description="Every entity in an image, its parts and their parts, as one tree of masks. No human labels.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except MasktreeError as error:
        return print_error(str(error), code=1 if isinstance(error, TrainingError) else 2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has closed the pipe; the files are complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return print_error(f"{type(error).__name__}: {error}", code=1)
