"""The check of the Host header, by the address at which a connection came in."""

from typing import Any

import pytest

from cortexd.api.gate import Gate


async def status_of(local: tuple[str, int | None] | None, host: str) -> int:
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"host", host.encode())] if host else []
    scope = {"type": "http", "method": "GET", "path": "/", "server": local, "headers": headers}
    await Gate(app, "127.0.0.1")(scope, None, send)
    return statuses[0]


@pytest.mark.parametrize("local", [("127.0.0.1", 80), ("127.0.0.9", 80), ("::1", 80), ("::ffff:127.0.0.1", 80)])
async def test_a_connection_over_loopback_must_mean_this_machine(local: tuple[str, int]) -> None:
    assert await status_of(local, "evil.example") == 403
    assert await status_of(local, "localhost") == 200
    assert await status_of(local, "") == 200  # no browser is silent about it


@pytest.mark.parametrize("local", [("10.0.0.5", 80), ("2001:db8::1", 80), ("/run/cortexd.sock", None), None])
async def test_a_connection_from_elsewhere_may_know_this_machine_by_any_name(local: Any) -> None:
    assert await status_of(local, "models.example") == 200
