"""RWKV-7 against the official package, and against itself however its tokens are cut, batched and resumed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cortexd.errors import LoadFailed
from cortexd.rwkv import native
from cortexd.rwkv.batch import PIECE, Piece
from cortexd.rwkv.native import native_problem
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.strategy import parse_strategy
from cortexd_kernels.native.library import Native
from tests.checkpoint_files import tiny_state_dict, write_hf, write_pth, write_safetensors
from tests.kernels.native_library import native_or_skip
from tests.rwkv.oracle import Oracle

TOLERANCE = 1e-4
SIZES = [
    {"layers": 1, "heads": 1, "vocabulary": 257},
    {"layers": 3, "heads": 2, "vocabulary": 301},
    {"layers": 5, "heads": 3, "vocabulary": 97, "ffn_width": 416},
]


def no_report(done: int, total: int) -> None: ...


def tokens(count: int, vocabulary: int) -> list[int]:
    return torch.randint(vocabulary, (count,)).tolist()


TORCH = Native(None, "generic", "the tests want PyTorch")


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> Native:
    return native_or_skip() if request.param == "native" else TORCH


def open_runner(path: Path, kernels: Native, slots: int = 4, strategy: str = "cpu fp32") -> Runner:
    return Runner(str(path), strategy, slots, no_report, native=kernels)


def run(runner: Runner, slot: int, ids: list[int], cut: int) -> Tensor:
    """Logits after the last token, fed in pieces of at most `cut`."""
    for start in range(0, len(ids), cut):
        logits, _ = runner.run([Piece(slot, ids[start : start + cut])])
    return logits[0]


def compare_state(runner: Runner, slot: int, expected: list[Tensor]) -> None:
    pool = runner.pool
    for layer in range(runner.shape.layers):
        for mine, theirs in zip(
            (pool.att_shift, pool.wkv, pool.ffn_shift), expected[3 * layer : 3 * layer + 3], strict=True
        ):
            assert (mine[layer, slot] - theirs).abs().max() <= TOLERANCE * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size['layers']}x{size['heads']}")
@pytest.mark.parametrize("layout", ["pth", "safetensors", "hf", "hf-fused"])
def test_logits_and_states_are_those_of_the_official_package(
    tmp_path: Path, size: dict[str, int], layout: str, kernels: Native
):
    state = tiny_state_dict(torch.seed() % 2**31, **size)
    official = tmp_path / "tiny.pth"
    write_pth(official, state)
    path = official
    if layout == "safetensors":
        path = tmp_path / "tiny.safetensors"
        write_safetensors(path, state)
    elif layout.startswith("hf"):
        path = tmp_path / "hf"
        write_hf(path, state, fused=layout == "hf-fused")
    ids = tokens(77, size["vocabulary"])
    expected, expected_state = Oracle(official).forward(ids)
    runner = open_runner(path, kernels)
    slot = runner.pool.take()
    assert (run(runner, slot, ids, PIECE) - expected).abs().max() <= TOLERANCE
    compare_state(runner, slot, expected_state)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    write_pth(path, tiny_state_dict(torch.seed() % 2**31, vocabulary=300))
    return path


@pytest.mark.parametrize("cut", [1, 2, 31, 32, 33, 64, 300])
def test_tokens_may_be_cut_anywhere(tiny: Path, cut: int, kernels: Native):
    ids = tokens(150, 300)
    expected, expected_state = Oracle(tiny).forward(ids)
    runner = open_runner(tiny, kernels)
    slot = runner.pool.take()
    assert (run(runner, slot, ids, cut) - expected).abs().max() <= TOLERANCE
    compare_state(runner, slot, expected_state)


def test_pieces_of_many_lengths_in_one_step_are_the_same_as_each_alone(tiny: Path, kernels: Native):
    lengths = [1, 1, 50, 1, 3, 128, 2, 1]
    prompts = [tokens(length, 300) for length in lengths]
    runner = open_runner(tiny, kernels, slots=len(lengths))
    slots = [runner.pool.take() for _ in lengths]
    logits, rows = runner.run([Piece(slot, ids) for slot, ids in zip(slots, prompts, strict=True)])
    assert sorted(rows) == list(range(len(lengths)))
    for row, index in enumerate(rows):
        expected, expected_state = Oracle(tiny).forward(prompts[index])
        # Of a prompt this short, heads may have next to no variance, by which their norm divides.
        tolerance = 10 * TOLERANCE if len(prompts[index]) < 4 else TOLERANCE
        assert (logits[row] - expected).abs().max() <= tolerance
        compare_state(runner, slots[index], expected_state)


def test_a_saved_state_resumes_where_it_was_taken(tiny: Path, kernels: Native):
    before, after = tokens(40, 300), tokens(30, 300)
    runner = open_runner(tiny, kernels)
    slot = runner.pool.take()
    run(runner, slot, before, PIECE)
    saved = runner.pool.save(slot)
    expected = run(runner, slot, after, PIECE)
    other = runner.pool.take()
    run(runner, other, tokens(9, 300), PIECE)
    runner.pool.restore(other, saved)
    assert torch.equal(run(runner, other, after, PIECE), expected)


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16"])
def test_a_stream_is_bitwise_the_same_alone_and_beside_fifteen_others(tiny: Path, strategy: str, kernels: Native):
    runner = open_runner(tiny, kernels, 16, strategy)
    prompts = [tokens(5 + 13 * i, 300) for i in range(16)]
    following = [tokens(6, 300) for _ in prompts]

    def generate(chosen: list[int]) -> list[list[Tensor]]:
        slots = {i: runner.pool.take() for i in chosen}
        found: list[list[Tensor]] = [[] for _ in prompts]
        for start in range(0, 256, PIECE):
            pieces = [(i, prompts[i][start : start + PIECE]) for i in chosen if prompts[i][start : start + PIECE]]
            if pieces:
                logits, rows = runner.run([Piece(slots[i], ids) for i, ids in pieces])
                for row, index in enumerate(rows):
                    found[pieces[index][0]].append(logits[row])
        for step in range(6):
            logits, rows = runner.run([Piece(slots[i], [following[i][step]]) for i in chosen])
            for row, index in enumerate(rows):
                found[chosen[index]].append(logits[row])
        for slot in slots.values():
            runner.pool.give_back(slot)
        return found

    together = generate(list(range(16)))
    for i in range(16):
        alone = generate([i])[i]
        assert all(torch.equal(a, b) for a, b in zip(alone, together[i], strict=True))


def test_a_sequence_leaves_the_slots_of_others_alone(tiny: Path, kernels: Native):
    runner = open_runner(tiny, kernels)
    mine, other = runner.pool.take(), runner.pool.take()
    run(runner, other, tokens(20, 300), PIECE)
    before = runner.pool.save(other)
    run(runner, mine, tokens(20, 300), PIECE)
    after = runner.pool.save(other)
    assert torch.equal(before.wkv, after.wkv)
    assert torch.equal(before.att_shift, after.att_shift)
    assert torch.equal(before.ffn_shift, after.ffn_shift)


def test_bf16_weights_are_close_to_fp32(tiny: Path, kernels: Native):
    ids = tokens(60, 300)
    exact = open_runner(tiny, kernels)
    rounded = open_runner(tiny, kernels, 2, "cpu bf16")
    expected = run(exact, exact.pool.take(), ids, PIECE)
    found = run(rounded, rounded.pool.take(), ids, PIECE)
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu fp16", "cpu int8", "cpu int4"])
def test_in_native_kernels_no_bit_depends_on_how_a_prompt_is_cut(tiny: Path, strategy: str):
    ids = tokens(150, 300)
    runner = open_runner(tiny, native_or_skip(), strategy=strategy)
    whole = runner.pool.take()
    expected, state = run(runner, whole, ids, PIECE * 2), runner.pool.save(whole)
    for cut in (1, 7, PIECE):
        slot = runner.pool.take()
        assert torch.equal(run(runner, slot, ids, cut), expected)
        assert torch.equal(runner.pool.save(slot).wkv, state.wkv)
        runner.pool.give_back(slot)


def test_a_step_that_wants_no_logits_gives_none(tiny: Path, kernels: Native):
    runner = open_runner(tiny, kernels)
    logits, rows = runner.run([Piece(runner.pool.take(), [1, 2], wants_logits=False)])
    assert len(logits) == len(rows) == 0


@pytest.mark.parametrize(("strategy", "tolerance"), [("cpu fp16", 0.01), ("cpu int8", 0.05), ("cpu int4", 0.5)])
def test_smaller_weights_are_close_to_fp32(tiny: Path, strategy: str, tolerance: float):
    ids = tokens(60, 300)
    exact, rounded = open_runner(tiny, native_or_skip()), open_runner(tiny, native_or_skip(), strategy=strategy)
    expected, found = (run(runner, runner.pool.take(), ids, PIECE) for runner in (exact, rounded))
    assert 0 < float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("strategy", ["cpu fp16", "cpu int8", "cpu int4"])
def test_what_only_native_kernels_compute_is_refused_without_them(tiny: Path, strategy: str):
    with pytest.raises(LoadFailed, match=f"'{strategy}' needs the native kernels.*install a C"):
        open_runner(tiny, TORCH, strategy=strategy)


@pytest.mark.parametrize(
    ("stored", "native", "expected"),
    [("BF16", True, "cpu bf16"), ("F16", True, "cpu fp16"), ("F32", True, "cpu fp32"), ("F16", False, "cpu fp32")],
)
def test_auto_computes_with_weights_as_they_are_stored_where_that_is_fast(stored: str, native: bool, expected: str):
    assert str(parse_strategy("auto", stored, native=native)) == expected


def test_kernels_that_compute_wrongly_on_this_processor_are_found_out(monkeypatch: pytest.MonkeyPatch):
    native_or_skip()
    assert native_problem() == ""
    monkeypatch.setattr(native, "product", lambda threads, weight, x, scales: torch.zeros(len(x), len(weight)))
    assert "compute wrongly with fp32" in native_problem()
