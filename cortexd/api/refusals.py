"""A failure as the client sees it: one envelope for everything that goes wrong."""

import math

import msgspec
from starlette.responses import Response

from cortexd.errors import CortexdError, StaleVersion


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str
    current: int | msgspec.UnsetType = msgspec.UNSET  # of a stale change: the version in force
    changed: tuple[str, ...] | msgspec.UnsetType = (
        msgspec.UNSET
    )  # and the keys that differ from the one it was made for


class Envelope(msgspec.Struct, frozen=True):
    error: ErrorBody


_encode = msgspec.json.Encoder().encode


def envelope(error: CortexdError) -> Envelope:
    body = ErrorBody(error.message, error.type, error.param, error.code)
    if isinstance(error, StaleVersion):
        body = msgspec.structs.replace(body, current=error.current, changed=error.changed)
    return Envelope(body)


def refusal(error: CortexdError) -> Response:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status >= 500 and not error.retry:
        headers["x-should-retry"] = "false"
    return Response(_encode(envelope(error)), error.status, headers, media_type="application/json")


def bug(request_id: str) -> CortexdError:
    """For an exception that nobody foresaw; what it was is for the log alone."""
    return CortexdError(f"cortexd has failed at this request; its log says more under {request_id}.")
