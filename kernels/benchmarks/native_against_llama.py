"""The native kernels beside llama.cpp with matrices of the same shapes, in turns within one run: only their ratios count.

`python kernels/benchmarks/native_against_llama.py LLAMA_BENCH bench-0.1b.bf16.gguf bench-0.1b.q8_0.gguf`
The files are made by `python -m tests.bench.gguf`. Weights are random on both sides; of ours, as many activations are zero as in
a trained model, which llama.cpp makes no use of. One thread each, and processor time is what counts: the clock would measure who
else is at work.
"""

import argparse
import resource
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from native_decode import SIZES, random_weights, states

from cortexd_kernels.native.layout import FORMATS, native_layout
from cortexd_kernels.native.library import open_native
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.threads import Threads

PROMPT, ANSWER, PIECE = 512, 32, 128  # tokens; the engine feeds a prompt in pieces
Speeds = dict[str, float]  # tok/s


def native_speeds(model: NativeModel, layers: int, width: int) -> Speeds:
    held = states(layers, width, 1)
    prompt = [31 * i + 5 for i in range(PROMPT)]

    def prefill() -> None:
        for start in range(0, PROMPT, PIECE):
            last = start + PIECE == PROMPT
            model.step([(0, prompt[start : start + PIECE])], held, [0] if last else [])

    def decode() -> None:
        for i in range(ANSWER):
            model.step([(0, [7 * i + 5])], held)

    return {"prefill": PROMPT / processor_seconds(prefill), "decode": ANSWER / processor_seconds(decode)}


def processor_seconds(call: Callable[[], None]) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def llama_speeds(llama_bench: Path, file: Path) -> Speeds:
    def spent(repeats: int, *what: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [llama_bench, "-m", file, "-t", "1", "-r", str(repeats), *what]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def speed(tokens: int, *what: str) -> float:
        """Loading and warming up are in both runs."""
        return 2 * tokens / (spent(3, *what) - spent(1, *what))

    return {
        "prefill": speed(PROMPT, "-p", str(PROMPT), "-n", "0"),
        "decode": speed(ANSWER, "-p", "0", "-n", str(ANSWER)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_bench", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["bf16", "int8"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    layers, width = SIZES[args.size]
    weights, threads = random_weights(layers, width), Threads(open_native())
    players: dict[str, Callable[[], Speeds]] = {}
    for name in args.formats:
        model = NativeModel(dict(native_layout(weights.items(), FORMATS[name])), threads)
        players[f"native {name}"] = lambda model=model: native_speeds(model, layers, width)
    for file in args.files:
        players[file.name] = lambda file=file: llama_speeds(args.llama_bench, file)
    speeds: dict[str, list[Speeds]] = defaultdict(list)
    for _ in range(args.rounds):
        for name, play in players.items():
            speeds[name].append(play())
    print(f"{args.size}, tok/s of processor time: median of {args.rounds} (best)")
    for name, all_rounds in speeds.items():
        line = f"{name:24}"
        for what in ("prefill", "decode"):
            numbers = [one[what] for one in all_rounds]
            line += f"  {what} {statistics.median(numbers):7.1f} ({max(numbers):.1f})"
        print(line)


if __name__ == "__main__":
    main()
