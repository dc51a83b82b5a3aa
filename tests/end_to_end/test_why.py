"""`cortexd why` on a real daemon that had to evict."""

import asyncio
import re
import sys
from pathlib import Path

from tests.end_to_end.conftest import ONE, RunningDaemon, Start
from tests.end_to_end.test_residency import complete, make_models


async def why(daemon: RunningDaemon, model: str) -> str:
    command = [sys.executable, "-m", "cortexd", "why", model, "--host", daemon.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_why_explains_each_eviction_in_plain_words(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path, "goose", "swan", "duck"), **ONE) as daemon:
        for model in ("goose", "swan", "duck"):
            assert (await complete(daemon, model)).status_code == 200
        for victim, successor in (("goose", "swan"), ("swan", "duck")):
            told = await why(daemon, victim)
            (evicted,) = [line for line in told.splitlines() if " evict: " in line]
            assert re.search(rf"evicted because {successor} needs [0-9.]+ MB on cpu more \(for req_\w+\)$", evicted), (
                evicted
            )
            after = told[told.index(evicted) :]
            assert re.search(r"cpu: ceiling 160.0 MB, held [0-9.]+ MB.*, needed [0-9.]+ MB", after), after
            assert re.search(rf"{victim} was chosen: frees [0-9.]+ MB on cpu, cost ", after), after
            assert f"unload: evicted for {successor}" in after, after


async def test_without_a_gpu_a_model_that_wants_one_is_computed_on_the_cpu_and_why_says_so(
    start: Start, tmp_path: Path
):
    async with start(make_models(tmp_path, "goose"), CORTEXD_ENGINE__STRATEGY="cuda fp16 *1 -> cpu fp32") as daemon:
        assert (await complete(daemon, "goose")).status_code == 200
        told = await why(daemon, "goose")
    assert re.search(r" degrade: goose.pth is computed on the CPU: PyTorch finds no GPU$", told, re.MULTILINE), told
