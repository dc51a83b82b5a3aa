"""The model as a row of operators, here in their plain form: the same numbers as the official package, however it is fed."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from cortexd.errors import LoadFailed
from cortexd.rwkv import placement
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.checkpoint import no_report
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.weights_cache import WeightsCache
from cortexd_kernels.plain import PlainOperators
from tests.rwkv.fused_model import TOLERANCE, VOCABULARY, Model, compare_state, tokens, write_tiny
from tests.rwkv.oracle import Oracle
from tests.rwkv.recording import recorded, recorded_but_once


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


@pytest.mark.parametrize("cut", [1, 2, 33, 64])
def test_tokens_may_be_cut_anywhere(tiny: Path, cut: int):
    ids = tokens(70)
    expected, expected_state = Oracle(tiny).forward(ids)
    model = Model(tiny)
    slot = model.pool.take()
    assert (model.feed(slot, ids, cut) - expected).abs().max() <= TOLERANCE
    compare_state(model, slot, expected_state)


def test_pieces_of_many_lengths_in_one_step_are_the_same_as_each_alone(tiny: Path):
    prompts = [tokens(length) for length in (1, 50, 1, 7, 66)]
    model = Model(tiny)
    slots = [model.pool.take() for _ in prompts]
    logits = model.run(*(Piece(slot, ids) for slot, ids in zip(slots, prompts, strict=True)))
    for slot, ids, mine in zip(slots, prompts, logits, strict=True):
        expected, expected_state = Oracle(tiny).forward(ids)
        # Of a prompt this short, heads may have next to no variance, by which their norm divides.
        assert (mine - expected).abs().max() <= (10 * TOLERANCE if len(ids) < 4 else TOLERANCE)
        compare_state(model, slot, expected_state)


@pytest.mark.parametrize(
    "strategy",
    ["cuda fp32 *1 -> cuda:1 fp32", "cuda fp32 -> cpu fp32 *1", "cuda fp32 *0+", "cuda fp32 *1+ -> cpu fp32 *1"],
)
def test_a_model_that_is_shared_out_computes_the_same(tiny: Path, strategy: str):
    ids = tokens(20)
    whole, parts = Model(tiny), Model(tiny, strategy=strategy)
    assert torch.equal(parts.feed(parts.pool.take(), ids, 7), whole.feed(whole.pool.take(), ids, 7))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
def test_layers_of_integers_compute_the_same_where_they_are_streamed(tiny: Path, dtype: torch.dtype):
    ids = tokens(9)
    whole, streamed = Model(tiny, dtype), Model(tiny, dtype, strategy="cuda fp16 *0+")
    assert torch.equal(streamed.feed(streamed.pool.take(), ids, 7), whole.feed(whole.pool.take(), ids, 7))


def test_logits_are_those_of_the_pieces_that_want_them(tiny: Path):
    model = Model(tiny)
    first, second = model.pool.take(), model.pool.take()
    ids, other = tokens(9), tokens(5)
    assert model.run(Piece(first, ids, wants_logits=False)).shape == (0, VOCABULARY)
    found = model.run(Piece(first, ids, wants_logits=False), Piece(second, other))
    expected, _ = Oracle(tiny).forward(other)
    assert (found[0] - expected).abs().max() <= TOLERANCE


def test_a_saved_state_resumes_where_it_was_taken(tiny: Path):
    before, after = tokens(40), tokens(30)
    model = Model(tiny)
    slot = model.pool.take()
    model.feed(slot, before, 40)
    saved = model.pool.save(slot)
    expected = model.feed(slot, after, 30)
    other = model.pool.take()
    model.feed(other, tokens(9), 9)
    model.pool.restore(other, saved)
    assert torch.equal(model.feed(other, after, 30), expected)


def test_recorded_steps_compute_what_others_do(tiny: Path):
    steps = [tokens(3) for _ in range(8)]
    eager, replayed = Model(tiny), Model(tiny, recorder=lambda: recorded)
    for model in (eager, replayed):
        for _ in range(3):
            model.pool.take()
    for ids in steps:
        pieces = [Piece(slot, [token]) for slot, token in enumerate(ids)]
        assert (replayed.run(*pieces) - eager.run(*pieces)).abs().max() <= TOLERANCE


def test_a_recorded_step_is_not_replayed_on_the_states_of_another_pool(tiny: Path):
    ids = tokens(8)
    model = Model(tiny, recorder=lambda: recorded)
    first, slot = model.pool, model.pool.take()
    before = model.feed(slot, ids, 1)
    kept = first.save(slot)
    model.pool = StatePool(model.shape, 8)
    assert torch.equal(model.feed(model.pool.take(), ids, 1), before)
    assert torch.equal(first.save(slot).wkv, kept.wkv)


def test_a_model_whose_steps_were_recorded_goes_as_soon_as_nobody_holds_it(tiny: Path):
    model = Model(tiny, recorder=lambda: recorded_but_once)
    model.feed(model.pool.take(), tokens(8), 1)
    held = weakref.ref(model.fused)
    gc.disable()  # a model that is parked must not keep its memory until the collector comes by
    try:
        del model
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_smaller_numbers_are_near(tiny: Path, dtype: torch.dtype, tolerance: float):
    ids = tokens(40)
    expected, _ = Oracle(tiny).forward(ids)
    model = Model(tiny, dtype)
    found = model.feed(model.pool.take(), ids, 40)
    assert (found - expected).pow(2).mean().sqrt() <= tolerance * expected.pow(2).mean().sqrt()


@pytest.mark.parametrize(
    ("strategy", "tolerance"),
    [
        ("cpu fp32 *1 -> cpu fp32", 1e-4),
        ("cpu fp32 -> cpu bf16 *1", 0.02),
        ("cpu int8 *1 -> cpu int8", 0.1),
        ("cpu int4 *1 -> cpu int4", 0.5),
    ],
)
def test_a_strategy_of_several_parts_is_computed_as_it_says(
    tiny: Path, strategy: str, tolerance: float, tmp_path: Path
):
    ids = tokens(40)
    expected, _ = Oracle(tiny).forward(ids)
    for _ in range(2):  # converted, and then kept
        runner = Runner(str(tiny), strategy, 2, no_report, WeightsCache(tmp_path / "kept"))
        logits, rows = runner.run([Piece(runner.pool.take(), ids)])
        assert rows == [0]
        assert (logits[0] - expected).pow(2).mean().sqrt() <= tolerance * expected.pow(2).mean().sqrt()
        assert runner.strategy.startswith("layers 0")
        assert not runner.notices


def test_what_is_found_out_about_operators_is_kept_beside_the_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[torch.device, torch.dtype, Path | None]] = []

    def operators_for(
        device: torch.device, dtype: torch.dtype, cache: Path | None, alive: object
    ) -> tuple[PlainOperators, str]:
        asked.append((device, dtype, cache))
        return PlainOperators(), "they compute wrongly"

    monkeypatch.setattr(placement, "operators_for", operators_for)
    runner = Runner(str(tiny), "cpu int8 *1 -> cpu fp32", 2, no_report, WeightsCache(tmp_path / "kept"))
    assert asked == [(torch.device("cpu"), dtype, tmp_path / "kept") for dtype in (torch.int8, torch.float32)]
    assert runner.notices == ["they compute wrongly"]


def test_without_a_gpu_a_model_is_computed_on_the_cpu_and_says_so(tiny: Path):
    runner = Runner(str(tiny), "cuda fp16", 2, no_report)
    assert runner.notices == ["tiny.pth is computed on the CPU: PyTorch finds no GPU"]
    assert runner.strategy == "cpu fp32"


def test_a_strategy_that_is_none_is_refused_in_one_sentence(tiny: Path):
    with pytest.raises(LoadFailed, match="'fp64' is no number format"):
        Runner(str(tiny), "cpu fp64 -> cpu fp32", 2, no_report)
