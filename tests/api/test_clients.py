"""The real `openai` package against the real server, in both majors that are in use."""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import EngineDied, QueueFull, Unavailable
from cortexd.events import RequestEnded
from tests.api import client_checks
from tests.api.serving import serving
from tests.fake_engine import Reply, failing, refusing
from tests.fakes import FakeDaemon

OLDER = Path(__file__).parents[2] / ".venv" / "openai2"
PACKAGES = {3: None, 2: OLDER}


class Outcome:
    """What the checks said, and what the server saw of them."""

    def __init__(self, report: dict[str, Any], ended: list[RequestEnded]) -> None:
        self.version: str = report["version"]
        self.results: dict[str, str | None] = report["results"]
        self.requests = Counter(event.request for event in ended)
        self.statuses = {event.request: event.status for event in ended}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PACKAGES, ids=lambda major: f"openai-{major}")
async def outcome(request: pytest.FixtureRequest) -> Outcome:
    folder = PACKAGES[request.param]
    if folder is not None and not (folder / "openai").is_dir():
        pytest.fail(f"{folder} is missing; make it with: pip install --target {folder} 'openai>=2,<3'")
    specs = [ModelSpec(name=name, source="file") for name in ("goose", "org/swan", "broken")]
    daemon = FakeDaemon(*specs)
    _write_scripts(daemon)
    async with serving(daemon) as house:
        report = await _run_checks(f"http://127.0.0.1:{house.port}/v1", folder)
    return Outcome(report, daemon.all_ended)


def _write_scripts(daemon: FakeDaemon) -> None:
    daemon.script("broken").load_error = "The file is damaged."
    script = daemon.script("goose")
    refused_once = Reply(error=Unavailable("Not now."))
    script.replies = {
        "think": Reply("Yes.", thought="Let me see."),
        "refuse": refusing("The prompt is too long.", "messages"),
        "bug": Reply(error=ZeroDivisionError()),
        "full": Reply(error=QueueFull(retry_after=1.5)),
        "die": failing(EngineDied(), after="So far"),
        "endless": Reply("word ", endless=True),
        "first refused": refused_once,
    }
    refused_once.then = script.otherwise


async def _run_checks(url: str, folder: Path | None) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment["PYTHONPATH"] = str(folder or "")
    process = await asyncio.create_subprocess_exec(
        sys.executable, client_checks.__file__, url, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


@pytest.mark.parametrize("check", client_checks.checks())
def test_the_client_gets_what_it_expects(outcome: Outcome, check: str) -> None:
    assert outcome.results[check] is None, outcome.results[check]


def test_it_is_the_major_that_was_meant(outcome: Outcome, request: pytest.FixtureRequest) -> None:
    major = next(major for major in PACKAGES if f"openai-{major}" in request.node.name)
    assert outcome.version.startswith(f"{major}.")


def test_what_a_retry_cannot_cure_is_asked_once(outcome: Outcome) -> None:
    assert outcome.requests["bug-with-retries"] == 1
    assert outcome.requests["failed-with-retries"] == 1


def test_what_a_retry_may_cure_is_asked_again(outcome: Outcome) -> None:
    assert outcome.requests["retried-once"] == 2
    assert outcome.statuses["retried-once"] == 200


def test_an_aborted_stream_is_seen_to_be_one(outcome: Outcome) -> None:
    assert outcome.statuses["aborted"] == 499
