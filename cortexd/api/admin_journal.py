"""What was decided, and why."""

import math
from time import time
from typing import get_args

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from cortexd.api.bodies import json_response
from cortexd.daemon import Daemon
from cortexd.durations import seconds_of
from cortexd.errors import BadRequest, UnknownModel
from cortexd.events import DecisionKind

DECISIONS: tuple[str, ...] = get_args(DecisionKind)
_USUAL_ROWS, _MOST_ROWS = 100, 1000
_MOST_ID = 2**63 - 1


class JournalEndpoint:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def rows(self, request: Request) -> Response:
        """The newest decisions that fit, newest first; `before` is the id of the last one seen."""
        asked = request.query_params
        name = None if "model" not in asked else name_of(self._daemon, asked["model"])
        limit = whole(asked, "limit", _MOST_ROWS)
        decisions = await self._daemon.journal.query(
            model=name,
            kinds=one_of(asked, "kind", DECISIONS),
            since=_since(asked),
            before_id=whole(asked, "before", _MOST_ID),
            limit=_USUAL_ROWS if limit is None else limit,
        )
        if name is not None and not decisions:
            self._daemon.catalogue.resolve(name)  # raises UnknownModel
        return json_response({"decisions": decisions})


def name_of(daemon: Daemon, written: str) -> str:
    """The name behind an alias; one that is not in the catalogue stands for itself, since what was removed has a history."""
    try:
        return daemon.catalogue.resolve(written).name
    except UnknownModel:
        return written


def one_of(asked: QueryParams, name: str, known: tuple[str, ...]) -> list[str] | None:
    """The values of a parameter that may be repeated or hold several between commas; None: it is not given."""
    given = [value for values in asked.getlist(name) for value in values.split(",") if value]
    if any(value not in known for value in given):
        raise BadRequest(f"{name} must be one of {', '.join(known)}.", param=name)
    return given or None


def whole(asked: QueryParams, name: str, most: int) -> int | None:
    written = asked.get(name)
    if written is None:
        return None
    if written.isascii() and written.isdigit() and len(written) < 20 and 1 <= int(written) <= most:
        return int(written)
    raise BadRequest(f"{name} must be a whole number from 1 to {most}.", param=name)


def _since(asked: QueryParams) -> float | None:
    """Seconds since the epoch; a number is that, a duration goes back from now."""
    written = asked.get("since")
    if written is None:
        return None
    try:
        try:
            since = float(written)
        except ValueError:
            since = time() - seconds_of(written)
    except ValueError:
        since = math.nan
    if not math.isfinite(since):
        raise BadRequest("since must be seconds since the epoch or a duration back from now: 90s, 1h.", param="since")
    return since
