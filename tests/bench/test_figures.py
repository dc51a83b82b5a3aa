import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from cortexd.rwkv.checkpoint import Checkpoint
from cortexd.rwkv.prepare import EMBEDDING, prepare
from tests.bench.beside import gaps
from tests.bench.completions import rate
from tests.bench.daemon import DaemonEnded, until_ready
from tests.bench.figures import Figures, percentile, spread
from tests.bench.floor import ACTIVE, floor_rate, step_bytes
from tests.bench.loading import forget, held, read_through
from tests.bench.shapes import Shape


@dataclass
class Stream:
    first: float
    last: float
    tokens: int


def test_a_figure_is_the_median_of_its_rounds_and_says_how_far_they_lie_apart() -> None:
    figures = Figures()
    for value in (3.0, 1.0, 2.0):
        figures.note({"a": value})
    assert figures.medians() == {"a": 2.0}
    assert str(spread(figures["a"])) == "2 (1–3)"
    assert str(spread([0.12345])) == "0.1235"


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0.5, 1), (99.1, 100)])
def test_a_percentile_is_one_of_the_values_and_so_many_do_not_exceed_it(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_of_few_values_the_99th_percentile_is_the_largest() -> None:
    assert percentile([5.0, 1.0, 3.0], 99) == 5.0


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("int8", torch.int8), ("int4", torch.uint8)])
def test_the_floor_counts_the_weights_that_the_engine_prepares(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    shape = Shape("small", layers=4, heads=2, vocabulary=2048)
    checkpoint = Checkpoint(str(shape.checkpoint(tmp_path)), lambda done, total: None)
    prepared = {name: tensor.nbytes for name, tensor in prepare(checkpoint, dtype) if name != EMBEDDING}
    value = sum(size for name, size in prepared.items() if ".ffn.value." in name)
    states = 2 * shape.layers * 4 * shape.width * (64 + 2)
    expected = sum(prepared.values()) - value * (1 - ACTIVE) + states
    assert step_bytes(shape, kind, 1) == pytest.approx(expected, rel=0.01)  # the first layer has no value residual


def test_more_streams_read_the_weights_once_but_more_of_the_sparse_ones_and_each_its_state() -> None:
    shape = Shape("small", layers=1, heads=1, vocabulary=0)
    value = 2 * 4 * 64 * 64
    state = 2 * 4 * 64 * 66
    assert step_bytes(shape, "bf16", 2) - step_bytes(shape, "bf16", 1) == value * 0.25 + state
    assert floor_rate(shape, "bf16", 2, 1e9) == 2e9 / step_bytes(shape, "bf16", 2)


def test_the_rate_of_streams_is_that_of_the_time_in_which_all_run() -> None:
    assert rate([Stream(first=0.0, last=10.0, tokens=101)]) == 10
    late = Stream(first=4.0, last=10.0, tokens=61)
    assert rate([Stream(first=0.0, last=10.0, tokens=101), late]) == 20
    assert rate([Stream(first=0.0, last=3.0, tokens=31), late]) == 10


def test_a_gap_belongs_to_the_time_in_which_it_ends() -> None:
    assert gaps([0.0, 1.0, 3.0, 6.0, 10.0], begin=1.0, end=6.0) == [2.0, 3.0]


def test_a_file_that_was_read_is_in_memory_and_one_that_was_forgotten_is_not(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(8 * 2**20))
    stayed = forget([path])
    if stayed > 0.5:
        pytest.skip("this file system keeps its files in memory")
    assert stayed < 0.05
    assert read_through([path]) > 0
    assert held(path) > 0.95


async def test_a_daemon_that_ends_at_its_start_is_not_waited_for() -> None:
    process = await asyncio.create_subprocess_exec("false")
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client, asyncio.timeout(60):
        with pytest.raises(DaemonEnded, match="status 1"):
            await until_ready(client, process)
