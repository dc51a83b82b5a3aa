from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from cortexd.engines.fork_server import ForkServer
from cortexd.engines.rwkv import RwkvEngine
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.engines.asking import Host, spec_of, started


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


@pytest.fixture
def host(fork_server: ForkServer) -> Host:
    """Keeps nothing; where a test wants it to, its file says what."""
    return Host(fork_server)


@pytest_asyncio.fixture(loop_scope="package")
async def engine(host: Host, checkpoint: Path) -> AsyncGenerator[RwkvEngine]:
    async with started(spec_of(checkpoint), host) as engine:
        yield engine
    await host.sessions.close()
