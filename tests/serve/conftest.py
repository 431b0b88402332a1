from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.running import Running, planted_site, running


@pytest.fixture
def server(tmp_path) -> Iterator[Running]:
    """A server of planted images."""
    with running(planted_site(tmp_path)) as started:
        yield started
