import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
import uvloop

from tests.api.serving import House, serving
from tests.fakes import FakeDaemon


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon runs on uvloop. How a connection ends is the loop's affair, hence that is tested on both."""
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return loops if item.path.name == "test_departures.py" else {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    """One model, goose, that is loaded already."""
    daemon = FakeDaemon()
    await daemon.make_ready()
    async with serving(daemon) as house:
        yield house
