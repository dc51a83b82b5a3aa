"""One command, one table, JSON beside it. Rounds are interleaved and the best of each counts: these machines are noisy."""

import argparse
import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tests.bench import machine
from tests.bench.against import Peer, compare, report
from tests.bench.daemon import complete, daemon, decode_rate, load_ms, prefill_rate
from tests.bench.latency import added_latency
from tests.bench.shapes import SHAPES, Shape
from tests.bench.swap import swap_times, swaps_of_a_daemon
from tests.bench.versions import version_times

STREAMS = (1, 4, 16)
PROMPTS = (128, 512, 2048)
DECODED = 48  # tokens of each stream

Figures = dict[str, list[float]]


async def measure(client: httpx.AsyncClient, shape: Shape, figures: Figures) -> None:
    """One round on a model that is loaded."""
    timing = await complete(client, shape.name, [1000, 1001, 1002, 1003], 2)
    figures["ttft ready ms"].append(-1000 * timing.first)
    for streams in STREAMS:
        figures[f"decode {streams}"].append(await decode_rate(client, shape.name, streams, DECODED))
    for length in PROMPTS:
        figures[f"prefill {length}"].append(await prefill_rate(client, shape.name, length))


def official(shape: Shape, folder: Path, figures: Figures) -> None:
    """The same checkpoint under the official package, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.package", str(shape.checkpoint(folder)), "cpu fp32"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, rate in json.loads(printed.splitlines()[-1]).items():
        figures[f"rwkv package fp32 {name}"].append(rate)


async def bench(folder: Path, shapes: list[Shape], rounds: int) -> dict[str, dict[str, float]]:
    """Best of each figure per shape; times are negated while they are compared."""
    all_figures: dict[str, Figures] = {}
    for shape in shapes:
        shape.checkpoint(folder)
        figures = all_figures[shape.name] = defaultdict(list)
        for _ in range(rounds):
            figures["copy GB/s"].append(machine.copy_bandwidth() / 1e9)
            figures["read GB/s"].append(machine.read_bandwidth() / 1e9)
            async with daemon(folder) as client:
                load, first = await load_ms(client, shape.name)
                figures["load ms"].append(-load)
                figures["ttft cold ms"].append(-first)
                await measure(client, shape, figures)
            for tier, taken in (await swap_times(shape.checkpoint(folder))).items():
                figures[f"swap: {tier} to first token ms"].append(-taken)
            for tier, taken in (await swaps_of_a_daemon(folder, shape.checkpoint(folder))).items():
                figures[f"swap: {tier} ms"].append(-taken)
            for what, taken in (await added_latency()).items():
                figures[what].append(-taken)
            for what, taken in (await version_times(folder)).items():
                figures[what].append(-taken)
            official(shape, folder, figures)
    return {name: {key: abs(max(values)) for key, values in figures.items()} for name, figures in all_figures.items()}


def show(results: dict[str, dict[str, float]], shapes: list[Shape]) -> None:
    names = [shape.name for shape in shapes]
    for shape in shapes:
        figures = results[shape.name]
        floor = figures["read GB/s"] * 1e9 / shape.bytes_per_token
        figures["decode floor (read bandwidth / bytes of a token)"] = floor
        figures["decode 1 / floor"] = figures["decode 1"] / floor
        figures["decode 1 / rwkv package fp32"] = figures["decode 1"] / figures["rwkv package fp32 decode"]
        figures["prefill 512 / rwkv package fp32"] = figures["prefill 512"] / figures["rwkv package fp32 prefill"]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.description()}; best of the rounds; rates in tokens per second\n")
    print("| | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for key in results[names[0]]:
        print(f"| {key} | " + " | ".join(f"{results[name][key]:.4g}" for name in names) + " |")


def against(arguments: argparse.Namespace, shape: Shape) -> None:
    address, _, model = arguments.against.partition(",")
    peer = Peer(address, model or None, arguments.against_pid)
    comparison = asyncio.run(compare(arguments.folder.resolve(), shape, peer, arguments.rounds))
    write_json(arguments.json or Path(".local/bench/against.json"), report(comparison, shape, peer))


def write_json(path: Path, results: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".local/bench"), help="where the checkpoints are kept")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="only this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="default: .local/bench/results.json, or against.json")
    parser.add_argument("--against", metavar="URL[,MODEL]", help="only compare with this OpenAI server, chat by chat")
    parser.add_argument("--against-pid", type=int, metavar="PID", help="its process, to compare the memory too")
    arguments = parser.parse_args()
    shapes = [shape for shape in SHAPES if arguments.shape in (None, shape.name)]
    if arguments.against:
        against(arguments, shapes[0])
        return
    results = asyncio.run(bench(arguments.folder.resolve(), shapes, arguments.rounds))
    show(results, shapes)
    write_json(arguments.json or Path(".local/bench/results.json"), results)


if __name__ == "__main__":
    main()
