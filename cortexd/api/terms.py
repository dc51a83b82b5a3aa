"""On what terms a change of the configuration is asked for: made for which version, by whom, why, for how long."""

import math
import re
from typing import Any

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from cortexd.api.admin_config_schema import TermsInBody
from cortexd.api.admin_models import author_of
from cortexd.config import Settings, content_hash
from cortexd.configuration import Configuration
from cortexd.durations import seconds_of
from cortexd.errors import BadRequest, PreconditionRequired, StaleVersion
from cortexd.store.snapshot import Origin, Source

TERMS = ("dry_run", "confirm_within", "reason")

_TAG = re.compile(r'"v(0|[1-9][0-9]{0,17})-([0-9a-f]{12})"')
_LONGEST_TRIAL = 7 * 86400.0  # seconds
_LONGEST_REASON = 1000  # characters
_NO_REASON: dict[Source, str] = {"api": "by the admin API", "cli": "by the command line"}


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    expected: int | None  # the version that the change is made for; None: whichever is in force
    author: str
    reason: str
    source: Source
    confirm_within: float | None  # seconds
    dry_run: bool

    @property
    def origin(self) -> Origin:
        return Origin(author=self.author, reason=self.reason, source=self.source)


def terms_of(
    request: Request, configuration: Configuration[Any], *names: str, body: TermsInBody | None = None
) -> Terms:
    """What `body` says, else what the query says, which may hold `names` alone. Raises BadRequest, PreconditionRequired,
    StaleVersion.
    """
    asked = query_of(request, *names)
    body = body or TermsInBody()
    within = asked.get("confirm_within") if body.confirm_within is None else body.confirm_within
    source: Source = "cli" if request.headers.get("x-cortexd-source") == "cli" else "api"
    return Terms(
        expected=_expected(request.headers, configuration),
        author=author_of(request),
        reason=_reason(body.reason or asked.get("reason", "")) or _NO_REASON[source],
        source=source,
        confirm_within=None if within is None else _trial(within),
        dry_run=flag(asked, "dry_run") if body.dry_run is None else body.dry_run,
    )


def query_of(request: Request, *known: str) -> QueryParams:
    """The query, each of whose names is known: a misspelt `dry_run` must not become a change. Raises BadRequest."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            choice = f"known here are {', '.join(known)}" if known else "nothing is to be asked for here"
            raise BadRequest(f"The URL asks for something unknown; {choice}.")
        if names.count(name) > 1:
            raise BadRequest(f"{name} is given more than once.", param=name)
    return request.query_params


def flag(asked: QueryParams, name: str) -> bool:
    written = asked.get(name, "false").lower()
    if written not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} must be true or false.", param=name)
    return written in ("true", "1")


def entity_tag(version: int | None, document: Settings) -> str:
    return f'"v{version or 0}-{content_hash(document)[:12]}"'


def matches(headers: Headers, tag: str) -> bool:
    """Whether the client has this already, as `If-None-Match` says."""
    known = [each.strip().removeprefix("W/") for each in ",".join(headers.getlist("if-none-match")).split(",")]
    return tag in known or "*" in known


def _expected(headers: Headers, configuration: Configuration[Any]) -> int | None:
    if "if-match" not in headers:
        raise PreconditionRequired(
            "If-Match is missing; give the ETag of GET /admin/config, or * to change whatever is in force."
        )
    written = [each.strip() for each in ",".join(headers.getlist("if-match")).split(",")]
    if written == ["*"]:
        return None
    tags = [_TAG.fullmatch(each) for each in written]
    in_force = entity_tag(configuration.version, configuration.document)
    current = configuration.version or 0
    if in_force in written and all(tags):
        return current
    versions = [int(tag[1]) for tag in tags if tag is not None]
    if len(versions) < len(tags):
        raise BadRequest(f"If-Match must be * or the ETag of GET /admin/config, such as {in_force}.")
    # The same number with another content: the database is not the one that the client knew.
    if current in versions:
        raise StaleVersion(
            f"Version {current} of the configuration, which is in force, is not what it was when it was read; the database "
            "was replaced.",
            current=current,
        )
    return max(versions)


def _reason(written: str) -> str:
    reason = " ".join(written.split())
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise BadRequest(f"reason must be text of at most {_LONGEST_REASON} characters.", param="reason")
    return reason


def _trial(written: Any) -> float:
    try:
        seconds = seconds_of(written) if isinstance(written, str) else float(written)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_TRIAL:
        raise BadRequest(
            'confirm_within must be a number of seconds or a duration such as "2m", at most seven days.',
            param="confirm_within",
        )
    return seconds
