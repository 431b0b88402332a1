"""MATLAB files of version 7 or older, read in a process of their own: SciPy's reader crashes on some damaged files."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from masktree.arguments import check_path
from masktree.errors import FormatError

READ_SECONDS = 60.0  # of one file (our choice); those of BSDS500 take 10 milliseconds
MAX_MEMORY = 4 * 2**30  # address space of the reading process in bytes (our choice); declared sizes may be anything


def load_mat(path: str | Path) -> dict[str, Any]:
    """Read the variables of a MATLAB file of version 7 or older.

    Raises:
        FormatError: the file is missing, damaged, or of version 7.3 (HDF5), or reading it takes more than
            ``READ_SECONDS`` or ``MAX_MEMORY``.
    """
    check_path(path)
    with _lock:
        reader = _readers.get(os.getpid())
        if reader is None or not reader.is_running():
            reader = _readers[os.getpid()] = _Reader()
        content, failure = reader.read(os.path.abspath(path))
    if failure is not None:
        raise FormatError(f"{path}: expected a MATLAB file; got {failure}")
    return content


class _Reader:
    """A process that reads one file after the other; it ends with this one. Its start takes half a second.

    It runs this module as a script, because a spawned process of ``multiprocessing`` would run the user's script again
    if that has no ``if __name__ == "__main__"``.
    """

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def read(self, path: str) -> tuple[dict[str, Any], str | None]:
        """The variables, and what is wrong with the file if anything is."""
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            self._process.kill()

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(READ_SECONDS, stop)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(path, self._process.stdin)
            self._process.stdin.flush()
            answer: tuple[dict[str, Any], str | None] = pickle.load(self._process.stdout)
            return answer
        except (OSError, EOFError, pickle.UnpicklingError):
            self.close()
            if expired.is_set():
                return {}, f"one that takes more than {READ_SECONDS:g} seconds to read; save it again"
            return {}, "one on which the reader crashes; save it again"
        except BaseException:  # an interrupt: the next answer would be that of this file
            self.close()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        self._process.kill()
        with suppress(OSError):  # what was not sent any more
            self._process.communicate()


_lock = threading.Lock()
_readers: dict[int, _Reader] = {}  # by the id of the process that started it: a forked child starts its own


def _replace_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


@atexit.register
def _close() -> None:
    reader = _readers.pop(os.getpid(), None)
    if reader is not None:
        reader.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer paths with what ``_Reader.read`` returns until the requests end."""
    while True:
        try:
            path = pickle.load(requests)
        except EOFError:
            return
        answers.write(_answer(path))
        answers.flush()


def _answer(path: str) -> bytes:
    from scipy.io import loadmat

    failure: str
    try:
        return pickle.dumps((loadmat(path, appendmat=False), None), pickle.HIGHEST_PROTOCOL)
    except NotImplementedError:
        failure = "one of version 7.3 (HDF5); save it with -v7"
    except OSError:
        failure = "none that can be opened; check the path"
    except MemoryError:
        failure = f"one that takes more than {MAX_MEMORY // 2**30} GiB to read; save it again"
    except Exception as error:  # SciPy raises ValueError, TypeError, zlib.error ... on damaged files
        failure = f"a damaged file or another format ({' '.join(str(error).split())}); save it again"
    return pickle.dumps(({}, failure))


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    import scipy.io  # noqa: F401  (before the limit, and once)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _limit_memory()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # whatever is printed must not come between the answers
        _serve(sys.stdin.buffer, answers)
