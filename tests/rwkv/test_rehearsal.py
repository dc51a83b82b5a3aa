"""What a model will be asked for is computed once ahead, in as few layers as have all shapes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cortexd.rwkv.batch import Piece
from cortexd.rwkv.checkpoint import no_report
from cortexd.rwkv.rehearsal import Rehearsal, steps
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.state import Home
from cortexd_kernels.operators import Mix, Packed, Rows
from cortexd_kernels.plain import PlainOperators
from tests.checkpoint_files import tiny_state_dict, write_pth


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_pth(tmp_path / "tiny.pth", tiny_state_dict(5, layers=4, vocabulary=300))
    return tmp_path / "tiny.pth"


class Watched(PlainOperators):
    def __init__(self) -> None:
        self.norms = 0
        self.drawn = 0
        self.weights_in: set[torch.dtype] = set()

    def shift_mix(self, x: Tensor, rows: Rows, state: Tensor, weights: Mix, dtype: torch.dtype) -> Tensor:
        self.norms += 1
        return super().shift_mix(x, rows, state, weights, dtype)

    def product_add(self, x: Tensor, y: Tensor, packed: Packed) -> None:
        self.weights_in.add(packed.weight.dtype)
        super().product_add(x, y, packed)

    def sample(self, logits: Tensor, draws: Tensor, *tables: Tensor | None) -> Tensor:
        self.drawn += 1
        return torch.zeros(len(logits), dtype=torch.int32)


def test_steps_are_of_all_numbers_of_sequences_and_of_prompts_alone_and_beside_them():
    assert list(steps(sequences=6, prefill=600)) == [
        [1], [1, 1], [1] * 4,
        [2], [16], [32], [64], [128], [128, 1, 1],
        [128] * 2, [128] * 4,
    ]  # fmt: skip
    assert max(sum(lengths) for lengths in steps(1, 65536)) == 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_two_layers_and_the_head_are_computed_in_the_numbers_asked_for(tiny: Path, dtype: torch.dtype):
    operators = Watched()
    logits = Rehearsal(tiny, dtype, Home(), 2, 128).run(operators)
    count = len(list(steps(2, 128)))
    assert operators.norms == count * 2 * 2
    assert operators.weights_in == {dtype}
    assert operators.drawn == 4
    assert logits.shape == (sum(map(len, steps(2, 128))), 300)
    assert bool(logits.isfinite().all())


def test_they_are_those_of_the_model(tmp_path: Path):
    write_pth(tmp_path / "two.pth", tiny_state_dict(5, layers=2, vocabulary=300))
    runner = Runner(str(tmp_path / "two.pth"), "cpu fp32 *1 -> cpu fp32", 1, no_report)
    expected, _ = runner.run([Piece(runner.pool.take(), [1])])
    found = Rehearsal(tmp_path / "two.pth", torch.float32, Home(), 1, 128).run(PlainOperators())
    assert torch.allclose(found[0], expected[0], atol=1e-4)
