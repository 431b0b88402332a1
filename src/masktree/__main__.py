"""``python -m masktree``, which is also what ``torchrun -m masktree train ...`` starts on every GPU."""

import sys

from masktree.cli import main

if __name__ == "__main__":
    sys.exit(main())
