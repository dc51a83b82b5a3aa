"""The real daemon as a service: its manager is a test, its socket was open before it ran."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service_manager import ServiceManager, activate

DRAIN = 1.0  # seconds


class Service:
    def __init__(self, manager: ServiceManager, process: subprocess.Popen[str], listener: socket.socket) -> None:
        self.manager = manager
        self.process = process
        self.address = "http://{}:{}".format(*listener.getsockname())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CORTEXD_")}
    for name in ("CONFIGURATION", "STATE", "CACHE", "RUNTIME"):
        (tmp_path / name).mkdir()
        env[f"{name}_DIRECTORY"] = str(tmp_path / name)
    env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    env["WATCHDOG_USEC"] = "200000"
    env["LISTEN_FDNAMES"] = "api"
    env["CORTEXD_SERVER__DRAIN_S"] = str(DRAIN)
    manager = ServiceManager(env["NOTIFY_SOCKET"], patience=30)
    arguments = [sys.executable, "-m", "cortexd", "serve", "--host", "127.0.0.1", "--port", "0"]
    with (
        manager.socket,
        socket.create_server(("127.0.0.1", 0)) as listener,
        (tmp_path / "log").open("w") as log,
        activate(arguments, [listener.fileno()], env, output=log, errors=subprocess.STDOUT) as process,
    ):
        try:
            yield Service(manager, process, listener)
        finally:
            process.kill()
            print((tmp_path / "log").read_text())  # shown when a test fails


def next_event(lines: Iterator[str]) -> str:
    """The next event's data; comments, sent while a model loads, are passed over."""
    return next(line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_a_request_from_before_the_start_is_answered_and_the_watchdog_is_fed_from_then_on(service: Service) -> None:
    with httpx.Client(base_url=service.address, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
    assert service.manager.receive_until("READY")["READY"] == "1"
    for _ in range(3):
        assert service.manager.receive_until("WATCHDOG")["WATCHDOG"] == "1"
    service.process.send_signal(signal.SIGTERM)
    assert service.manager.receive_until("STOPPING")["STOPPING"] == "1"
    assert service.process.wait(DRAIN + 10) == 0


def test_sigterm_during_a_stream_ends_it_with_an_error_and_the_daemon_within_its_deadline(service: Service) -> None:
    service.manager.receive_until("READY")
    # Token 0 ends a text: without it this one outlives every deadline.
    body = {"model": "demo", "prompt": "Once", "stream": True, "max_tokens": 32768, "logit_bias": {"0": -100}}
    with (
        httpx.Client(base_url=service.address, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        assert json.loads(next_event(lines))["choices"]
        service.process.send_signal(signal.SIGTERM)
        assert service.manager.receive_until("STOPPING")["STOPPING"] == "1"
        assert int(service.manager.receive_until("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) >= DRAIN * 1_000_000
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] == "shutting_down"
    assert service.process.wait(DRAIN + 10) == 0
