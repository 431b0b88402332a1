"""Command line: each verb is a typed function. torch and the numeric rooms are imported inside the verbs only."""

from __future__ import annotations

import os
import signal
import sys

import tyro

from masktree.cli.evaluate import evaluate
from masktree.cli.info import export, info
from masktree.cli.options import refuse
from masktree.cli.segment import discover, merge, segment
from masktree.cli.train import self_train, train


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Exit codes: 0 all done, 1 something failed, 2 wrong arguments or input, 130 interrupted."""
    from masktree.errors import MasktreeError, TrainingError

    # A polite kill ends a run like Ctrl-C does: with its record written and no worker left behind. It does so too
    # where Ctrl-C itself is ignored, as in what a shell has put into the background.
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
        return refuse(str(error), code=1 if isinstance(error, TrainingError) else 2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone; what was written to files is whole
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return refuse(f"{type(error).__name__}: {error}", code=1)
