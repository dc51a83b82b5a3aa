"""`cortexd simulate`: which models a policy would have loaded and evicted, had the requests been these."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cortexd.catalogue.catalogue import Catalogue
from cortexd.cli.options import config_option, json_option, set_option, settings_from
from cortexd.cli.output import human_bytes, human_seconds, print_json, print_table
from cortexd.config import Settings, default_paths
from cortexd.durations import seconds_of
from cortexd.memory.budget import ceilings
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.simulation.report import Comparison, compare
from cortexd.simulation.traces import GENERATORS, Trace, generate, read_trace

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_PARTS = ((30.0, "%"), (50.0, "%"), (70.0, "%"))
_NOTHING = 4  # exit code: what was to be replayed is not there
_COLUMNS = ("TRACE", "BUDGET", "POLICY", "LOADING", "TO LRU", "TO OPTIMUM", "COLD STARTS", "EVICTIONS", "WAITED")


def _budgets(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[float, str]]:
    """Each as a number and a unit, "%" or "", "KB" …"""
    budgets: list[tuple[float, str]] = []
    for value in values:
        written = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]?B?)", value.strip(), re.IGNORECASE)
        if written is None or float(written[1]) == 0:
            raise click.BadParameter(f"{value!r} is neither a size such as 24GB nor a part such as 50%.", ctx, param)
        unit = written[2].upper().removesuffix("B")
        budgets.append((float(written[1]), f"{unit}B" if unit in ("K", "M", "G", "T") else unit))
    return budgets


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from error


@click.command()
@click.argument("trace", required=False, type=click.Path(path_type=Path))
@click.option(
    "--generate", "kind", type=click.Choice([*GENERATORS, "all"]), help="Make up a trace instead of reading one."
)
@click.option("--journal", is_flag=True, help="Replay what the daemon served.")
@click.option("--since", callback=_seconds, help="Of the journal: so far back, e.g. 7d.  [default: all that is kept]")
@click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Whose journal.  [default: cortexd.db in the data directory]",
)
@click.option("--seed", default=0, show_default=True, help="Of a generated trace.")
@click.option("--models", default=12, show_default=True, type=click.IntRange(min=1), help="In a generated trace.")
@click.option("--requests", default=1000, show_default=True, type=click.IntRange(min=1), help="In a generated trace.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    callback=_budgets,
    metavar="BYTES|PERCENT",
    help="Memory for models, e.g. 24GB, or a part of what all of them need. May be repeated.  "
    "[default: 30%, 50% and 70%; of the journal: what [memory] cpu gives]",
)
@config_option
@set_option
@json_option
@click.pass_context
def simulate(
    ctx: click.Context,
    trace: Path | None,
    kind: str | None,
    journal: bool,
    since: float | None,
    database: Path | None,
    seed: int,
    models: int,
    requests: int,
    budgets: list[tuple[float, str]],
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay requests and see what loading them costs: as cortexd chooses what to evict, under LRU, and at best.

    TRACE is a file of JSON lines: models as {"name", "bytes", "load_seconds"}, then requests as {"at", "model"}.
    Times are in seconds. With --journal, the daemon's own database is read instead, which it may be using. The optimum
    knows the future; no policy can. Nothing is unloaded for being idle, and only the host's memory counts.
    """
    if (trace is not None) + (kind is not None) + journal != 1:
        raise click.UsageError("Give either a TRACE, --generate or --journal.")
    if journal:
        settings = settings_from(config, overrides)
        recorded, notes = _recorded(database or default_paths(os.environ).data / "cortexd.db", since, settings)
        for note in notes:
            click.echo(note, err=as_json)
        if not recorded.requests:
            click.echo("cortexd: The journal holds no request that could be replayed.", err=True)
            ctx.exit(_NOTHING)
        sources = iter([("journal", recorded)])
        budgets = budgets or [(ceilings(settings.memory, Host(), Gpus(None))["cpu"], "")]
    else:
        sources = _read(trace) if trace is not None else _generate(kind or "all", seed, models, requests)
    comparisons = [
        compare(name, each, _in_bytes(budget, each)) for name, each in sources for budget in budgets or _PARTS
    ]
    if as_json:
        print_json(comparisons)
        return
    print_table(_COLUMNS, [row for comparison in comparisons for row in _rows(comparison)])
    if not all(comparison.optimum.exact for comparison in comparisons):
        click.echo("≤ The optimum is not known exactly: what is shown was reached, and the true one may be less.")


def _read(path: Path) -> Iterator[tuple[str, Trace]]:
    yield path.stem, read_trace(path)


def _recorded(database: Path, since: float | None, settings: Settings) -> tuple[Trace, list[str]]:
    """With what was assumed."""
    from cortexd.simulation.recorded import read_recording, trace_of  # and SQLAlchemy with it

    catalogue = Catalogue(settings)
    catalogue.refresh()
    recording = read_recording(database, 0.0 if since is None else time.time() - since)
    return trace_of(recording, {spec.name: spec for spec in catalogue.specs()})


def _generate(kind: str, seed: int, models: int, requests: int) -> Iterator[tuple[str, Trace]]:
    for each in GENERATORS if kind == "all" else (kind,):
        yield each, generate(each, seed=seed, models=models, requests=requests)


def _in_bytes(budget: tuple[float, str], trace: Trace) -> int:
    """A part is of what all models of the trace hold together, and at least enough for the largest of them."""
    count, unit = budget
    if unit != "%":
        return int(count * _UNITS[unit])
    sizes = [model.bytes for model in trace.models]
    return max(int(count / 100 * sum(sizes)), max(sizes))


def _rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    start = (comparison.trace, human_bytes(comparison.budget))
    for row in comparison.rows:
        outcome = row.outcome
        yield (
            *start,
            row.policy,
            human_seconds(outcome.load_seconds),
            _ratio(row.to_lru),
            _ratio(row.to_optimum),
            f"{row.cold_start_rate:.1%}",
            str(outcome.evictions),
            human_seconds(outcome.seconds_waited),
        )
    optimum = comparison.optimum
    at_most = "" if optimum.exact else "≤ "
    yield (*start, "optimum", at_most + human_seconds(optimum.load_seconds), "", "", "", "", "")


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
