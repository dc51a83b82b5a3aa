"""What one request came to: gathered on its way, told once at its end."""

from time import perf_counter, time

from cortexd.errors import CortexdError
from cortexd.events import Chosen, RequestEnded
from cortexd.lifecycle.lease import Lease
from cortexd.wire import Usage

CLIENT_LEFT = 499


class Account:
    """Of one request that asks for answers, from its arrival."""

    def __init__(self, request_id: str, route: str) -> None:
        self.request_id = request_id
        self.model = ""  # the name in the catalogue: empty until it is known
        self.chosen: Chosen | None = None
        self.config = ""  # version of the configuration, as in the header
        self.fallback = ""  # why it is not the one in force
        self._route = route
        self._began = perf_counter()
        self._status = 200
        self._finish = ""
        self._queue_ms = 0.0
        self._load_ms = 0.0
        self._first_token_ms: float | None = None
        self._usage = Usage(0, 0)

    @property
    def elapsed_ms(self) -> float:
        return (perf_counter() - self._began) * 1000

    def granted(self, lease: Lease) -> None:
        self._queue_ms, self._load_ms = lease.queue_ms, lease.load_ms

    def first_token(self) -> None:
        if self._first_token_ms is None:
            self._first_token_ms = self.elapsed_ms

    def finished(self, finish: str | None, usage: Usage) -> None:
        self._finish, self._usage = finish or "", usage

    def failed(self, error: CortexdError) -> None:
        self._status, self._finish = error.status, error.code

    def client_left(self) -> None:
        self._status, self._finish = CLIENT_LEFT, "client_left"

    def event(self) -> RequestEnded:
        return RequestEnded(
            at=time(),
            request=self.request_id,
            model=self.model,
            chosen=self.chosen,
            config=self.config,
            fallback=self.fallback,
            route=self._route,
            status=self._status,
            finish=self._finish,
            queue_ms=round(self._queue_ms, 1),
            load_ms=round(self._load_ms, 1),
            first_token_ms=None if self._first_token_ms is None else round(self._first_token_ms, 1),
            total_ms=round(self.elapsed_ms, 1),
            prompt_tokens=self._usage.prompt_tokens,
            cached_tokens=self._usage.cached_tokens,
            completion_tokens=self._usage.completion_tokens,
        )
