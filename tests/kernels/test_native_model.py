"""The native step against the official package, against PyTorch with rounded weights, and against itself however it is batched."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.batch import Batch, Piece
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.v7 import Rwkv7
from cortexd.rwkv.weights import open_weights
from cortexd_kernels.native.layout import FORMATS, native_layout, unpack
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.threads import Threads
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.kernels.native_library import native_or_skip
from tests.rwkv.oracle import Oracle

TOLERANCE = 1e-4
# Activations are rounded to 16 bits; rounding the weights to int8 costs a hundred times that, and int4 more.
INTEGER_TOLERANCE = 3e-3
SIZES = [(1, 1, 257), (3, 3, 301), (2, 5, 97)]  # layers, heads, vocabulary
States = tuple[Tensor, Tensor, Tensor]


class Tiny:
    """A random model: its file, the tensors that the engine prepares of it, and room for states."""

    def __init__(self, directory: Path, size: tuple[int, int, int]) -> None:
        self.layers, self.heads, self.vocabulary = size
        self.path = directory / "tiny.pth"
        seed = torch.seed() % 2**31
        write_pth(self.path, tiny_state_dict(seed, layers=size[0], heads=size[1], vocabulary=size[2]))
        opened = open_weights(self.path, "cpu fp32", None, lambda done, total: None)
        self.tensors, self.shape = opened.tensors, opened.shape

    def native(self, dtype: str = "fp32", threads: int = 1) -> NativeModel:
        layout = dict(native_layout(self.tensors.items(), FORMATS[dtype]))
        return NativeModel(layout, Threads(native_or_skip(), threads))

    def states(self, slots: int = 6) -> States:
        """Zero where a test begins, and not a number where it never takes a slot."""
        shift = torch.zeros(self.layers, slots, 64 * self.heads)
        return shift, shift.clone(), torch.zeros(self.layers, slots, self.heads, 64, 64)

    def tokens(self, count: int) -> list[int]:
        return torch.randint(self.vocabulary, (count,)).tolist()


@pytest.fixture(params=SIZES, ids=str)
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> Tiny:
    return Tiny(tmp_path, request.param)


def rounded(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """In the engine's own layout and in fp32, the numbers that the native layout holds."""
    result: dict[str, Tensor] = {}
    layout = dict(native_layout(tensors.items(), FORMATS[dtype]))
    for name, tensor in layout.items():
        if name.endswith(".scales"):
            continue
        result[name] = unpack(tensor, layout.get(f"{name}.scales"))
    return result


def run_torch(tensors: dict[str, Tensor], shape: ModelShape, tokens: list[int]) -> Tensor:
    pool = StatePool(shape, 1)
    model, slot = Rwkv7(tensors, shape), pool.take()
    with torch.inference_mode():
        return [model.forward(Batch([Piece(slot, [token])]), pool)[0] for token in tokens][-1]


def one_by_one(model: NativeModel, slot: int, tokens: list[int], states: States) -> Tensor:
    return [model.step([(slot, [token])], states)[0] for token in tokens][-1]


def test_logits_and_states_are_those_of_the_official_package(tiny: Tiny):
    ids = tiny.tokens(50)
    expected, expected_state = Oracle(tiny.path).forward(ids)
    model, states = tiny.native(), tiny.states()
    logits = one_by_one(model, 4, ids, states)
    assert (logits - expected).abs().max() <= TOLERANCE
    for layer in range(tiny.layers):
        for state, theirs in zip(
            (states[0], states[2], states[1]), expected_state[3 * layer : 3 * layer + 3], strict=True
        ):
            assert (state[layer, 4] - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("bf16", TOLERANCE), ("fp16", TOLERANCE), ("int8", INTEGER_TOLERANCE), ("int4", INTEGER_TOLERANCE)],
)
def test_rounded_weights_are_computed_with_as_they_are(tiny: Tiny, dtype: str, tolerance: float):
    ids = tiny.tokens(50)
    model, states = tiny.native(dtype), tiny.states()
    logits = one_by_one(model, 1, ids, states)
    expected = run_torch(rounded(tiny.tensors, dtype), tiny.shape, ids)
    assert (logits - expected).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_sequence_is_bitwise_the_same_alone_and_beside_others_by_any_number_of_threads(tiny: Tiny, dtype: str):
    sequences = [tiny.tokens(6) for _ in range(5)]
    alone: list[Tensor] = []
    model = tiny.native(dtype)
    for ids in sequences:
        states = tiny.states()
        alone.append(torch.cat([model.step([(0, [token])], states) for token in ids]))
    for batch in (2, 3, 4, 5):
        for threads in (1, 2, 3):
            model.threads.count = threads
            states, slots = tiny.states(), torch.randperm(6)[:batch].tolist()
            for step in range(6):
                logits = model.step([(slot, [sequences[i][step]]) for i, slot in enumerate(slots)], states)
                for i in range(batch):
                    assert torch.equal(logits[i], alone[i][step])


