"""`cortexd session` against a daemon of fakes, with real files, on a real socket."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cortexd.cli.events import line_of
from tests.api.serving import House
from tests.cli.test_admin_commands import cortexd, printed
from tests.session_states import leave, serving_sessions


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with serving_sessions(tmp_path) as house:
        yield house


async def test_sessions_are_listed_and_removed(house: House, tmp_path: Path) -> None:
    size = leave(tmp_path, "a/b [/red]")
    leave(tmp_path, "chat", tenant="ada")
    assert {it["session"] for it in await printed(house, "session", "list")} == {"a/b [/red]", "chat"}
    table = (await cortexd(house, "session", "list")).out
    assert any(line.split()[:6] == ["a/b", "[/red]", "goose", "2", "4", str(size)] for line in table.splitlines())
    assert await cortexd(house, "session", "rm", "a/b [/red]") == (0, "a/b [/red]: removed\n", "")
    assert await cortexd(house, "session", "rm", "chat") == (4, "", "cortexd: There is no session chat.\n")
    assert await cortexd(house, "session", "rm", "chat", "--tenant", "ada") == (0, "chat: removed\n", "")
    assert await printed(house, "session", "list") == []


def test_a_session_that_is_lost_is_told_with_its_reason() -> None:
    line = line_of("SessionLost", {"session": "chat", "tenant": "", "model": "goose", "reason": "no more room"})
    assert line == "goose: session chat: no more room"
