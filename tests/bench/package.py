"""The official `rwkv` package on the same checkpoint, for a ratio: a process that measures whenever it is asked."""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Self

_WARM = 3  # tokens: what is compiled is compiled with the first


class Package:
    """Where it is not installed, it is not `there`."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self.there = importlib.util.find_spec("rwkv") is not None
        self._command = [sys.executable, "-m", "tests.bench.package", str(checkpoint), "cpu fp32"]
        self._threads = threads
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        if self.there:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": str(self._threads)},
            )
            await self.ask("decode", _WARM)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def ask(self, what: str, tokens: int) -> float:
        """Tokens per second of `decode` or `prefill`; raises RuntimeError where the process has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {tokens}\n".encode())
        while line := await self._process.stdout.readline():
            if line.startswith(b"{"):  # the package prints much else
                return json.loads(line)["rate"]
        raise RuntimeError("the process of the rwkv package has ended")


def main(path: str, strategy: str) -> None:
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    import torch
    from rwkv.model import RWKV

    model: Any = RWKV(model=str(Path(path).with_suffix("")), strategy=strategy)
    measure = {"decode": _decode, "prefill": _prefill}
    with torch.inference_mode():
        for line in sys.stdin:
            what, tokens = line.split()
            print("\n" + json.dumps({"rate": measure[what](model, int(tokens))}), flush=True)


def _decode(model: Any, tokens: int) -> float:
    logits, state = model.forward([1000, 1001], None)
    start = perf_counter()
    for _ in range(tokens):
        logits, state = model.forward([int(logits.argmax())], state)
    return tokens / (perf_counter() - start)


def _prefill(model: Any, tokens: int) -> float:
    prompt = [random.randrange(1000, 20000) for _ in range(tokens)]
    start = perf_counter()
    model.forward(prompt, None)
    return tokens / (perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