@pytest.mark.parametrize("dtype", ["fp32", "int8", "int4"])
def test_a_prompt_is_bitwise_the_same_however_it_is_cut_and_batched(tiny: Tiny, dtype: str):
    prompt, other = tiny.tokens(150), tiny.tokens(70)
    model, whole = tiny.native(dtype, threads=2), tiny.states()
    expected = model.step([(2, prompt)], whole)[0]
    for cut in (1, 7, 64, 149):
        states = tiny.states()
        last: list[Tensor] = []
        for start in range(0, 150, cut):
            pieces = [(5, prompt[start : start + cut])]
            if start + 10 <= 70:
                pieces.insert(0, (3, other[start : start + 10]))
            last = list(model.step(pieces, states, wanted=[len(pieces) - 1]))
        assert torch.equal(last[0], expected)
        assert all(torch.equal(state[:, 5], one[:, 2]) for state, one in zip(states, whole, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_states_from_within_a_step_are_those_of_steps_that_end_there(tiny: Tiny, threads: int):
    prompt, other = tiny.tokens(150), tiny.tokens(9)
    model, states = tiny.native(threads=threads), tiny.states()
    wanted = [(1, 1), (1, 67), (0, 4), (1, 150)]
    blank = [tuple(torch.full_like(state[:, 0], torch.nan) for state in states) for _ in wanted]
    marks = [
        (piece, after, (state[0], state[1], state[2])) for (piece, after), state in zip(wanted, blank, strict=True)
    ]
    logits = model.step([(3, other), (2, prompt)], states, marks=marks)
    for piece, after, found in marks:
        expected = tiny.states()
        model.step([(1, (other, prompt)[piece][:after])], expected)
        assert all(torch.equal(one, state[:, 1]) for one, state in zip(found, expected, strict=True))
    assert torch.equal(logits[1], model.step([(0, prompt)], tiny.states())[0])


def test_slots_of_others_are_not_touched(tiny: Tiny):
    states = tiny.states()
    for state in states:
        state.fill_(torch.nan)
        state[:, [1, 4]] = 0
    logits = tiny.native(threads=2).step([(4, tiny.tokens(3)), (1, tiny.tokens(1))], states)
    assert logits.isfinite().all()
    for state in states:
        assert state[:, [0, 2, 3, 5]].isnan().all()
        assert state[:, [1, 4]].isfinite().all()


def test_logits_are_computed_where_they_are_wanted_only(tiny: Tiny):
    model, ids = tiny.native(), tiny.tokens(9)
    both = model.step([(0, ids[:4]), (1, ids[4:])], tiny.states())
    assert torch.equal(model.step([(0, ids[:4]), (1, ids[4:])], tiny.states(), wanted=[1])[0], both[1])
    assert model.step([(0, ids)], tiny.states(), wanted=[]).shape == (0, tiny.vocabulary)


def test_what_does_not_fit_the_model_is_refused(tiny: Tiny):
    model = tiny.native()
    with pytest.raises(AssertionError, match="no such token"):
        model.step([(0, [tiny.vocabulary])], tiny.states())
    with pytest.raises(AssertionError, match="no such slot"):
        model.step([(6, [0])], tiny.states())
    with pytest.raises(AssertionError, match="two pieces of one sequence"):
        model.step([(1, [0]), (1, [0])], tiny.states())
    with pytest.raises(AssertionError, match="no state of this model"):
        model.step([(0, [0])], (*tiny.states()[:2], torch.zeros(1)))
