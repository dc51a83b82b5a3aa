"""`cortexd warmup`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from cortexd.catalogue.catalogue import Catalogue
from cortexd.catalogue.spec import ModelSpec
from cortexd.cli.options import config_option, json_option, set_option, settings_from
from cortexd.cli.output import human_seconds, print_json, print_table
from cortexd.config import Settings, default_paths
from cortexd.engines.fork_server import ENVIRONMENT
from cortexd.engines.rwkv_devices import has_gpu, settled
from cortexd.engines.torch_build import computes_on_gpus
from cortexd.errors import BadRequest, CortexdError
from cortexd.memory.budget import ceilings
from cortexd.memory.host import Host
from cortexd.memory.nvidia import installed_gpus

_PROCESS = "cortexd.rwkv.warmup"
_COLUMNS = ("MODEL", "GPU", "WEIGHTS", "KERNELS", "TUNED", "TOOK")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--again", is_flag=True, help="Check and time again what is known already.")
@config_option
@set_option
@json_option
def warmup(
    models: tuple[str, ...],
    again: bool,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Do ahead what the first loads on a GPU would wait for: check its kernels, compile and tune them.

    For every MODEL, or for all that are computed on a GPU. What is found out is kept in this user's cache directory, until the
    driver, PyTorch, Triton or cortexd changes. Best done while the GPU is idle: tuning measures time.
    """
    if not has_gpu():
        raise CortexdError("There is no GPU on this machine: nothing can be warmed up.")
    settings = settings_from(config, overrides)
    chosen = _chosen(settings, models)
    wanted = [spec for spec in chosen if "cuda" in spec.strategy]
    if models and (others := [spec.name for spec in chosen if spec not in wanted]):
        raise BadRequest(f"{others[0]} is not computed on a GPU: give it a strategy such as 'cuda fp16'.")
    if not wanted:
        raise CortexdError("No model is computed on a GPU: give one a strategy such as 'cuda fp16'.")
    cache = default_paths(os.environ).cache
    click.echo(f"What is found out is kept in {cache / 'kernels'}.", err=True)
    warmed = _warmed(
        {
            "models": [_model(spec) for spec in wanted],
            "cache": str(cache),
            "prefill": settings.engine.prefill_budget,
            "again": again,
        }
    )
    if as_json:
        print_json(warmed)
    else:
        print_table(_COLUMNS, [_row(found) for found in warmed])
    return int(any(found["problem"] for found in warmed))


def _chosen(settings: Settings, names: tuple[str, ...]) -> list[ModelSpec]:
    """Those of these names, or all that can be loaded, each with a strategy that says where it is computed."""
    catalogue = Catalogue(settings)
    catalogue.refresh()
    if names:
        specs = [catalogue.resolve(name) for name in names]
    else:
        specs = [spec for spec in catalogue.specs() if spec.engine == "rwkv" and not spec.problem]
    limits = ceilings(settings.memory, Host(), installed_gpus())
    gpus = {name: room for name, room in limits.items() if name != "cpu"} if computes_on_gpus() else {}
    return [settled(spec, gpus, settings.engine.prefill_budget) for spec in specs]


def _model(spec: ModelSpec) -> dict[str, Any]:
    return {"name": spec.name, "path": spec.path, "strategy": spec.strategy, "sequences": spec.max_concurrency}


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
