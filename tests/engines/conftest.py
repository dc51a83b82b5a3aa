from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from cortexd.engines.fork_server import ForkServer
from tests.checkpoint_files import tiny_state_dict, write_pth


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def fork_server() -> AsyncGenerator[ForkServer]:
    """One for all tests here: it has to import torch."""
    server = ForkServer()
    await server.start()
    yield server
    await server.close()


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that speaks bytes, at random."""
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    write_pth(path, tiny_state_dict(1, layers=2, vocabulary=257))
    return path
