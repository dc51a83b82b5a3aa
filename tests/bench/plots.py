"""Two pictures of what was measured, for light and dark pages: `python -m tests.bench.plots RESULTS.json docs/`.

With `--against AGAINST.json …`, what was measured of peers beside ours stands in the first of them. It needs `matplotlib`.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tests.bench.rates import KINDS, STREAMS, decode_name
from tests.bench.turns import HISTORIES, history_name

# Each is read on white and on black.
_INK, _GRID = "#808890", "#80889040"
_COLOURS = {"bf16": "#3b82f6", "int8": "#e0752d", "int4": "#a259c4", "peer": "#2fa36b"}
_PEER_MARKERS = "^vDP"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cortexd",  # the same figures make the same file
    "font.family": "sans-serif",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

Shapes = Mapping[str, Mapping[str, Sequence[float]]]


def batches(shapes: Shapes, peers: Sequence[Mapping[str, Any]]) -> Figure:
    """Tokens per second of all streams together, by their number."""
    figure, axes = _panels(shapes)
    for panel, (name, figures) in zip(axes, shapes.items(), strict=True):
        for kind in KINDS:
            if f"{decode_name(kind, STREAMS[0])}, tok/s" not in figures:
                continue  # measured before there was this kind
            colour = _COLOURS[kind]
            measured = [_median(figures, f"{decode_name(kind, streams)}, tok/s") for streams in STREAMS]
            floors = [_median(figures, f"{decode_name(kind, streams)}, floor") for streams in STREAMS]
            panel.plot(STREAMS, floors, "--", color=colour, linewidth=1, alpha=0.7, label=f"floor of {kind}")
            panel.plot(STREAMS, measured, "o-", color=colour, label=f"cortexd {kind}")
        for marker, peer in zip(_PEER_MARKERS, (peer for peer in peers if peer["shape"] == name), strict=False):
            rates = [peer["medians"][f"decode of {streams}, tok/s"]["theirs"] for streams in STREAMS]
            label = peer["peer"]["model"] or peer["peer"]["address"]
            panel.plot(STREAMS, rates, f"{marker}:", color=_COLOURS["peer"], label=label)
        panel.set(title=name, xlabel="streams at once", xscale="log", yscale="log")
        panel.xaxis.set_major_locator(FixedLocator(STREAMS))
        panel.xaxis.set_major_formatter(FuncFormatter(_plain))
        _finish(panel)
    axes[0].set_ylabel("tokens per second, all together")
    return figure


def histories(shapes: Shapes) -> Figure:
    """Milliseconds to the first token of a turn, by the tokens that were said before."""
    figure, axes = _panels(shapes)
    for panel, (name, figures) in zip(axes, shapes.items(), strict=True):
        read = [
            _median(figures, f"{history_name(length)} of history read for the first time, first token ms")
            for length in HISTORIES
        ]
        found = [_median(figures, f"next turn after {history_name(length)}, ms") for length in HISTORIES]
        panel.plot(HISTORIES, read, "o-", color=_COLOURS["int8"], label="without cache: all is read")
        panel.plot(HISTORIES, found, "o-", color=_COLOURS["bf16"], label="with cache: the new message is read")
        panel.axhline(
            _median(figures, "first turn, ms"), linestyle="--", color=_INK, linewidth=1, label="first turn of a chat"
        )
        panel.set(title=name, xlabel="tokens of history", xscale="log", yscale="log")
        panel.xaxis.set_major_locator(FixedLocator(HISTORIES))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1024:.0f} k"))
        _finish(panel)
    axes[0].set_ylabel("milliseconds to the first token")
    return figure


def _panels(shapes: Shapes) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * len(shapes), 3.8), layout="constrained")
    axes = figure.subplots(1, len(shapes), sharey=True, squeeze=False)
    return figure, list(axes[0])


def _finish(panel: Axes) -> None:
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(_plain))
    panel.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: _plain(value, 0) if _is_two_or_five(value) else ""))
    panel.legend(loc="best")


def _plain(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _is_two_or_five(value: float) -> bool:
    return f"{value:e}"[0] in "25"


def _median(figures: Mapping[str, Sequence[float]], name: str) -> float:
    return statistics.median(figures[name])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plots", description=__doc__)
    parser.add_argument("results", type=Path, help="what `make bench` has written")
    parser.add_argument("folder", type=Path, help="where decode.svg and next-turn.svg go")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="what `--against` has written")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())["shapes"]
    peers = [json.loads(path.read_text()) for path in arguments.against]
    decoded = {name: figures for name, figures in results.items() if f"{decode_name('bf16', 1)}, tok/s" in figures}
    talked = {name: figures for name, figures in results.items() if "first turn, ms" in figures}
    with mpl.rc_context(_STYLE):
        pictures = {
            "decode": batches(decoded, peers) if decoded else None,
            "next-turn": histories(talked) if talked else None,
        }
        for name, picture in pictures.items():
            if picture is not None:
                picture.savefig(arguments.folder / f"{name}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
