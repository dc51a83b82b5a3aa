"""Who may administer: a client on the same machine, and no page in its browser."""

from typing import Any

import httpx
import pytest

from cortexd.api.app import create_app
from cortexd.api.local import LocalOnly
from cortexd.cli.client import connect
from cortexd.cli.server import bind_unix, running
from cortexd.errors import Forbidden
from tests.api.serving import House, every_route
from tests.fakes import FakeDaemon


async def test_no_route_of_admin_answers_to_another_machine() -> None:
    daemon = FakeDaemon()
    app = create_app(daemon)
    transport = httpx.ASGITransport(app, client=("10.0.0.9", 5000))
    paths = [path for path, _ in every_route(app) if path.startswith("/admin")]
    assert len(paths) >= 26
    async with httpx.AsyncClient(transport=transport, base_url="http://models.example") as client:
        for path in [*paths, "/admin/", "/admin/nothing", "/admin/models/"]:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                response = await client.request(method, path.replace("{id:path}", "goose"), json={"wait": False})
                assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden"), (method, path)
        assert (await client.get("/v1/models")).status_code == 200
    assert not daemon.script().engines


async def admitted(client: Any, server: Any, **headers: str) -> bool:
    reached: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(True)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        await LocalOnly(app)({"type": "http", "client": client, "server": server, "headers": raw}, None, None)
    except Forbidden:
        assert not reached
    return bool(reached)


HERE = ("127.0.0.1", 80)


@pytest.mark.parametrize("client", [("127.0.0.1", 5), ("127.9.9.9", 5), ("::1", 5), ("::ffff:127.0.0.1", 5)])
async def test_a_client_on_loopback_is_local(client: tuple[str, int]) -> None:
    assert await admitted(client, HERE)


async def test_a_unix_socket_is_local() -> None:
    assert await admitted(None, ("/run/cortexd.sock", None))


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("10.0.0.9", 5), HERE),
        (("::ffff:10.0.0.9", 5), HERE),
        (("2001:db8::1", 5), HERE),
        (("localhost", 5), HERE),
        (("", 5), HERE),
        (None, HERE),
        (None, None),
    ],
)
async def test_whoever_is_not_known_to_be_local_is_not(client: Any, server: Any) -> None:
    assert not await admitted(client, server)


async def test_a_proxy_on_this_machine_does_not_make_its_clients_local(house: House) -> None:
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-for": "10.0.0.9"}, {"forwarded": "for=127.0.0.1"}):
        assert (await house.client.get("/admin/models", headers=headers)).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null", "http://127.0.0.1"])
async def test_a_page_of_another_origin_cannot_drive_it(house: House, origin: str) -> None:
    response = await house.client.post("/admin/models/goose/unload", headers={"origin": origin})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    crossing = {"sec-fetch-site": "cross-site"}
    assert (await house.client.post("/admin/models/goose/unload", headers=crossing)).status_code == 403
    assert (await house.client.get("/v1/models/goose")).json()["cortexd"]["state"] == "ready"


async def test_the_page_of_the_daemon_itself_can(house: House) -> None:
    own = {"origin": f"http://127.0.0.1:{house.port}"}
    assert (await house.client.post("/admin/models/goose/pin", headers=own)).status_code == 200


async def test_the_real_server_takes_its_unix_socket_for_local(tmp_path: Any) -> None:
    daemon = FakeDaemon()
    path = tmp_path / "api.sock"
    async with running(daemon, [bind_unix(path)]), connect(f"unix:{path}") as client:
        assert (await client.get("/admin/models")).status_code == 200
    await daemon.close()
