"""The commands that speak to `/admin`, against a daemon of fakes on a real socket."""

import asyncio
import contextlib
import io
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.cli import events as events_command
from cortexd.cli.client import DEFAULT_ADDRESS, connect, usual_address
from cortexd.cli.events import line_of
from cortexd.cli.load import watched
from cortexd.cli.main import run
from cortexd.cli.why import lines_of
from cortexd.errors import CannotFit, DaemonUnreachable
from cortexd.events import MemoryWarning
from tests.api.serving import House, serving, turns_until
from tests.fake_engine import Reply
from tests.fakes import FakeDaemon


class Done(NamedTuple):
    code: Any
    out: str
    err: str


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    """Two models, goose and swan, and memory for one."""
    specs = [ModelSpec(name=name, source="file", size=1_000_000) for name in ("goose", "swan")]
    async with serving(FakeDaemon(*specs, ceiling=1_500_000, residency_per_load=0.0)) as house:
        yield house


async def cortexd(house: House, *arguments: str) -> Done:
    """The command in a thread, as the console script runs it."""
    out, err = io.StringIO(), io.StringIO()
    address = ["--host", f"127.0.0.1:{house.port}"]

    def call() -> Any:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run([*arguments, *address])
            except SystemExit as end:
                return end.code

    return Done(await asyncio.to_thread(call), out.getvalue(), err.getvalue())


