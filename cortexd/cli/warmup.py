"""`cortexd warmup`."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from cortexd.cli.client import connect, get, is_there, model_path
from cortexd.cli.options import config_option, host_option, json_option, set_option, settings_from
from cortexd.cli.output import human_seconds, print_json, print_table
from cortexd.config import Settings, default_paths
from cortexd.engines.fork_server import ENVIRONMENT
from cortexd.engines.rwkv_devices import has_gpu
from cortexd.errors import BadRequest, CortexdError

_PROCESS = "cortexd.rwkv.warmup"
_COLUMNS = ("MODEL", "GPU", "WEIGHTS", "KERNELS", "TUNED", "TOOK")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--again", is_flag=True, help="Check and time again what is known already.")
@host_option
@config_option
@set_option
@json_option
def warmup(
    models: tuple[str, ...],
    again: bool,
    address: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Do ahead what the first loads on a GPU would wait for: check its kernels, compile and tune them.

    For every MODEL, or for all whose strategy names a GPU. What is found out is kept in this user's cache directory, until the
    driver, PyTorch, Triton or cortexd changes. Best done while the GPU is idle: tuning measures time.
    """
    if not has_gpu():
        raise CortexdError("There is no GPU on this machine: nothing can be warmed up.")
    settings = settings_from(config, overrides)
    chosen = asyncio.run(_from_daemon(address, models))
    if chosen is None:
        chosen = _from_catalogue(settings, models)
    wanted = [model for model in chosen if "cuda" in model["strategy"]]
    if others := [model["name"] for model in chosen if model not in wanted and models]:
        raise BadRequest(f"{others[0]} is not computed on a GPU: give it a strategy such as 'cuda fp16'.")
    if not wanted:
        raise CortexdError("No model is computed on a GPU: give one a strategy such as 'cuda fp16'.")
    cache = default_paths(os.environ).cache
    click.echo(f"What is found out is kept in {cache / 'kernels'}.", err=True)
    task = {"models": wanted, "cache": str(cache), "prefill": settings.engine.prefill_budget, "again": again}
    warmed = _warmed(task)
    if as_json:
        print_json(warmed)
    else:
        print_table(_COLUMNS, [_row(found) for found in warmed])
    return int(any(found["problem"] for found in warmed))


async def _from_daemon(address: str | None, names: tuple[str, ...]) -> list[dict[str, Any]] | None:
    async with connect(address) as client:
        if address is None and not await is_there(client):
            return None
        if names:
            reports = [await get(client, model_path(name)) for name in names]
        else:
            reports = (await get(client, "/admin/models"))["models"]
    return [
        {"name": report["id"], **{key: report["spec"][key] for key in ("path", "strategy")},
         "sequences": report["spec"]["max_concurrency"]}
        for report in reports
        if names or (report["spec"]["engine"] == "rwkv" and not report["spec"]["problem"])
    ]  # fmt: skip


def _from_catalogue(settings: Settings, names: tuple[str, ...]) -> list[dict[str, Any]]:
    from cortexd.catalogue.catalogue import Catalogue

    catalogue = Catalogue(settings)
    catalogue.refresh()
    if names:
        specs = [catalogue.resolve(name) for name in names]
    else:
        specs = [spec for spec in catalogue.specs() if spec.engine == "rwkv" and not spec.problem]
    return [
        {"name": spec.name, "path": spec.path, "strategy": spec.strategy, "sequences": spec.max_concurrency}
        for spec in specs
    ]


def _warmed(task: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", _PROCESS],
        input=msgspec.json.encode(task),
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    if done.returncode < 0:
        raise CortexdError(f"The process that warmed up was killed by {signal.Signals(-done.returncode).name}.")
    if done.returncode:
        raise CortexdError(f"The process that warmed up ended with exit status {done.returncode}.")
    report = msgspec.json.decode(done.stdout)
    if report["problem"]:
        raise CortexdError(f"Nothing was warmed up: {report['problem']}.")
    return report["warmed"]


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["model"],
        f"{found['hardware']} ({found['device']})" if found["hardware"] else found["device"],
        found["dtype"],
        found["problem"] or "right",
        str(found["tuned"]),
        human_seconds(found["seconds"]),
    )
