"""Every way a request can fail, as one tree. The docstring is the default message; the class carries the HTTP status.

Bugs are not in this tree: they are assertions and `RuntimeError`, and reach a client as 500 with a request id.
"""

from collections.abc import Sequence
from typing import ClassVar


class CortexdError(Exception):
    """The request failed."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    # False where repeating the same request cannot help: client libraries repeat every 5xx by themselves.
    retry: ClassVar[bool] = False

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message or type(self).__doc__)
        self.param = param
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self)


class BadRequest(CortexdError):
    """The request is malformed."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextExceeded(BadRequest):
    """The prompt is longer than the model's limit."""

    code = "context_length_exceeded"


class InvalidBundle(BadRequest):
    """The bundle of snapshots is damaged or incomplete."""

    code = "invalid_bundle"


class Forbidden(CortexdError):
    """The request is not allowed."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class UnknownModel(CortexdError):
    """No such model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownState(CortexdError):
    """No such state-tuned initial state."""

    status = 404
    type = "invalid_request_error"
    code = "state_not_found"


class UnknownSession(CortexdError):
    """No such session."""

    status = 404
    type = "invalid_request_error"
    code = "session_not_found"


class UnknownRoute(CortexdError):
    """No such URL."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(CortexdError):
    """This URL does not take that method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class UnknownVersion(CortexdError):
    """No such version of the configuration."""

    status = 404
    type = "invalid_request_error"
    code = "version_not_found"


class StaleVersion(CortexdError):
    """The configuration has changed since it was read."""

    status = 412
    type = "invalid_request_error"
    code = "stale_version"

    def __init__(self, message: str | None = None, *, current: int, changed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.current = current  # the version in force
        self.changed = tuple(changed)  # the keys that differ from the version the writer knew


class BodyTooLarge(CortexdError):
    """The request body is too large."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class QueueFull(CortexdError):
    """Too many requests wait for this model; try again in a moment."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry = True


class Unavailable(CortexdError):
    """The model cannot answer now."""

    status = 503
    type = "server_error"
    code = "unavailable"
    retry = True


class EngineDied(Unavailable):
    """The process that ran the model ended before the answer was complete; the next request starts it again."""

    code = "engine_died"


class ModelFault(CortexdError):
    """The model computed something that cannot be an answer."""

    code = "model_error"


class ShuttingDown(Unavailable):
    """cortexd is shutting down."""

    code = "shutting_down"


class LoadFailed(Unavailable):
    """The model could not be loaded."""

    code = "model_load_failed"
    retry = False


class CannotFit(CortexdError):
    """The model needs more memory than the budget has."""

    status = 507
    code = "model_too_large"


class Conflict(CortexdError):
    """The model is in use."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class UnsupportedCheckpoint(LoadFailed):
    """The checkpoint is damaged or of a kind that cortexd does not run."""

    code = "unsupported_checkpoint"


class StoreFailed(CortexdError):
    """The database does not work at the moment."""

    status = 503
    code = "storage_failed"


class StoreInUse(StoreFailed):
    """Another cortexd uses this database."""

    code = "storage_in_use"


class StoreFull(StoreFailed):
    """There is no room left for the database to grow."""

    status = 507
    code = "storage_full"


class InvalidConfiguration(CortexdError):
    """The configuration is not valid."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_configuration"


class PreconditionRequired(CortexdError):
    """The change has to say which version of the configuration it was made for."""

    status = 428
    type = "invalid_request_error"
    code = "precondition_required"


class DaemonUnreachable(CortexdError):
    """No cortexd daemon answers; start one with `cortexd serve`."""
