"""Answers that begin with a state-tuned initial state, held against the official package; and its files, read once each."""

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from cortexd.checkpoints.header import read_header
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.errors import BadRequest
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.initial_states import InitialStates
from cortexd.rwkv.intake import Intake
from cortexd.rwkv.prompt import template_for
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.scheduler import Scheduler
from cortexd.rwkv.sequence import SavedSequence, Sequence
from cortexd.rwkv.tokenizer import ByteTokenizer
from cortexd.wire import Generate, InitialState, Sampling, TextPrompt, TokenPrompt
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.rwkv.oracle import Oracle
from tests.tuned_states import tuned_state, write_state

TOLERANCE = 1e-4
LAYERS, HEADS, SIZE, VOCABULARY = 3, 2, 64, 257
PROMPT = [11, 30, 200, 7, 7, 19]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    write_pth(path, tiny_state_dict(1, layers=LAYERS, heads=HEADS, vocabulary=VOCABULARY))
    return path


@pytest.fixture(scope="module")
def runner(model: Path) -> Runner:
    return Runner(str(model), "cpu fp32", 4, lambda done, total: None)


@pytest.fixture(scope="module")
def shape(model: Path) -> ModelShape:
    return identify(read_header(model))


def tuned(seed: int, layers: int = LAYERS, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return tuned_state(seed, layers=layers, heads=HEADS, size=SIZE, dtype=dtype)


def written(path: Path, tensors: dict[str, Tensor]) -> InitialState:
    return InitialState(str(write_state(path, tensors)), path.name)


def generate(state: InitialState | None, tokens: list[int] = PROMPT) -> Generate:
    sampling = Sampling(temperature=0.0, logit_bias={0: -100.0})
    return Generate(id=1, prompt=TokenPrompt(tokens), sampling=sampling, max_tokens=9, state=state)


def taken_in(runner: Runner, state: InitialState | None) -> tuple[Scheduler, Sequence]:
    scheduler = Scheduler(runner.pool, 256)
    sequence = Intake(runner.shape, ByteTokenizer(), template_for("chat", "tiny"), 4096).sequence(generate(state))
    scheduler.add(sequence)
    return scheduler, sequence


def logits_after_the_prompt(runner: Runner, state: InitialState | None) -> Tensor:
    scheduler, sequence = taken_in(runner, state)
    scheduler.schedule()
    logits, _ = runner.run([sequence.next_piece()])
    scheduler.finish(sequence)
    return logits[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_logits_and_states_are_those_of_the_official_package(
    runner: Runner, model: Path, tmp_path: Path, kind: str, dtype: torch.dtype
):
    tensors = tuned(1, dtype=dtype)
    begun: list[Tensor] = []
    for layer in range(LAYERS):
        begun += [
            torch.zeros(HEADS * SIZE),
            tensors[f"blocks.{layer}.att.time_state"].float(),
            torch.zeros(HEADS * SIZE),
        ]
    expected, states = Oracle(model).forward(list(PROMPT), [part.clone() for part in begun])
    scheduler, sequence = taken_in(runner, written(tmp_path / f"poet.{kind}", tensors))
    scheduler.schedule()
    slot = sequence.slot
    assert slot is not None
    logits, _ = runner.run([sequence.next_piece()])
    assert (logits[0] - expected).abs().max() <= TOLERANCE
    for layer in range(LAYERS):
        for mine, theirs in zip(
            (runner.pool.att_shift, runner.pool.wkv, runner.pool.ffn_shift),
            states[3 * layer : 3 * layer + 3],
            strict=True,
        ):
            assert (mine[layer, slot] - theirs).abs().max() <= TOLERANCE
    scheduler.finish(sequence)


def test_a_transposed_state_is_another_one(runner: Runner, tmp_path: Path):
    tensors = tuned(1)
    turned = {name: tensor.transpose(1, 2).contiguous() for name, tensor in tensors.items()}
    right = logits_after_the_prompt(runner, written(tmp_path / "right.pth", tensors))
    wrong = logits_after_the_prompt(runner, written(tmp_path / "wrong.pth", turned))
    assert (right - wrong).abs().max() > 100 * TOLERANCE


def test_a_state_leaves_no_trace_in_a_slot_that_goes_to_somebody_else(runner: Runner, tmp_path: Path):
    slot = runner.pool.take()
    expected, _ = runner.run([Piece(slot, PROMPT)])
    runner.pool.give_back(slot)
    logits_after_the_prompt(runner, written(tmp_path / "poet.pth", tuned(1)))
    assert torch.equal(logits_after_the_prompt(runner, None), expected[0])


def test_an_answer_does_not_change_the_state_that_it_began_with(runner: Runner, shape: ModelShape, tmp_path: Path):
    states = InitialStates(shape)
    poet = written(tmp_path / "poet.pth", tuned(1))
    before = states.get(poet).wkv.clone()
    slot = runner.pool.take()
    runner.pool.restore(slot, states.get(poet))
    runner.run([Piece(slot, PROMPT)])
    runner.pool.give_back(slot)
    assert torch.equal(states.get(poet).wkv, before)


def test_a_suspended_answer_keeps_what_it_began_with_before_and_after_it_has_a_slot(runner: Runner, tmp_path: Path):
    poet = written(tmp_path / "poet.pth", tuned(1))
    expected = logits_after_the_prompt(runner, poet)
    scheduler, _ = taken_in(runner, poet)
    for _ in range(2):
        ((sequence, state),) = scheduler.take_out()
        assert state is not None
        saved = msgspec.msgpack.decode(msgspec.msgpack.encode(sequence.save(state.pack())), type=SavedSequence)
        restored = Sequence.restored(2, saved, runner.pool.unpack(saved.state), ByteTokenizer())
        assert restored.initial_state == poet
        scheduler.add(restored)
        scheduler.schedule()
    logits, _ = runner.run([restored.next_piece()])
    assert torch.equal(logits[0], expected)
    scheduler.finish(restored)
    scheduler.check_idle()


def test_a_sequence_knows_which_state_it_began_with(shape: ModelShape, tmp_path: Path):
    intake = Intake(shape, ByteTokenizer(), template_for("chat", "tiny"), 4096)
    poet = written(tmp_path / "poet.pth", tuned(1))
    assert intake.sequence(generate(poet)).initial_state == poet
    assert intake.sequence(generate(None)).initial_state is None


def test_a_file_is_read_once_as_long_as_it_is_kept(shape: ModelShape, tmp_path: Path):
    one = LAYERS * HEADS * SIZE * SIZE * 4
    states = InitialStates(shape, keep=2 * one + 1)
    a, b, c = (written(tmp_path / f"{name}.pth", tuned(seed)) for seed, name in enumerate("abc"))
    kept = states.get(a), states.get(b)
    for state in (a, b, c):
        Path(state.path).rename(f"{state.path}.away")
    assert (states.get(b), states.get(a)) == (kept[1], kept[0])
    Path(f"{c.path}.away").rename(c.path)
    states.get(c)  # in the place of b, which was asked for before a
    assert states.get(a) is kept[0]
    with pytest.raises(BadRequest, match="upload it again"):
        states.get(b)
    states.clear()
    with pytest.raises(BadRequest, match="upload it again"):
        states.get(a)


def test_one_state_is_kept_however_large(shape: ModelShape, tmp_path: Path):
    states = InitialStates(shape, keep=1)
    poet = written(tmp_path / "poet.pth", tuned(1))
    assert states.get(poet) is states.get(poet)


def test_a_file_that_vanished_or_does_not_fit_is_refused_in_one_sentence(shape: ModelShape, tmp_path: Path):
    short = written(tmp_path / "short.pth", tuned(1, layers=LAYERS - 1))
    broken = tuned(1)
    broken["blocks.1.att.time_state"][0, 0, 0] = torch.nan
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise")
    states = InitialStates(shape)
    for state, words in [
        (InitialState(str(tmp_path / "gone"), "gone"), "cannot be read .No such file or directory.; upload it again"),
        (short, "has 2 layers of 2 heads of 64 x 64, the model 3 layers of 2 heads of 64 x 64"),
        (written(tmp_path / "broken.pth", broken), "not finite in layer 1"),
        (InitialState(str(noise), "noise"), "damaged"),
    ]:
        with pytest.raises(BadRequest, match=words) as refused:
            states.get(state)
        assert (refused.value.param, refused.value.message[-1]) == ("state", ".")


def test_a_text_goes_on_from_a_state_too(shape: ModelShape, tmp_path: Path):
    intake = Intake(shape, ByteTokenizer(), template_for("chat", "tiny"), 4096)
    poet = written(tmp_path / "poet.pth", tuned(1))
    asked = msgspec.structs.replace(generate(poet), prompt=TextPrompt(""))
    assert intake.sequence(asked).state is intake.states.get(poet)
