import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from cortexd.config import Settings
from cortexd.systemd import Notifier, consume_environment, listen_sockets, watchdog_interval
from tests.service_manager import ServiceManager, activate

UNITS = Path(__file__).parents[1] / "systemd"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@cortexd-test-{os.getpid()}"
    manager = ServiceManager(address)
    with manager.socket:
        yield manager


@pytest.fixture
def notifier(manager: ServiceManager) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": manager.address})


@pytest.mark.parametrize(
    ("tell", "heard"),
    [
        (lambda n: n.ready("2 models, none loaded"), {"READY": "1", "STATUS": "2 models, none loaded"}),
        (lambda n: n.status("loading goose"), {"STATUS": "loading goose"}),
        (lambda n: n.stopping("draining"), {"STOPPING": "1", "STATUS": "draining"}),
        (lambda n: n.extend_timeout(12.5), {"EXTEND_TIMEOUT_USEC": "12500000"}),
        (lambda n: n.watchdog(), {"WATCHDOG": "1"}),
    ],
    ids=["ready", "status", "stopping", "extend_timeout", "watchdog"],
)
def test_the_manager_hears_what_is_said(
    manager: ServiceManager, notifier: Notifier, tell: Callable[[Notifier], bool], heard: dict[str, str]
) -> None:
    assert tell(notifier)
    assert manager.receive() == heard


def test_a_reload_says_when_it_began(manager: ServiceManager, notifier: Notifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    heard = manager.receive()
    assert heard["RELOADING"] == "1"
    assert before <= int(heard["MONOTONIC_USEC"]) <= after


def test_a_status_cannot_smuggle_in_another_assignment(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.status("loading a\nMAINPID=1\r\nWATCHDOG=trigger")
    assert manager.receive() == {"STATUS": "loading a MAINPID=1 WATCHDOG=trigger"}


def test_a_status_may_be_any_text(manager: ServiceManager, notifier: Notifier) -> None:
    notifier.status("ガチョウ \ud800")
    assert manager.receive() == {"STATUS": "ガチョウ ?"}


def _fill(noise: socket.socket, manager: ServiceManager) -> int:
    """As many messages as one sender can send: 0 where there is no more room."""
    noise.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while noise.sendto(b"STATUS=noise", manager.socket.getsockname()):
            sent += 1
    return sent


def test_a_full_socket_loses_the_message_and_never_the_daemon(manager: ServiceManager, notifier: Notifier) -> None:
    with contextlib.ExitStack() as open_until_here:
        while _fill(open_until_here.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)), manager):
            pass  # where systemd runs, more fits into a socket than one sender may have under way
    answers: list[bool] = []
    telling = threading.Thread(target=lambda: answers.append(notifier.watchdog()), daemon=True)
    telling.start()
    telling.join(10)
    assert answers == [False]
    manager.receive()
    assert notifier.watchdog()


def test_no_descriptor_stays_open_after_a_message(manager: ServiceManager, notifier: Notifier) -> None:
    before = os.listdir("/proc/self/fd")
    assert notifier.watchdog()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("address", ["", "/nonexistent/notify", "@nobody-listens", "/" + "x" * 200, "vsock:2:9"])
def test_an_unreachable_manager_is_reported_not_raised(address: str) -> None:
    assert not Notifier.from_environment({"NOTIFY_SOCKET": address}).ready("up")


