from collections.abc import AsyncGenerator

import pytest

from tests.api.serving import House, serving
from tests.fakes import FakeDaemon


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    """One model, goose, that is loaded already."""
    daemon = FakeDaemon()
    await daemon.make_ready()
    async with serving(daemon) as house:
        yield house
