from typing import Any

import msgspec
import pytest

from cortexd.canaries import Canaries, without
from cortexd.config import Settings, settings_from_document
from cortexd.events import Chosen, RequestEnded
from cortexd.lifecycle.trial import Verdict


def settings(to: Any = None, **keys: Any) -> Settings:
    alias = {"name": "Chat", "to": to or {"goose@1": 90, "goose@2": 10}, **keys}
    return settings_from_document({"alias": [alias]})


def ended(target: str, *, alias: str = "chat", status: int = 200, number: int = 0, **fields: Any) -> RequestEnded:
    said: dict[str, Any] = {"finish": "stop", "queue_ms": 0.0, "first_token_ms": 10.0, **fields}
    return RequestEnded(
        at=0.0, request="r", model=target, chosen=Chosen(alias, target, f"{target} {number}"),
        route="/v1/chat/completions", status=status, total_ms=20.0, prompt_tokens=1, completion_tokens=1, **said,
    )  # fmt: skip


@pytest.fixture
def taken() -> list[tuple[str, Verdict]]:
    return []


@pytest.fixture
def canaries(taken: list[tuple[str, Verdict]]) -> Canaries:
    canaries = Canaries(lambda alias, verdict: taken.append((alias, verdict)))
    canaries.adopt(settings())
    return canaries


def test_a_target_that_cannot_be_loaded_is_taken_away_at_once(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    canaries.note(ended("goose@1"))
    assert not taken
    canaries.note(ended("goose@2", status=503, finish="model_load_failed", first_token_ms=None))
    ((alias, verdict),) = taken
    assert (alias, verdict.target, verdict.cause) == ("chat", "goose@2", "load")


def test_one_that_falls_back_to_what_it_was_could_not_be_loaded(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    canaries.note(ended("goose@2", config="3; fallback=2", fallback="loading"))
    assert not taken
    canaries.note(ended("goose@2", config="3; fallback=2", fallback="failed"))
    assert [verdict.cause for _, verdict in taken] == ["load"]


def test_one_that_breaks_its_streams_off_is_found(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    for number in range(200):
        canaries.note(ended("goose@1", number=number))
        canaries.note(ended("goose@2", number=number, finish="engine_died" if number % 3 == 0 else "stop"))
    ((_, verdict),) = taken
    assert verdict.cause == "failures"


def test_loads_and_queues_do_not_make_it_slow(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    for number in range(400):
        canaries.note(ended("goose@1", number=number))
        canaries.note(ended("goose@2", number=number, first_token_ms=510.0, load_ms=400.0, queue_ms=100.0))
    assert not taken


def test_one_that_is_slow_is_found(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    for number in range(200):
        canaries.note(ended("goose@1", number=number, first_token_ms=100.0 + number % 17))
        canaries.note(ended("goose@2", number=number, first_token_ms=200.0 + number % 13))
    ((_, verdict),) = taken
    assert verdict.cause == "first_token"


@pytest.mark.parametrize(
    "other",
    [
        settings("goose@2"),
        settings({"goose@1": 90, "goose@2": 0}),
        settings(revert=False),
        msgspec.structs.replace(settings(), alias=()),
    ],
    ids=["one target", "no weight", "revert off", "no alias"],
)
def test_what_leads_to_one_target_or_shall_stay_is_not_on_trial(
    canaries: Canaries, taken: list[tuple[str, Verdict]], other: Settings
):
    canaries.adopt(other)
    canaries.note(ended("goose@2", status=503, finish="model_load_failed"))
    assert not taken


def test_a_trial_goes_on_when_other_settings_change_and_begins_anew_when_its_weights_do(
    canaries: Canaries, taken: list[tuple[str, Verdict]]
):
    canaries.note(ended("goose@2", load_ms=5.0))  # it has loaded once
    canaries.adopt(settings())
    canaries.note(ended("goose@2", status=503, finish="model_load_failed", first_token_ms=None))
    assert not taken
    canaries.adopt(settings({"goose@1": 80, "goose@2": 20}))
    canaries.note(ended("goose@2", status=503, finish="model_load_failed", first_token_ms=None))
    assert len(taken) == 1


def test_requests_by_plain_names_are_no_evidence(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    event = msgspec.structs.replace(ended("goose@2", status=503, finish="model_load_failed"), chosen=None)
    canaries.note(event)
    assert not taken


def test_a_verdict_is_told_once(canaries: Canaries, taken: list[tuple[str, Verdict]]):
    for _ in range(3):
        canaries.note(ended("goose@2", status=503, finish="model_load_failed", first_token_ms=None))
    assert len(taken) == 1


def test_what_is_taken_away_gets_no_sessions_and_the_rest_is_as_it_was():
    document = msgspec.to_builtins(settings())
    after = settings_from_document(without(document, "chat", "goose@2"))
    assert after.alias[0].weights == {"goose@1": 90, "goose@2": 0}
    assert msgspec.structs.replace(after, alias=settings().alias) == settings()
