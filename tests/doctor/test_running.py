"""What is made of a daemon's answers."""

from typing import Any

import msgspec

from cortexd import __version__
from cortexd.doctor.running import Answers, Nobody, Stranger, daemon
from tests.doctor.made_up import levels, only

WELL = Answers(address="http://here", version=__version__, checks={"store": "ok"}, models=[], decisions=[])


def model(name: str, state: str = "ready", problem: str | None = None, error: str | None = None) -> dict[str, Any]:
    return {"id": name, "cortexd": {"state": state, "problem": problem, "error": error}}


def decision(at: float, kind: str = "degrade", reason: str = "wkv computes wrongly on cuda:0") -> dict[str, Any]:
    return {"at": at, "kind": kind, "model": "goose", "reason": reason}


def said(**answers: Any) -> list[tuple[str, str]]:
    """Beyond what a daemon says that is well."""
    found = list(daemon(msgspec.structs.replace(WELL, **answers)))
    return [(finding.level, finding.says) for finding in found if finding.level != "ok"]


def test_without_a_daemon_there_is_a_note_unless_one_was_expected():
    assert only(daemon(Nobody("http://here"))).level == "note"
    assert only(daemon(Nobody("http://here", expected=True))).level == "problem"


def test_a_daemon_elsewhere_is_known_by_its_lock():
    assert only(daemon(Nobody("http://here"), in_use=True)).level == "warning"


def test_a_stranger_at_the_address_is_a_problem():
    assert only(daemon(Stranger("http://here", "timed out"))).level == "problem"


def test_a_daemon_that_is_well_says_so():
    assert levels(daemon(WELL)) == ["ok", "ok"]


def test_a_daemon_of_another_version_is_a_warning():
    assert said(version="0.0.9") == [("warning", f"cortexd 0.0.9 answers at http://here, and this is {__version__}.")]


def test_what_is_not_ready_is_a_problem_line_by_line():
    checks = {"store": "failed", "tasks": "ok", "configuration": "first.\nsecond."}
    assert [says for _, says in said(checks=checks)] == [
        "Its store: failed.",
        "Its configuration: first.",
        "Its configuration: second.",
    ]


def test_models_that_are_damaged_or_have_failed_are_told():
    models = [model("well"), model("lying", "cold", "It is damaged."), model("goose", "failed", error="It crashed.")]
    assert said(models=models) == [
        ("warning", "lying cannot be loaded: It is damaged."),
        ("problem", "goose has failed: It crashed."),
    ]


def test_a_kernel_that_was_found_wrong_is_told_once_with_how_often():
    ((level, says),) = said(decisions=[decision(1.7e9), decision(1.6e9)])
    assert level == "warning"
    assert says.startswith("goose, degrade: wkv computes wrongly on cuda:0 (2 times in the last day, last at ")


def test_a_failure_is_not_told_twice():
    failed = model("goose", "failed", error="It crashed.")
    assert len(said(models=[failed], decisions=[decision(1.7e9, "fail", "It crashed.")])) == 1


def test_no_more_decisions_are_told_than_are_read():
    many = [decision(1.7e9, "crash", f"reason {number}") for number in range(8)]
    assert [level for level, _ in said(decisions=many)] == ["warning"] * 5 + ["note"]


def test_a_daemon_that_keeps_its_journal_to_itself_is_a_note():
    assert [level for level, _ in said(decisions=None)] == ["note"]
