"""masktree serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def serve(
    source: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="PATH")] = None,
    /,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    images: Path | None = None,
    port: int = 8799,
    host: str = "127.0.0.1",
    browser: bool = True,
    token: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None,
    max_upload: int = 200,
    workers: int = 1,
) -> int:
    """Look at images and their trees in the browser: click, correct, export. Nothing leaves this machine.

    Args:
        source: Folder of images, an image, or the output of masktree segment. Without it the page takes images that
            are dropped on it.
        output: Folder for trees, edits and uploads. Default: PATH if it holds trees, else out/serve.
        images: Folder of the photographs of trees. Default: where they were segmented.
        port: Port; 0 takes any free one.
        host: Address to listen on. Another one than the default lets other machines in.
        browser: Open the page in the browser.
        token: Secret word of the address, of letters and digits. Default: a new one. none lets every program of this
            machine in.
        max_upload: Largest upload in MB.
        workers: Processes that segment.
    """
    from masktree.serve.server import ServeOptions
    from masktree.serve.server import serve as run

    return run(source, output, ServeOptions(host, port, token, browser, max_upload, workers), images=images)