async def printed(house: House, *arguments: str) -> Any:
    done = await cortexd(house, *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


async def test_models_are_loaded_and_unloaded(house: House) -> None:
    assert await cortexd(house, "load", "goose") == (0, "goose: ready, 1.1 MB on cpu\n", "")
    (report,) = await printed(house, "load", "goose")
    assert report["status"]["state"] == "ready"
    assert await cortexd(house, "unload", "goose", "swan") == (0, "goose: cold\nswan: cold\n", "")
    assert house.daemon.script().engines[0].stopped


async def test_a_load_that_is_not_waited_for_says_how_far_it_is(house: House) -> None:
    house.daemon.script().loading.clear()
    assert (await cortexd(house, "load", "goose", "--no-wait")).out.startswith("goose: loading")
    house.daemon.script().loading.set()


async def test_each_of_several_models_has_its_own_outcome(house: House) -> None:
    done = await cortexd(house, "load", "goose", "crow", "jay")
    assert done.out == "goose: ready, 1.1 MB on cpu\n"
    assert done.code == 4
    assert done.err == "cortexd: There is no model 'crow'.\ncortexd: There is no model 'jay'.\n"


@pytest.mark.parametrize("action", ["load", "unload", "park", "pin", "unpin", "why"])
async def test_an_unknown_model_ends_with_its_own_code(house: House, action: str) -> None:
    assert await cortexd(house, action, "crow") == (4, "", "cortexd: There is no model 'crow'.\n")


async def test_what_cannot_fit_is_refused_with_the_arithmetic(house: House) -> None:
    assert (await cortexd(house, "pin", "goose")).code == 0
    await cortexd(house, "load", "goose")
    for command in (("load", "swan"), ("load", "swan", "--no-wait"), ("pin", "swan")):
        done = await cortexd(house, *command)
        assert done.code == 5
        assert done.err.startswith("cortexd: swan needs 1.1 MB on cpu")
        assert done.err.count("\n") == 1
    assert (await cortexd(house, "unpin", "goose")).out == "goose: ready, 1.1 MB on cpu\n"
    assert (await cortexd(house, "load", "swan")).code == 0


async def test_a_conflict_is_refused_with_its_reason(house: House) -> None:
    done = await cortexd(house, "park", "goose")
    assert (done.code, done.err) == (5, "cortexd: Only a ready model can be parked, and goose is cold.\n")
    await cortexd(house, "load", "goose")
    assert (await cortexd(house, "park", "goose")).out.startswith("goose: parked")


async def test_force_unloads_what_is_in_use(house: House) -> None:
    house.daemon.script().otherwise = Reply("word ", endless=True)
    answer = asyncio.create_task(house.chat())
    await turns_until(lambda: house.daemon.script().generations)
    assert (await cortexd(house, "unload", "goose", "--no-wait")).out == "goose: draining, 1.1 MB on cpu\n"
    assert (await cortexd(house, "unload", "goose", "--force")).out == "goose: cold\n"
    assert (await answer).status_code == 503


async def test_progress_is_shown_while_a_load_goes_on(house: House) -> None:
    house.daemon.script().loading.clear()
    seen: list[tuple[int, str, str]] = []

    def show(*shown: Any) -> None:
        seen.append(shown)
        house.daemon.script().loading.set()

    async with connect(f"127.0.0.1:{house.port}") as client:
        report = await watched(client, "goose", show)
        assert report["status"]["state"] == "ready"
        assert seen[0][:2] in ((0, "goose"), (40, "goose"))
        assert seen[-1] == (100, "goose", "")
        house.daemon.catalogue.arrives = [ModelSpec(name="roc", source="file", size=10**9)]
        with pytest.raises(CannotFit, match="roc needs 1\\.1 GB"):
            await watched(client, "roc", show)


async def test_ps_shows_what_is_held_and_for_how_long(house: House) -> None:
    assert await printed(house, "ps") == []
    await house.chat(keep_alive="5m")
    (goose,) = await printed(house, "ps")
    assert (goose["id"], goose["state"], goose["memory"]) == ("goose", "ready", {"cpu": 1_100_000})
    table = (await cortexd(house, "ps")).out
    for shown in ("goose", "ready", "fake", "cpu", "1.1 MB"):
        assert shown in table
    assert re.search("5 min 00 s|4 min 5[0-9] s", table), table


async def test_ps_shows_why_a_model_has_failed(house: House) -> None:
    house.daemon.script().load_error = "The file is damaged."
    failed = await cortexd(house, "load", "goose")
    assert (failed.code, failed.err) == (1, "cortexd: The file is damaged.\n")
    table = (await cortexd(house, "ps")).out
    assert "failed" in table
    assert "The file is damaged." in table


async def test_why_tells_the_decisions_in_their_order(house: House) -> None:
    await cortexd(house, "load", "goose")
    await cortexd(house, "load", "swan")
    told = (await cortexd(house, "why", "goose")).out
    lines = told.splitlines()
    assert "load: " in lines[0]
    assert lines[0].endswith("for admin")
    evicted = next(i for i, line in enumerate(lines) if "  evict: " in line)
    assert lines[evicted].endswith("evicted because swan needs 700.0 KB on cpu more (for admin)")
    assert lines[evicted + 1] == "    cpu: ceiling 1.5 MB, held 1.1 MB, needed 1.1 MB"
    assert lines[evicted + 2].startswith("    goose was chosen: frees 1.1 MB on cpu, cost ")
    assert (await printed(house, "why", "goose"))[0]["kind"] == "load"
    assert len(await printed(house, "why", "goose", "--limit", "1")) == 1
    assert await printed(house, "why", "goose", "--since", "99999999999") == []
    assert (await cortexd(house, "why", "goose", "--since", "99999999999")).out == "Nothing was decided about it.\n"
    assert (await cortexd(house, "why", "goose", "--since", "yesterday")).code == 1


def test_what_was_not_chosen_says_why_not() -> None:
    at = {"ceiling": 8e9, "resident": 5e9, "reserved": 1e9, "debt": 5e8, "foreign": 1e9, "needed": 1.2e9}
    swan = {"model": "swan", "frees": {"cpu": 1.2e9}, "cost": 0.3, "why_not": "in use by 2", "chosen": False}
    jay = {"model": "jay", "frees": {}, "cost": None, "why_not": "", "chosen": False}
    decision = {"at": 0, "kind": "queue", "reason": "it waits", "owner": None, "memory": {"cpu": at}}
    _, arithmetic, *others = lines_of({**decision, "weighed": [swan, jay]})
    assert arithmetic == (
        "    cpu: ceiling 8.0 GB, held 6.5 GB, 1.0 GB of it for loads under way, 500.0 MB of it on its way back, "
        "other programs 1.0 GB, needed 1.2 GB"
    )
    assert others == [
        "    swan would have freed 1.2 GB on cpu, cost 0.3: in use by 2",
        "    jay would have freed nothing",
    ]


async def test_a_plan_is_told_step_by_step(house: House) -> None:
    await cortexd(house, "load", "goose")
    lines = (await cortexd(house, "plan", "load", "swan")).out.splitlines()
    assert lines[0] == "evict goose: swan needs 700.0 KB on cpu more"
    assert lines[1].startswith("load swan: there is room for it (about ")
    assert "needed: 1.1 MB on cpu" in lines
    assert (await cortexd(house, "plan", "load", "goose")).out.startswith("nothing to do for goose: it is ready\n")
    assert (await printed(house, "plan", "load", "swan"))["model"] == "swan"
    assert (await cortexd(house, "plan", "unload", "swan")).code == 2


async def test_memory_is_told_by_device_and_by_model(house: House) -> None:
    await cortexd(house, "load", "goose")
    told = (await cortexd(house, "memory")).out
    for shown in ("1.5 MB", "1.1 MB", "400.0 KB", "1.1 MB on cpu", "it may go"):
        assert shown in told
    assert (await printed(house, "memory"))["devices"]["cpu"]["free"] == 400_000


async def test_without_a_daemon_every_command_says_how_to_start_one() -> None:
    class Nowhere:
        port = 1

    for command in (("load", "a", "b"), ("unload", "a"), ("ps",), ("why", "a"), ("memory",), ("events",)):
        done = await cortexd(Nowhere(), *command)
        assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
        assert "cortexd serve" in done.err


@contextlib.asynccontextmanager
async def following(house: House, as_json: bool = False, **query: str) -> AsyncGenerator[io.StringIO]:
    """`cortexd events`, listening already."""
    out = io.StringIO()
    connections = house.server.server_state.connections
    with contextlib.redirect_stdout(out):
        following = asyncio.create_task(events_command.follow(f"127.0.0.1:{house.port}", query, as_json))
        await turns_until(lambda: any(each.cycle and each.cycle.response_started for each in connections))
        yield out
        following.cancel()
        await asyncio.wait([following])


async def test_events_are_one_line_each(house: House) -> None:
    async with following(house) as out:
        await house.chat()
        await turns_until(lambda: "tokens" in out.getvalue())
    assert "goose: queued → loading (" in out.getvalue()
    assert "goose: load: " in out.getvalue()
    assert "goose: 200 stop in " in out.getvalue()


async def test_events_are_json_lines_of_the_kinds_that_are_wanted(house: House) -> None:
    async with following(house, as_json=True, kind="RequestEnded", model="goose") as out:
        await house.chat()
        await turns_until(lambda: "\n" in out.getvalue())
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["RequestEnded"]


async def test_events_are_followed_over_a_lost_connection(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_command, "AGAIN_S", 0.0)
    publish, connections = house.daemon.events.publish, house.server.server_state.connections

    def warn(reason: str) -> None:
        publish(MemoryWarning(at=1.0, device="cpu", used=9, ceiling=10, reason=reason))

    async with following(house) as out:
        warn("one")
        await turns_until(lambda: "one" in out.getvalue())
        for connection in tuple(connections):
            connection.transport.abort()
        warn("two")
        await turns_until(lambda: "two" in out.getvalue())
    assert [line.rpartition(" ")[2] for line in out.getvalue().splitlines()] == ["one", "two"]


async def test_events_need_a_daemon_to_begin_with() -> None:
    with pytest.raises(DaemonUnreachable, match="cortexd serve"):
        await events_command.follow("127.0.0.1:1", {}, False)


def test_a_gap_is_told_as_it_is() -> None:
    assert line_of("gap", {"event": "gap", "reason": "Events are missing."}) == "gap: Events are missing."


def test_commands_find_a_daemon_where_the_configuration_puts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cortexd").mkdir()
    (tmp_path / "cortexd" / "cortexd.toml").write_text('[server]\nhost = "0.0.0.0"\nport = 18777\n')
    assert usual_address() == "http://127.0.0.1:18777"
    monkeypatch.setenv("CORTEXD_SERVER__PORT", "18778")
    assert usual_address() == "http://127.0.0.1:18778"
    (tmp_path / "cortexd" / "cortexd.toml").write_text("[server\n")
    assert usual_address() == DEFAULT_ADDRESS
