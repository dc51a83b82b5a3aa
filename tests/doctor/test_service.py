"""Units that are not there, that run, that have failed, and that are written wrongly."""

from pathlib import Path

import pytest

from cortexd.doctor.finding import Finding
from cortexd.doctor.place import Answer, ask
from cortexd.doctor.service import services
from tests.doctor.made_up import levels, only, place

RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "UnitFileState": "enabled",
    "FragmentPath": "/etc/systemd/system/cortexd.service",
    "NeedDaemonReload": "no",
    "ExecMainStatus": "0",
}
ABSENT = {**RUNNING, "LoadState": "not-found", "ActiveState": "inactive", "FragmentPath": "", "UnitFileState": ""}
SOCKET = {**RUNNING, "FragmentPath": "/etc/systemd/system/cortexd.socket", "SubState": "listening"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def shown(facts: dict[str, str]) -> Answer:
    return Answer(0, "".join(f"{name}={value}\n" for name, value in facts.items()))


def looked_at(root: Path, service: dict[str, str], socket: dict[str, str] = ABSENT, says: str = "") -> list[Finding]:
    answers = {
        "systemctl show cortexd.service": shown(service),
        "systemctl show cortexd.socket": shown(socket),
        "systemd-analyze verify": Answer(0, "", says),
    }
    return list(services(place(root, answers), "ada"))


def test_without_systemd_there_is_a_note(tmp_path: Path):
    assert only(services(place(tmp_path), "ada")).level == "note"


def test_without_a_unit_there_is_a_note(root: Path):
    assert only(looked_at(root, ABSENT)).says == "No cortexd.service is installed."


def test_without_a_systemctl_that_answers_there_is_one_too(root: Path):
    assert only(services(place(root), "ada")).level == "note"


def test_a_unit_that_runs_is_well(root: Path):
    found = looked_at(root, RUNNING, SOCKET)
    assert levels(found) == ["ok", "ok"]
    assert found[0].says == "cortexd.service is enabled and active (running)."


def test_a_unit_that_has_failed_is_a_problem_with_the_command_that_says_why(root: Path):
    found = only(looked_at(root, {**RUNNING, "ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "2"}))
    assert (found.level, "journalctl -u cortexd.service" in found.advice) == ("problem", True)


def test_a_python_that_the_unit_cannot_see_is_known_by_its_status(root: Path):
    found = only(looked_at(root, {**RUNNING, "ActiveState": "failed", "ExecMainStatus": "203"}))
    assert "/root or /home" in found.advice


def test_a_unit_that_does_not_run_waits_for_its_socket_or_for_somebody(root: Path):
    still = {**RUNNING, "ActiveState": "inactive", "SubState": "dead"}
    assert levels(looked_at(root, still, SOCKET)) == ["ok", "ok"]
    assert only(looked_at(root, still)).advice == "`systemctl start cortexd.service`."
    assert "enable --now" in only(looked_at(root, {**still, "UnitFileState": "disabled"})).advice


def test_a_unit_that_has_changed_or_cannot_be_read_is_told(root: Path):
    assert only(looked_at(root, {**RUNNING, "NeedDaemonReload": "yes"})).advice == "`systemctl daemon-reload`."
    assert only(looked_at(root, {**RUNNING, "LoadState": "bad-setting"})).level == "problem"


def test_what_systemd_says_of_our_unit_is_repeated_and_what_of_others_is_not(root: Path):
    says = "dbus.socket: Unknown key.\ncortexd.service: Command /opt/cortexd is not executable.\n"
    ours = looked_at(root, RUNNING, says=says)[1]
    assert (ours.level, "Command /opt/cortexd" in ours.says, "dbus" in ours.says) == ("warning", True, False)
    assert levels(looked_at(root, RUNNING, says="dbus.socket: Unknown key.\n")) == ["ok"]


def test_a_unit_of_a_user_needs_that_user_to_linger(root: Path):
    answers = {"systemctl --user show cortexd.service": shown(RUNNING), "systemctl show": shown(ABSENT)}
    found = list(services(place(root, answers), "ada"))
    assert [(finding.check, finding.level) for finding in found] == [
        ("user service", "ok"),
        ("user service", "warning"),
    ]
    lingering = root / "var/lib/systemd/linger/ada"
    lingering.parent.mkdir(parents=True)
    lingering.touch()
    assert levels(services(place(root, answers), "ada")) == ["ok"]


def test_a_command_that_is_not_there_or_does_not_end_gives_no_answer():
    assert ask(["/nowhere/systemctl"]) is None
    assert ask(["sleep", "60"], patience=0.01) is None
    assert ask(["sh", "-c", "echo well; echo ill >&2; exit 3"]) == Answer(3, "well\n", "ill\n")
