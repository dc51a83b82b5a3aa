"""One command, one table, JSON beside it: medians of interleaved rounds, with the least and the most of them."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from cortexd.wire import STRATEGIES
from tests.bench import machine
from tests.bench.against import Peer, compare, report
from tests.bench.bench import Bench
from tests.bench.beside import beside
from tests.bench.clients import clients
from tests.bench.figures import Figures, spread
from tests.bench.latency import latency
from tests.bench.loading import loading
from tests.bench.rates import decode, prefill
from tests.bench.shapes import SHAPES, Shape
from tests.bench.swap import swap
from tests.bench.turns import turns
from tests.bench.versions import versions

OF_A_SHAPE: dict[str, Callable[[Bench, Shape], Awaitable[Figures]]] = {
    "decode": decode,
    "prefill": prefill,
    "clients": clients,
    "turns": turns,
    "beside": beside,
    "loading": loading,
    "swap": swap,
}
OF_THE_DAEMON: dict[str, Callable[[Bench], Awaitable[Figures]]] = {"latency": latency, "versions": versions}
DAEMON = "the daemon alone"


async def measure(
    bench: Bench, shapes: list[Shape], parts: list[str], keep: Callable[[dict[str, Figures]], None]
) -> dict[str, Figures]:
    """Every part for every shape; what no model has a share in is measured once. `keep` is given what there is after each part."""
    results: dict[str, Figures] = {}
    for shape in shapes:
        shape.checkpoint(bench.folder)
        results[shape.name] = Figures()
        for part in parts:
            if part in OF_A_SHAPE:
                results[shape.name] |= await _timed(f"{shape.name}: {part}", OF_A_SHAPE[part](bench, shape))
                keep(results)
    results[DAEMON] = Figures()
    for part in parts:
        if part in OF_THE_DAEMON:
            results[DAEMON] |= await _timed(part, OF_THE_DAEMON[part](bench))
            keep(results)
    return {name: figures for name, figures in results.items() if figures}


async def _timed(what: str, figures: Awaitable[Figures]) -> Figures:
    start = perf_counter()
    measured = await figures
    print(f"{what}: {perf_counter() - start:.0f} s", file=sys.stderr)
    return measured


def heading(bench: Bench) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(),
        "machine": machine.description(bench.threads),
        "load": os.getloadavg()[2],
        "rounds": bench.rounds,
    }


def show(about: dict[str, Any], results: dict[str, Figures]) -> None:
    print(f"{about['at'][:10]}, {about['machine']}; {about['rounds']} rounds: median (least–most).")
    print(f"Load average over 15 minutes before: {about['load']:.1f}.")
    together = [name for name in results if name != DAEMON]
    for names in (together, [name for name in results if name == DAEMON]):
        if names:
            print("\n| | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
        for key in dict.fromkeys(key for name in names for key in results[name]):
            cells = (str(spread(results[name][key])) if key in results[name] else "–" for name in names)
            print(f"| {key} | {' | '.join(cells)} |")


def against(arguments: argparse.Namespace, shape: Shape) -> None:
    address, _, model = arguments.against.partition(",")
    peer = Peer(address, model or None, arguments.against_pid)
    comparison = asyncio.run(compare(arguments.folder.resolve(), shape, peer, arguments.strategy, arguments.rounds))
    write_json(arguments.json or Path(".local/bench/against.json"), report(comparison, shape, peer, arguments.strategy))


def write_json(path: Path, results: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2))


def parts_of(text: str) -> list[str]:
    """Raises ArgumentTypeError for one that there is not."""
    known = [*OF_A_SHAPE, *OF_THE_DAEMON]
    parts = text.split(",")
    if unknown := [part for part in parts if part not in known]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".local/bench"), help="where the checkpoints are kept")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="only this one")
    parser.add_argument(
        "--only", type=parts_of, default=[*OF_A_SHAPE, *OF_THE_DAEMON], metavar="PART,…", help="only these parts"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="default: .local/bench/results.json, or against.json")
    parser.add_argument("--against", metavar="URL[,MODEL]", help="only compare with this OpenAI server, chat by chat")
    parser.add_argument("--against-pid", type=int, metavar="PID", help="its process, to compare the memory too")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, default="auto", help="with --against: what ours is computed in"
    )
    arguments = parser.parse_args()
    shapes = [shape for shape in SHAPES if arguments.shape in (None, shape.name)]
    if arguments.against:
        against(arguments, shapes[0])
        return
    bench = Bench(arguments.folder.resolve(), arguments.rounds)
    about = heading(bench)
    path = arguments.json or Path(".local/bench/results.json")

    def keep(results: dict[str, Figures]) -> None:
        write_json(path, {**about, "shapes": results})

    show(about, asyncio.run(measure(bench, shapes, arguments.only, keep)))


if __name__ == "__main__":
    main()
