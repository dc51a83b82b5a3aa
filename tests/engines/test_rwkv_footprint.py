"""What a load will need, foretold without torch: never less than it takes, and near it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import torch

from cortexd.catalogue.catalogue import Catalogue
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Models, Settings
from cortexd.engines import rwkv_footprint
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.rwkv import RwkvEngine
from cortexd.engines.rwkv_footprint import PROCESS_BYTES, bytes_per_number, footprint
from cortexd.rwkv.batch import PIECE
from cortexd.rwkv.strategy import parse_strategy
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.engines.asking import Host, ask


def spec_of(path: Path, **changes: object) -> ModelSpec:
    """As the catalogue makes it."""
    catalogue = Catalogue(Settings(models=Models(directories=(str(path.parent),), embedded=False)))
    catalogue.refresh()
    return msgspec.structs.replace(catalogue.resolve(path.stem), **changes)


@pytest.fixture(scope="module")
def goose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "goose.pth"
    write_pth(path, tiny_state_dict(1, layers=12, heads=6, vocabulary=257, dtype=torch.bfloat16))
    return path


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("strategy", ["auto", "cpu fp32", "cpu bf16"])
@pytest.mark.parametrize("stored", ["BF16", "F32", "F16"])
def test_the_numbers_computed_with_are_those_that_the_worker_will_choose(
    strategy: str, stored: str, native: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rwkv_footprint, "is_expected", lambda: native)
    assert bytes_per_number(strategy, stored) == parse_strategy(strategy, stored, native=native).dtype.itemsize


def test_each_part_is_in_it(goose: Path):
    spec = spec_of(goose, strategy="cpu fp32")
    whole = footprint(spec, 256)
    assert whole - footprint(msgspec.structs.replace(spec, max_concurrency=31), 256) > spec.state_bytes
    assert footprint(spec, 256, kept=10**6) == whole + 10**6
    assert footprint(spec, 512) > whole
    matrices = spec.parameters - spec.vocabulary * spec.width
    assert whole - footprint(msgspec.structs.replace(spec, strategy="cpu bf16"), 256) == 2 * matrices


def test_of_what_cannot_be_read_nothing_is_foretold():
    assert footprint(ModelSpec(name="gone", source="file", path="/gone.pth"), 256) == 0


@pytest_asyncio.fixture(loop_scope="package", params=["cpu fp32", "cpu bf16", "cpu fp16", "cpu int8", "cpu int4"])
async def busy(
    request: pytest.FixtureRequest, fork_server: ForkServer, goose: Path
) -> AsyncGenerator[tuple[ModelSpec, Host, RwkvEngine]]:
    """An engine every slot of which has been used once."""
    spec = spec_of(goose, strategy=request.param, max_concurrency=4)
    host = Host(fork_server, goose.parent / "cache")
    engine = RwkvEngine(spec, host)
    await engine.start(lambda progress: None)
    streams = [engine.generate(ask("x" * PIECE, 3, seed=seed)) for seed in range(4)]
    for stream in streams:
        async for _ in stream:
            pass
    yield spec, host, engine
    await engine.stop(5.0)


@pytest.mark.asyncio(loop_scope="package")
async def test_a_worker_takes_no_more_than_was_foretold_and_not_much_less(busy: tuple[ModelSpec, Host, RwkvEngine]):
    spec, host, engine = busy
    foretold = RwkvEngine.footprint(spec, host)["cpu"]
    rollup = Path(f"/proc/{engine.pid}/smaps_rollup").read_text().splitlines()
    held = sum(1024 * int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    assert held <= foretold
    assert foretold - held < PROCESS_BYTES
