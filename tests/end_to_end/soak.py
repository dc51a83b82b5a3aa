"""Workers are killed at random under clients that stream: `python -m tests.end_to_end.soak --kills 1000`."""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import RunningDaemon, running_daemon

MODELS = ("goose", "swan", "duck")
BUDGET = "200 MB"  # one or two of the three
PROPER = {"engine_died", "model_load_failed", "unavailable", "queue_full"}
_PATIENCE = 60.0  # seconds within which each client must have its answer or its error


@dataclass
class Outcome:
    kills: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])  # by how they ended
    problems: list[str] = field(default_factory=list[str])


async def soak(kills: int, clients: int, seed: int) -> Outcome:
    """Every request must end with an answer or a proper error, and nothing may be left of any worker."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="cortexd-soak-") as folder:
        for number, name in enumerate(MODELS):
            write_pth(Path(folder) / f"{name}.pth", tiny_state_dict(number, layers=2, vocabulary=257))
        settings = {
            "CORTEXD_MEMORY__CPU": BUDGET,
            "CORTEXD_LIFECYCLE__MAX_WAIT": "2",
            "CORTEXD_LIFECYCLE__SUSPEND_AFTER": "0.5",
        }
        async with running_daemon(Path(folder), **settings) as daemon:
            # On a busy machine all kills could be over before the first worker can be forked.
            first = {"model": MODELS[0], "prompt": "a", "max_tokens": 1}
            await daemon.client.post("/v1/completions", json=first)
            done = asyncio.Event()
            crowd = [
                asyncio.create_task(_client(daemon, random.Random(seed + n), outcome, done)) for n in range(clients)
            ]
            await _kill(daemon, random.Random(seed), kills, outcome, crowd)
            done.set()
            await asyncio.gather(*crowd)
            await _check_rest(daemon, outcome)
    return outcome


async def _client(daemon: RunningDaemon, dice: random.Random, outcome: Outcome, done: asyncio.Event) -> None:
    while not done.is_set():
        try:
            async with asyncio.timeout(_PATIENCE):
                ending = await _stream(daemon, dice)
        except TimeoutError:
            ending = "no answer"
        except httpx.HTTPError as error:
            ending = f"connection: {error!r}"
        outcome.answers[ending] += 1
        if ending not in PROPER and ending not in ("stop", "length"):
            outcome.problems.append(ending)
        if ending not in ("stop", "length"):
            await asyncio.sleep(0.1)


async def _stream(daemon: RunningDaemon, dice: random.Random) -> str:
    """How one answer ended: its finish reason, or the code of its error."""
    body: dict[str, Any] = {
        "model": dice.choice(MODELS),
        "prompt": "Hello",
        "max_tokens": dice.choice((1, 20, 200)),
        "logit_bias": {"0": -100},
        "stream": True,
    }
    async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            await response.aread()
            return response.json()["error"]["code"]
        finish, done = "cut off", False
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: ") and line.endswith("}"):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    return chunk["error"]["code"]
                finish = chunk["choices"][0]["finish_reason"] or finish
        return finish if done else "cut off"


async def _kill(
    daemon: RunningDaemon, dice: random.Random, kills: int, outcome: Outcome, crowd: list["asyncio.Task[None]"]
) -> None:
    while outcome.kills < kills and not any(task.done() for task in crowd):
        await asyncio.sleep(dice.uniform(0.02, 0.3))
        models = (await daemon.client.get("/admin/models")).json()["models"]
        pids = [pid for model in models for pid in model["status"]["pids"]]
        if pids:
            try:
                psutil.Process(dice.choice(pids)).kill()
            except psutil.NoSuchProcess:
                continue
            outcome.kills += 1


async def _check_rest(daemon: RunningDaemon, outcome: Outcome) -> None:
    """Once all is unloaded: an empty ledger, and no process but the fork server."""
    for name in MODELS:
        await daemon.client.post(f"/admin/models/{name}/unload", json={"force": True})
    async with asyncio.timeout(_PATIENCE):
        while any(status["state"] not in ("cold", "failed") for status in (await daemon.models()).values()):
            pass
    ledger = await daemon.ledger()
    if ledger["resident"] or ledger["reserved"] or ledger["debt"]:
        outcome.problems.append(f"the ledger holds {ledger}")
    left = [process for process in daemon.processes() if process.ppid() != daemon.process.pid]
    _, left = await asyncio.to_thread(psutil.wait_procs, left, timeout=5)  # a process takes its time to end
    if left:
        outcome.problems.append(f"workers are left: {left}")
    if not (await daemon.client.get("/readyz")).json()["ready"]:
        outcome.problems.append("the daemon is not ready any more")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    outcome = asyncio.run(soak(asked.kills, asked.clients, asked.seed))
    print(f"{outcome.kills} workers killed; requests ended: {dict(outcome.answers)}")
    print("\n".join(outcome.problems) or "every client had its answer or a proper error; nothing is left")
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
