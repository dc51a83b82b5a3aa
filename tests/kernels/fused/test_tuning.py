"""The fastest of several tiles is found, as long as it computes the same."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cortexd_kernels import tuning
from cortexd_kernels.choices import CANDIDATES, Choices, Product, Vector, name, vector
from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.operators import Activation, Columns, Packed
from cortexd_kernels.tuning import Asked, Choice, Question, answer, fastest, runs_of
from tests.kernels.fused.judging import error

CPU = torch.device("cpu")
FIRST, SECOND, THIRD = (1,), (2,), (3,)
SMALL = Product(64, 128, torch.float16, torch.float16)


class Clock:
    """Seconds that each choice takes; without one it cannot be computed."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = {(int(name.removeprefix("choice")),): taken for name, taken in seconds.items()}

    def run(self, choice: Choice, number: int) -> Tensor:
        if choice not in self._seconds:
            raise RuntimeError("out of resource: shared memory")
        return torch.full((4, 2), 3.0)

    def measure(self, call: Callable[[int], object]) -> float:
        assert isinstance(call, partial)
        return self._seconds[call.args[0]]


def chosen(clock: Clock, *runs: Callable[[Choice, int], Tensor]) -> Choice:
    return fastest([FIRST, SECOND, THIRD], runs or [clock.run], clock.measure)


def test_the_fastest_is_chosen():
    assert chosen(Clock(choice1=1.0, choice2=0.5, choice3=0.7)) == SECOND


def test_what_is_faster_by_no_more_than_noise_does_not_displace_the_formula():
    assert chosen(Clock(choice1=1.0, choice2=0.98, choice3=2.0)) == FIRST


def test_all_numbers_of_rows_count():
    clock = Clock(choice1=1.0, choice2=0.9, choice3=2.0)
    slow: dict[Choice, float] = {FIRST: 1.0, SECOND: 1.5, THIRD: 0.1}

    def measure(call: Callable[[int], object]) -> float:
        assert isinstance(call, partial)
        return slow[call.args[0]] if call.func is more else clock.measure(call)

    def more(choice: Choice, number: int) -> Tensor:
        return clock.run(choice, number)

    assert fastest([FIRST, SECOND], [clock.run, more], measure) == FIRST
    assert fastest([FIRST, SECOND], [clock.run], measure) == SECOND


def test_what_the_device_has_no_room_for_is_left_out():
    assert chosen(Clock(choice1=1.0, choice3=0.5)) == THIRD


def test_where_the_formula_cannot_be_computed_nothing_is_chosen():
    with pytest.raises(RuntimeError, match="shared memory"):
        chosen(Clock(choice2=1.0))


@pytest.mark.parametrize("wrong", [lambda result: result * 1.1, lambda result: result * torch.nan])
def test_what_computes_something_else_is_none(wrong: Callable[[Tensor], Tensor]):
    clock = Clock(choice1=1.0, choice2=0.1, choice3=0.5)
    assert (
        chosen(clock, lambda choice, n: clock.run(choice, n) if choice != SECOND else wrong(clock.run(choice, n)))
        == THIRD
    )


def test_nor_what_computes_a_row_otherwise_when_there_are_more():
    clock = Clock(choice1=1.0, choice2=0.1, choice3=0.5)
    more = lambda choice, n: clock.run(choice, n) * (1 + 1e-6 * (choice == SECOND))  # noqa: E731
    assert fastest([FIRST, SECOND], [clock.run, partial(more)], lambda call: 1.0) == FIRST
    rows = [clock.run(SECOND, 0), more(SECOND, 0)]
    assert not tuning._alike(rows, rows)


@pytest.mark.parametrize("stored", [torch.float16, torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize(("kind", "count"), [("vector", 0), ("tile", 16), ("split", 8), ("split", 16)])
def test_all_candidates_compute_the_same(kind: str, count: int, stored: torch.dtype):
    question = Question(kind, SMALL._replace(stored=stored), count)
    (first, *others), (runs, copies) = CANDIDATES[kind](question.product, count), runs_of(question, CPU)
    assert copies == 2
    expected = [run(first, 0) for run in runs]
    assert [len(rows) for rows in expected] == ([16] if count == 16 else [1, 4, 8])
    for choice in others:
        assert tuning._alike([run(choice, 0) for run in runs], expected), choice


def test_an_answer_is_a_candidate_that_is_launched_from_then_on(monkeypatch: pytest.MonkeyPatch):
    question = Question("vector", SMALL, 0)
    favourite = Vector(32, 64, 8, 3, 2)
    launched: list[Vector] = []

    def measure(call: Callable[[int], object], copies: int) -> float:
        assert isinstance(call, partial)
        return 0.5 if call.args[-1] == favourite else 1.0

    choice = answer(question, CPU, measure)
    assert choice == favourite != vector(SMALL)
    choices = Choices({question.name: choice})
    monkeypatch.setattr(
        choices, "vector", lambda product: launched.append(Choices.vector(choices, product)) or launched[-1]
    )
    packed, rows = Packed.single(torch.randn(64, 128).half() / 11), torch.randn(1, 2, 128).half()
    (tuned,), (usual,) = (FusedOperators(it).products(rows, packed) for it in (choices, Choices()))
    assert launched == [favourite]
    assert error(tuned, usual.double()) < 1e-3


def test_what_a_step_asks_for_is_put_down_once():
    asked = Asked()
    operators = tuning.operators_of(asked)
    key = Packed.single(torch.randn(96, 64).half(), activation=Activation.RELU_SQUARED)
    value = Columns(torch.randn(96, 64).half())
    for count in (1, 3, 9, 12):
        operators.channel_mix(torch.zeros(count, 64), torch.randn(1, count, 64).half(), key, value)
    assert [question.name for question in asked.questions] == [
        "vector 96 x 64 float16 float16",
        "split 64 x 96 float16 float16 to 8",
        "tile 96 x 64 float16 float16 to 16",
        "split 64 x 96 float16 float16 to 16",
    ]
    assert name("tile", Product(96, 64, torch.float16, torch.float16), 12) in {it.name for it in asked.questions}
