"""Our own engine over a real worker process."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from cortexd.engines.fork_server import ForkServer, WorkerProcess
from cortexd.engines.protocol import GenerationRequest, LoadProgress
from cortexd.engines.rwkv import RwkvEngine
from cortexd.errors import BadRequest, ContextExceeded, CortexdError, EngineDied, LoadFailed, ModelFault, QueueFull
from cortexd.wire import ChatPrompt, Sampling, StepTarget, TextPrompt, TokenPrompt, Turn
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.engines.asking import NEVER_ENDING, Host, ask, collect, exhaust, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def running(engine: RwkvEngine) -> int:
    """Sequences in the worker: what its loop says of itself."""
    return (await engine.ask_load()).running


async def test_loading_tells_its_progress_and_facts(fork_server: ForkServer, checkpoint: Path):
    told: list[LoadProgress] = []
    engine = RwkvEngine(spec_of(checkpoint), Host(fork_server))
    facts = await engine.start(told.append)
    await engine.probe()
    await engine.stop(5.0)
    assert facts.description == "RWKV-7, 2 x 128, cpu fp32"
    assert facts.loaded_bytes > 1_000_000
    assert [progress.phase for progress in told][:1] == ["starting"]
    assert told[-1] == LoadProgress("reading", 1.0)
    assert [progress.fraction for progress in told] == sorted(progress.fraction for progress in told)


async def test_an_answer_has_text_finish_and_usage(engine: RwkvEngine):
    text, last = await collect(engine, ask("Hello", 20, temperature=0.0))
    assert text
    assert last.finish == "length"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (5, 20)


async def test_the_same_seed_gives_the_same_text_alone_and_beside_fifteen_others(engine: RwkvEngine):
    requests = [ask("x" * (1 + 37 * i), 40, seed=i, temperature=1.2) for i in range(16)]
    together = await asyncio.gather(*(collect(engine, request) for request in requests))
    assert len({text for text, _ in together}) == 16
    for request, (text, _) in zip(requests, together, strict=True):
        assert (await collect(engine, request))[0] == text


async def test_choices_of_one_seed_differ_and_repeat(engine: RwkvEngine):
    texts = [(await collect(engine, ask("Hello", 30, choice=choice)))[0] for choice in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


async def test_more_answers_than_slots_wait_for_their_turn(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint, max_concurrency=2), Host(fork_server))
    await engine.start(lambda progress: None)
    answers = await asyncio.gather(*(collect(engine, ask("Hello", 10, seed=i)) for i in range(9)))
    assert all(last.finish == "length" for _, last in answers)
    await engine.stop(5.0)


async def test_answers_beyond_those_that_may_wait_are_refused_and_may_be_asked_for_again(
    fork_server: ForkServer, checkpoint: Path
):
    host = Host(fork_server)
    host.queue_limit = 2
    engine = RwkvEngine(spec_of(checkpoint, max_concurrency=1), host)
    await engine.start(lambda progress: None)
    taken = [engine.generate(ask("Hello", 30000)) for _ in range(3)]
    with pytest.raises(QueueFull):
        await collect(engine, ask("Hello", 1))
    taken[1].cancel()
    place = engine.generate(ask("Hello", 1))
    taken[0].cancel()
    taken[2].cancel()
    assert (await anext(place)).finish == "length"
    await engine.stop(5.0)


async def test_a_higher_priority_has_its_answer_first(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint, max_concurrency=1), Host(fork_server))
    await engine.start(lambda progress: None)
    endless = engine.generate(ask("Hello", 30000))
    await anext(endless)
    urgent = msgspec.structs.replace(ask("Now!", 5), priority=1)
    assert (await collect(engine, urgent))[1].finish == "length"
    endless.cancel()
    await engine.stop(5.0)


async def test_an_engine_that_runs_is_told_another_target_for_its_steps(engine: RwkvEngine):
    told: list[object] = []
    engine._host.tempo.join(told.append)
    engine._host.tempo.change(0.05)
    engine._host.tempo.change(0.01)
    engine._host.tempo.leave(told.append)
    assert told == [StepTarget(0.01)]
    assert (await collect(engine, ask("Hello", 5)))[1].finish == "length"


async def test_a_cancelled_answer_frees_its_place_within_a_step(engine: RwkvEngine):
    endless = engine.generate(ask("Hello", 30000))
    await anext(endless)
    assert await running(engine) == 1
    endless.cancel()
    endless.cancel()
    assert await running(engine) == 0
    with pytest.raises(StopAsyncIteration):
        await exhaust(endless)


async def test_a_waiting_answer_can_be_cancelled(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint, max_concurrency=1), Host(fork_server))
    await engine.start(lambda progress: None)
    first, second = engine.generate(ask("Hello", 30000)), engine.generate(ask("Hello", 5))
    await anext(first)
    second.cancel()
    first.cancel()
    load = await engine.ask_load()
    assert (load.running, load.waiting) == (0, 0)
    await engine.stop(5.0)


async def test_a_long_prompt_does_not_stop_running_streams(engine: RwkvEngine):
    stream = engine.generate(ask("Hello", 30000))
    await anext(stream)
    long = asyncio.create_task(collect(engine, ask("y" * 4000, 1)))
    during = 0
    while not long.done():
        await anext(stream)
        during += 1
    stream.cancel()
    assert during >= 4000 / 256 - 2


@pytest.mark.parametrize(
    ("request_", "kind", "param"),
    [
        (ask("x" * 40000, 1), ContextExceeded, "prompt"),
        (GenerationRequest(prompt=TokenPrompt([5, 257]), sampling=Sampling()), BadRequest, "prompt"),
        (GenerationRequest(prompt=TextPrompt("x"), sampling=Sampling(logit_bias={999: 1.0})), BadRequest, "logit_bias"),
        (
            GenerationRequest(prompt=ChatPrompt([Turn("user", "x" * 40000)]), sampling=Sampling()),
            ContextExceeded,
            "messages",
        ),
    ],
    ids=["too-long", "token-id", "bias-id", "chat-too-long"],
)
async def test_what_only_the_model_can_refuse_is_refused_with_its_field(
    engine: RwkvEngine, request_: GenerationRequest, kind: type[CortexdError], param: str
):
    with pytest.raises(kind) as refused:
        await collect(engine, request_)
    assert type(refused.value) is kind
    assert refused.value.param == param
    assert (await collect(engine, ask("still there", 3)))[1].finish == "length"


async def test_a_stop_string_ends_the_answer(engine: RwkvEngine):
    text, _ = await collect(engine, ask("Hello", 60))
    middle = text[len(text) // 2 :][:3]
    request = GenerationRequest(
        prompt=TextPrompt("Hello"), sampling=Sampling(seed=1, logit_bias=NEVER_ENDING), max_tokens=60, stop=[middle]
    )
    stopped, last = await collect(engine, request)
    assert last.finish == "stop"
    assert stopped == text[: text.index(middle)]


async def test_an_echo_begins_with_the_prompt(engine: RwkvEngine):
    request = GenerationRequest(
        prompt=TokenPrompt([73, 106]), sampling=Sampling(logit_bias=NEVER_ENDING), max_tokens=1, echo=True
    )
    assert (await collect(engine, request))[0].startswith("Hi")


async def test_a_killed_worker_is_told_to_its_clients_with_the_reason(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint), Host(fork_server))
    await engine.start(lambda progress: None)
    stream = engine.generate(ask("Hello", 30000))
    await anext(stream)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        await exhaust(stream)
    assert await engine.ended() == "killed by SIGKILL"
    with pytest.raises(EngineDied):
        await collect(engine, ask("Hello", 1))
    with pytest.raises(EngineDied):
        await engine.ping()
    await engine.stop(1.0)


async def test_a_worker_killed_while_loading_fails_the_load(fork_server: ForkServer, checkpoint: Path):
    host = Host(fork_server)
    host.fork_server = Halting(fork_server)  # type: ignore[assignment]  # all that an engine asks of it
    engine = RwkvEngine(spec_of(checkpoint), host)
    loading = asyncio.create_task(engine.start(lambda progress: None))
    while engine._loading is None:  # noqa: ASYNC110 - that it has asked, and that alone, is told to nobody
        await asyncio.sleep(0)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(LoadFailed, match="SIGKILL"):
        await loading
    await engine.stop(1.0)


class Halting:
    """Its workers stand still, so that none is at the end of its load before it is killed."""

    def __init__(self, fork_server: ForkServer) -> None:
        self._fork_server = fork_server

    async def spawn(self) -> WorkerProcess:
        worker = await self._fork_server.spawn()
        os.kill(worker.pid, signal.SIGSTOP)
        return worker


async def test_a_stopped_engine_ends_its_streams(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint), Host(fork_server))
    await engine.start(lambda progress: None)
    stream = engine.generate(ask("Hello", 30000))
    await anext(stream)
    await engine.stop(5.0)
    with pytest.raises(EngineDied):
        await exhaust(stream)


async def test_a_worker_that_hangs_is_ended_by_force(fork_server: ForkServer, checkpoint: Path):
    engine = RwkvEngine(spec_of(checkpoint), Host(fork_server))
    await engine.start(lambda progress: None)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await engine.ping()
    await engine.stop(0.1)


@pytest.mark.parametrize("damage", ["missing", "cut", "noise", "older", "strange vocabulary"])
async def test_a_bad_checkpoint_is_refused_with_one_sentence(
    fork_server: ForkServer, checkpoint: Path, tmp_path: Path, damage: str
):
    path = tmp_path / "bad.pth"
    data = checkpoint.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "noise":
            path.write_bytes(os.urandom(5000))
        case "older":
            state = tiny_state_dict(1, vocabulary=257)
            write_pth(path, {f"blocks.0.att.time_{name}": state["head.weight"] for name in ("decay", "maa_x")})
        case "strange vocabulary":
            write_pth(path, tiny_state_dict(1, vocabulary=300))
    engine = RwkvEngine(spec_of(path), Host(fork_server))
    with pytest.raises(LoadFailed) as refused:
        await engine.start(lambda progress: None)
    await engine.stop(1.0)
    message = refused.value.message
    assert message.endswith(".")
    assert "Traceback" not in message
    assert "bad.pth" in message or "vocabulary" in message


async def test_damaged_weights_make_no_ready_model(fork_server: ForkServer, tmp_path: Path):
    state = tiny_state_dict(1, layers=2, vocabulary=257)
    state["blocks.1.ffn.value.weight"][:] = float("nan")
    write_pth(tmp_path / "nan.pth", state)
    engine = RwkvEngine(spec_of(tmp_path / "nan.pth"), Host(fork_server))
    with pytest.raises(LoadFailed, match="no finite numbers"):
        await engine.start(lambda progress: None)
    await engine.stop(1.0)


async def test_a_model_that_breaks_on_one_prompt_keeps_serving_others(fork_server: ForkServer, tmp_path: Path):
    state = tiny_state_dict(1, layers=2, vocabulary=257)
    state["emb.weight"][66] = float("inf")  # byte "A"
    write_pth(tmp_path / "fragile.pth", state)
    engine = RwkvEngine(spec_of(tmp_path / "fragile.pth"), Host(fork_server))
    await engine.start(lambda progress: None)
    with pytest.raises(ModelFault):
        await collect(engine, ask("A", 3))
    sound = Sampling(logit_bias=NEVER_ENDING | {66: -100.0})
    request = GenerationRequest(prompt=TextPrompt("B"), sampling=sound, max_tokens=3)
    assert (await collect(engine, request))[1].finish == "length"
    await engine.stop(1.0)


async def test_strategies_and_templates_that_do_not_exist_fail_the_load(fork_server: ForkServer, checkpoint: Path):
    for change in ({"strategy": "tpu fp16"}, {"template": "alpaca"}):
        engine = RwkvEngine(spec_of(checkpoint, **change), Host(fork_server))
        with pytest.raises(LoadFailed, match=next(iter(change.values()))):
            await engine.start(lambda progress: None)
        await engine.stop(1.0)


async def test_auto_is_sent_to_the_gpu_it_was_foretold_for_and_says_so_where_that_is_none(
    fork_server: ForkServer, checkpoint: Path
):
    host = Host(fork_server)
    host.gpus = {"cuda:0": 80 * 10**9}
    spec = spec_of(checkpoint, parameters=1, vocabulary=300, width=128, layers=2, stored="F32", state_bytes=1)
    engine = RwkvEngine(spec, host)
    facts = await engine.start(lambda progress: None)
    await engine.stop(5.0)
    assert facts.notices == [f"{checkpoint.name} is computed on the CPU: PyTorch finds no GPU"]
    assert RwkvEngine.footprint(spec, host).keys() == {"cpu", "cuda:0"}
