"""`cortexd doctor`."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import httpx
from rich.text import Text

from cortexd.cli.client import connect, raise_for_error, usual_address
from cortexd.cli.options import config_option, host_option, json_option
from cortexd.cli.output import print_json, print_table
from cortexd.doctor.finding import Finding
from cortexd.doctor.place import Place
from cortexd.doctor.running import KINDS, SINCE, Answers, Heard, Nobody, Stranger
from cortexd.errors import CortexdError
from cortexd.memory.nvidia import installed_gpus

_PATIENCE = 5.0  # seconds for an answer that costs a daemon nothing
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


@click.command()
@host_option
@config_option
@json_option
def doctor(address: str | None, config: Path | None, as_json: bool) -> int:
    """Say what is wrong with this installation, and what to do about it.

    Works with a daemon and without one; what it says belongs into a report of a bug. Warnings are about what works, but not as well
    as it could; the exit code is 1 where there is a problem.
    """
    from cortexd.doctor.examination import (
        examine,
    )  # which knows all parts, and `cortexd --help` asks only for the first line

    heard = asyncio.run(_heard(address, config))
    found = list(examine(Place(environment=os.environ, file=config), heard, installed_gpus()))
    if as_json:
        print_json(found)
    else:
        print_table(("", "WHAT", "HOW IT IS"), [_row(finding) for finding in found])
        click.echo()
        click.echo(_summary(found))
    return int(any(finding.level == "problem" for finding in found))


async def _heard(address: str | None, config: Path | None) -> Heard:
    place = address or usual_address(config)
    try:
        async with connect(place) as client:
            return await _asked(client, place)
    except httpx.ConnectError:
        return Nobody(place, expected=address is not None)
    except httpx.TransportError as error:
        return Stranger(place, str(error) or type(error).__name__)
    except (CortexdError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        return Stranger(place, str(error).rstrip("."))


async def _asked(client: httpx.AsyncClient, place: str) -> Heard:
    version = await _json(client, "/version")
    ready = await client.get("/readyz", timeout=_PATIENCE)  # 503 has a body too
    models = await _json(client, "/v1/models")
    try:
        decisions = (await _json(client, "/admin/journal", kind=",".join(KINDS), since=SINCE))["decisions"]
    except CortexdError:  # it is on another machine, or its database cannot be read
        decisions = None
    return Answers(
        address=place,
        version=version["version"],
        checks=ready.json()["checks"],
        models=models["data"],
        decisions=decisions,
    )


async def _json(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    response = await client.get(path, params=query, timeout=_PATIENCE)
    await raise_for_error(response)
    return response.json()


def _row(finding: Finding) -> tuple[Text, str, str]:
    says = f"{finding.says} {finding.advice}".rstrip()
    return Text(finding.level, _STYLES[finding.level]), finding.check, says


def _summary(found: Sequence[Finding]) -> str:
    count = Counter(finding.level for finding in found)
    parts = [
        f"{count[level]} {level}{'' if count[level] == 1 else 's'}" for level in ("problem", "warning") if count[level]
    ]
    return f"{' and '.join(parts)}." if parts else "Nothing is wrong."
