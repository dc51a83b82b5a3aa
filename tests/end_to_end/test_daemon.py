"""The real program: a daemon process, real checkpoints, real clients."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AsyncOpenAI

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import Guest, House, RunningDaemon, Start, pause

pytestmark = pytest.mark.asyncio(loop_scope="package")

ENDLESS = {"max_tokens": 30000, "logit_bias": {"0": -100}, "stream": True}


def make_models(folder: Path) -> Path:
    write_pth(folder / "tiny.pth", tiny_state_dict(1, layers=2, vocabulary=257))
    whole = (folder / "tiny.pth").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    write_pth(folder / "strange.pth", tiny_state_dict(1, layers=1, vocabulary=300))
    return folder


async def until_idle(daemon: RunningDaemon, model: str) -> float:
    """Seconds until no request holds the model."""
    start = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        while (await daemon.models())[model]["leases"]:
            await pause()
    return asyncio.get_running_loop().time() - start


async def test_a_chat_request_loads_a_model_nobody_has_loaded_and_is_answered(start: Start, tmp_path: Path):
    async with start(tmp_path) as daemon:
        assert (await daemon.models())["demo"]["state"] == "cold"
        response = await daemon.chat("What is cortexd?")
        assert response.status_code == 200, response.text
        assert "daemon" in response.json()["choices"][0]["message"]["content"]
        assert response.headers["x-cortexd-tier"] == "cold"
        assert float(response.headers["x-cortexd-load-ms"]) > 0
        assert (await daemon.models())["demo"]["state"] == "ready"
        assert (await daemon.chat("hello")).headers["x-cortexd-tier"] == "ready"


async def test_two_hundred_first_requests_make_one_load_and_get_two_hundred_answers(roomy: Guest):
    daemon, goose, _ = roomy
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=120.0, limits=limits, trust_env=False) as client:
        body = {"model": goose, "prompt": "Hello", "max_tokens": 4}
        answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(200)))
    assert [answer.status_code for answer in answers] == [200] * 200
    status = (await daemon.models())[goose]
    assert status["incarnation"] == 1
    assert status["leases"] == 0


async def test_the_same_seed_gives_the_same_text_alone_and_beside_fifteen_others(roomy: Guest):
    daemon, goose, _ = roomy

    async def text(seed: int) -> str:
        body = {
            "model": goose,
            "prompt": f"number {seed} ",
            "max_tokens": 40,
            "seed": seed,
            "temperature": 1.5,
            "top_p": 1,
        }
        response = await daemon.client.post("/v1/completions", json=body)
        return response.json()["choices"][0]["text"]

    alone = [await text(seed) for seed in range(4)]
    together = await asyncio.gather(*(text(seed) for seed in range(16)))
    assert together[:4] == alone
    assert len(set(together)) == 16


async def test_a_client_that_leaves_frees_its_place(roomy: Guest):
    daemon, goose, _ = roomy
    body = {"model": goose, "prompt": "Hello", **ENDLESS}
    async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.aiter_lines()  # kept: as garbage it would close the connection
        while not (await anext(lines)).startswith("data: "):
            pass
        assert (await daemon.models())[goose]["leases"] == 1
    assert await until_idle(daemon, goose) < 0.2


async def test_a_damaged_checkpoint_disturbs_nobody_and_is_not_loaded_per_poll(roomy_house: House):
    daemon, folder = roomy_house
    make_models(folder)
    await daemon.chat("hello")
    workers = len(daemon.processes())
    for name, words in (("cut", "cut.pth is damaged"), ("strange", "vocabulary of 300")):
        for _ in range(20):
            response = await daemon.chat("hello", model=name)
            assert response.status_code == 503
            assert words in response.json()["error"]["message"]
            assert response.headers["x-should-retry"] == "false"
        assert (await daemon.models())[name]["incarnation"] <= 1
    assert len(daemon.processes()) <= workers
    assert (await daemon.chat("hello")).status_code == 200


async def test_a_killed_worker_is_replaced_at_the_next_request(roomy: Guest):
    daemon, goose, _ = roomy
    client = AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=5)
    async with client:
        await client.completions.create(model=goose, prompt="Hello", max_tokens=2)
        (await daemon.worker(goose)).send_signal(signal.SIGKILL)
        answer = await client.completions.create(model=goose, prompt="Hello", max_tokens=2)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert (await daemon.models())[goose]["incarnation"] == 2


async def test_sigterm_ends_everything_within_the_deadline_and_says_so_to_streams(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path), CORTEXD_SERVER__DRAIN_S="1") as daemon:
        body = {"model": "tiny", "prompt": "Hello", **ENDLESS}
        async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            while not (await anext(lines)).startswith("data: "):
                pass
            children = daemon.processes()
            daemon.process.send_signal(signal.SIGTERM)
            rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
        assert rest[-1]["error"]["code"] == "shutting_down"
        async with asyncio.timeout(10):
            assert await daemon.process.wait() == 0
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=5)
        assert alive == []


async def test_a_daemon_that_is_killed_leaves_no_process_behind(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path)) as daemon:
        await daemon.chat("hello", model="tiny")
        children = daemon.processes()
        assert len(children) >= 2, "the fork server, and at least one worker"
        daemon.process.kill()
        await daemon.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=5)
        assert alive == []


async def test_an_idle_model_is_unloaded_with_its_process(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path), CORTEXD_LIFECYCLE__KEEP_ALIVE="0") as daemon:
        await daemon.chat("hello", model="tiny", keep_alive=60)
        worker = await daemon.worker("tiny")
        await daemon.chat("hello", model="tiny")
        async with asyncio.timeout(10):
            while (await daemon.models())["tiny"]["state"] != "cold":
                await pause()
        assert not worker.is_running()


async def test_a_file_put_into_the_directory_can_be_asked_for_at_once(roomy_house: House):
    daemon, folder = roomy_house
    assert (await daemon.chat("hello", model="late")).status_code == 404
    write_pth(folder / "late.pth", tiny_state_dict(1, layers=2, vocabulary=257))
    assert (await daemon.chat("hello", model="late", max_tokens=2)).status_code == 200


async def test_a_taken_port_is_told_in_one_sentence(roomy: Guest):
    port = roomy.daemon.url.rpartition(":")[2]
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "serve", "--port", port, stderr=asyncio.subprocess.PIPE, env=os.environ
    )
    _, stderr = await second.communicate()
    assert second.returncode == 1
    assert b"cannot listen on 127.0.0.1" in stderr
    assert stderr.count(b"\n") == 1


async def test_the_daemon_never_imports_torch(tmp_path: Path):
    program = "import sys, cortexd.cli.server, cortexd.cli.run, cortexd.cli.models; sys.exit('torch' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0


async def _until_it_takes_no_more(daemon: RunningDaemon) -> None:
    async with asyncio.timeout(30):
        with contextlib.suppress(httpx.TransportError):
            while (await daemon.client.get("/readyz")).status_code == httpx.codes.OK:
                await pause()


async def test_a_second_signal_ends_what_still_runs_at_once(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path), CORTEXD_SERVER__DRAIN_S="600") as daemon:
        body = {"model": "tiny", "prompt": "Hello", **ENDLESS}
        async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            while not (await anext(lines)).startswith("data: "):
                pass
            daemon.process.send_signal(signal.SIGINT)
            await _until_it_takes_no_more(daemon)  # two signals at once would be one
            daemon.process.send_signal(signal.SIGINT)
            rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
        assert rest[-1]["error"]["code"] == "shutting_down"
        async with asyncio.timeout(20):
            assert await daemon.process.wait() == 0


async def test_an_answer_on_a_terminal_is_not_wiped_out_by_its_progress(tmp_path: Path):
    ours, theirs = pty.openpty()
    places = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "run", "demo", "What is cortexd?", "--set", "server.port=1",
        env={**os.environ, **places}, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end has closed
        while piece := await asyncio.to_thread(os.read, ours, 4096):
            shown += piece
    os.close(ours)
    assert await process.wait() == 0
    assert b"serves language models" in shown.rpartition(b"\x1b[2K")[2]