def test_without_a_manager_nothing_is_said() -> None:
    assert not Notifier.from_environment({}).ready("up")


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "30s"}, None),
        ({"WATCHDOG_USEC": "٣٠"}, None),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(env: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(env) == seconds


ACTIVATED = """
import json, os, subprocess, sys
from cortexd.systemd import consume_environment, listen_sockets

sockets = listen_sockets(os.environ)
consume_environment()
for listener in sockets.get("api", []):
    connection, _ = listener.accept()
    connection.sendall(b"served")
    connection.close()
probe = "import os\\ntry: os.fstat(3)\\nexcept OSError: print('closed')"
worker = subprocess.run([sys.executable, "-c", probe], close_fds=False, capture_output=True, text=True)
json.dump({
    "sockets": {name: [[s.family.name, s.type.name, s.fileno()] for s in group] for name, group in sockets.items()},
    "environment": [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))],
    "fd 3 of a worker": worker.stdout.strip(),
}, sys.stdout)
"""


def activated(*passed: int, **env: str) -> tuple[int, str, str]:
    """Exit status and output of ACTIVATED, run as a service manager would."""
    with activate([sys.executable, "-c", ACTIVATED], passed, env) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()
        yield listener


def test_sockets_arrive_by_name_and_serve_who_connected_before(tcp: socket.socket, unix: socket.socket) -> None:
    with (
        socket.create_connection(tcp.getsockname()) as early,
        socket.socket(socket.AF_UNIX) as other,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        other.connect(unix.getsockname())
        passed = [tcp.fileno(), admin.fileno(), unix.fileno()]
        names = {"LISTEN_FDNAMES": "api:admin:api"}
        _, out, err = activated(*passed, **names, NOTIFY_SOCKET="/run/notify", WATCHDOG_USEC="1000000")
        assert err == ""
        assert early.recv(100) == b"served"
        assert other.recv(100) == b"served"
    assert json.loads(out) == {
        "sockets": {
            "api": [["AF_INET", "SOCK_STREAM", 3], ["AF_UNIX", "SOCK_STREAM", 5]],
            "admin": [["AF_INET", "SOCK_STREAM", 4]],
        },
        "environment": [],
        "fd 3 of a worker": "closed",
    }


def test_a_socket_without_a_name_is_called_unknown(tcp: socket.socket, unix: socket.socket) -> None:
    _, out, _ = activated(tcp.fileno(), unix.fileno(), LISTEN_FDNAMES="admin")
    assert json.loads(out)["sockets"] == {
        "admin": [["AF_INET", "SOCK_STREAM", 3]],
        "unknown": [["AF_UNIX", "SOCK_STREAM", 4]],
    }


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("file", "socket operation on non-socket"),
        ("connection", "does not listen"),
        ("missing", "bad file descriptor"),
    ],
)
def test_what_cannot_be_served_is_refused_with_advice(tmp_path: Path, kind: str, problem: str) -> None:
    left, right = socket.socketpair()
    with left, right, (tmp_path / "file").open("w") as file:
        passed = {"file": [file.fileno()], "connection": [left.fileno()], "missing": []}[kind]
        status, _, err = activated(*passed, LISTEN_FDS="1", LISTEN_FDNAMES="api")
    assert status == 1
    assert f"file descriptor 3 ('api') from the service manager cannot be served: {problem}; pass" in err


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "one", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_descriptors_meant_for_nobody_or_another_process_are_left_alone(env: dict[str, str]) -> None:
    assert listen_sockets(env) == {}


def test_the_environment_is_taken_once_and_the_rest_of_it_stays() -> None:
    taken = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "5", "LISTEN_FDS": "1", "LISTEN_PID": "7"}
    env = {**taken, "HOME": "/root", "STATE_DIRECTORY": "/var/lib/cortexd"}
    assert consume_environment(env) == taken
    assert env == {"HOME": "/root", "STATE_DIRECTORY": "/var/lib/cortexd"}
    assert consume_environment(env) == {}


def copied_units(folder: Path) -> Path:
    """The units as installed, but for a program that exists on every machine."""
    for unit in ("cortexd.service", "cortexd.socket"):
        text = (UNITS / unit).read_text()
        (folder / unit).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    return folder


def analyze(*arguments: str, folder: Path) -> tuple[int, str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def complaints(folder: Path) -> str:
    """What `verify` says, which is the verdict: its exit status is 0 for keys and values it does not know."""
    return analyze("verify", "--man=no", "./cortexd.service", "./cortexd.socket", folder=folder)[1]


def test_the_units_are_verified_in_silence(tmp_path: Path) -> None:
    assert complaints(copied_units(tmp_path)) == ""


def test_verification_notices_a_key_that_does_not_exist(tmp_path: Path) -> None:
    with (copied_units(tmp_path) / "cortexd.socket").open("a") as unit:
        unit.write("[Socket]\nListenSteam=1\n")
    assert "ListenSteam" in complaints(tmp_path)


def test_every_drop_in_of_the_readme_is_verified_in_silence(tmp_path: Path) -> None:
    copied_units(tmp_path)
    drop_ins = re.findall(
        r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", (UNITS / "README.md").read_text(), flags=re.DOTALL
    )
    assert len(drop_ins) >= 4
    for name, text in drop_ins:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert complaints(tmp_path) == ""


def test_the_service_is_exposed_no_more_than_its_work_asks_for(tmp_path: Path) -> None:
    status, report = analyze(
        "security", "--offline=yes", "--threshold=20", "./cortexd.service", folder=copied_units(tmp_path)
    )
    assert status == 0, report
    assert "OK" in report.splitlines()[-1]


def setting(unit: str, section: str, key: str) -> str:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.read(UNITS / unit)
    return parser[section][key]


def test_the_socket_is_the_one_that_the_daemon_looks_for() -> None:
    server = Settings().server
    assert setting("cortexd.socket", "Socket", "ListenStream") == f"{server.host}:{server.port}"
    assert setting("cortexd.socket", "Socket", "FileDescriptorName") == "api"


def test_the_manager_is_more_patient_than_the_daemon_drains() -> None:
    assert float(setting("cortexd.service", "Service", "TimeoutStopSec")) > Settings().server.drain_s + 10
