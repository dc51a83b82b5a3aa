"""`cortexd config set`, `rollback`, `confirm` and `import`: shown, asked about, made for what was shown."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.configured import MERGE, Office, configured
from tests.cli.admin import Terminal, config, no_configuration_elsewhere, printed, somebody_says


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Office]:
    no_configuration_elsewhere(tmp_path, monkeypatch)
    monkeypatch.setenv("LOGNAME", "zoë")
    monkeypatch.setattr("sys.stdin", Terminal())  # nobody types anything
    async with configured(tmp_path) as office:
        yield office


async def document(office: Office) -> dict[str, Any]:
    return (await office.client.get("/admin/config")).json()["document"]


async def test_keys_are_set_and_the_way_back_is_said(office: Office) -> None:
    done = await config(office, "set", "lifecycle.keep_alive=10m", "model.goose.pin=true", "--yes", "--reason", "tests")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "lifecycle.keep_alive: 5m → 10m",
        "model.goose.pin: false → true",
        "Version 2 is in force.",
        "To go back: cortexd config rollback 1",
    ]
    (kept, _) = await office.store.snapshots.history()
    assert (kept.source, kept.reason) == ("cli", "tests")
    again = await config(office, "set", "lifecycle.keep_alive=10m", "--yes")
    assert again.out == "Nothing would change.\nVersion 2 is in force, which says just that.\n"


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("server.port=8080", ("server", "port"), 8080),
        ("server.host=127.0.0.2", ("server", "host"), "127.0.0.2"),
        ("memory.cpu=12 GB", ("memory", "cpu"), "12 GB"),
        ('models.directories=["/a", "/b"]', ("models", "directories"), ["/a", "/b"]),
        ("lifecycle.keep_alive = -1", ("lifecycle", "keep_alive"), -1.0),
        ("model.swan.path=swan=1.pth", ("model", "swan", "path"), "swan=1.pth"),
        ("model.swan.aliases=duck, teal", ("model", "swan", "aliases"), ["duck", "teal"]),
        ('model."rwkv7-g1 = 0.4b".sampling.top_p=0.5', ("model", "rwkv7-g1 = 0.4b", "sampling", "top_p"), 0.5),
        ("model.'a.b'.path=12", ("model", "a.b", "path"), "12"),
        ('alias.chat.to={ "goose@1" = 95, goose = 5 }', ("alias", "chat", "to"), {"goose@1": 95, "goose": 5}),
    ],
)
async def test_values_are_read_as_their_keys_are_declared(
    office: Office, assignment: str, path: tuple[str, ...], value: Any
) -> None:
    done = await config(office, "set", assignment, "--yes")
    assert done.code == 0, done.err
    found: Any = await document(office)
    for part in path:
        found = next(one for one in found if one["name"] == part) if isinstance(found, list) else found[part]
    assert found == value


async def test_what_is_unset_is_at_its_default_or_gone(office: Office) -> None:
    await config(office, "set", "lifecycle.max_wait=7", "model.swan.pin=true", "--yes")
    done = await config(office, "set", "--unset", "lifecycle.max_wait", "--unset", "model.goose", "--yes")
    assert done.code == 0, done.err
    now = await document(office)
    assert (now["lifecycle"]["max_wait"], [model["name"] for model in now["model"]]) == (30.0, ["swan"])
    done = await config(office, "set", "model.swan.pin=true", "--unset", "model.swan", "--yes")
    assert (done.code, "more than once" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lifecycle.keep_alve=1",), "did you mean lifecycle.keep_alive?"),
        (("lifecycle.keep_alive=soon",), "'soon' is not a duration"),
        (("lifecycle.keep_alive=nan",), "is not a duration"),
        (("model.goose.pni=true",), "did you mean pin?"),
        (("model.goose.sampling.top_p=2",), "is not a number from 0 to 1"),
        (("model.goose=1",), "name a key, such as model.NAME.path"),
        (("model=1",), "name a key, such as model.NAME.path"),
        (("lifecycle=1",), "is not a table"),
        (("lifecycle.keep_alive.x=1",), "is not a duration"),
        (("lifecycle.keep_alive",), "write KEY=VALUE"),
        (("=1",), "write KEY=VALUE"),
        (("model..pin=1",), "write KEY=VALUE"),
        (("a=1",), "a is not a setting"),
        ((), "Say what to set"),
        (("--unset", "lifecycle.keep_alive=1"), "--unset takes no value"),
        (("alias.chat.revert=false",), "alias[0].to: missing"),
    ],
)
async def test_what_cannot_be_set_is_said_and_nothing_changes(
    office: Office, arguments: tuple[str, ...], words: str
) -> None:
    done = await config(office, "set", *arguments, "--yes")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert (await office.tag()).startswith('"v1-')


async def test_nothing_changes_without_a_yes(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_says(monkeypatch, "n")
    done = await config(office, "set", "lifecycle.keep_alive=10m")
    assert (done.code, done.out) == (1, "lifecycle.keep_alive: 5m → 10m\n")
    assert "Nothing was changed." in done.err
    done = await config(office, "set", "lifecycle.keep_alive=10m")  # the end of the input
    assert done.code == 130
    assert (await office.tag()).startswith('"v1-')
    somebody_says(monkeypatch, "y")
    assert (await config(office, "set", "lifecycle.keep_alive=10m")).code == 0
    assert (await office.tag()).startswith('"v2-')


async def test_where_nobody_can_be_asked_yes_has_to_be_given(
    office: Office, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.touch()
    with (tmp_path / "input").open("w+") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        for command in (("set", "server.port=1"), ("edit",), ("rollback", "1"), ("import", str(bundle))):
            done = await config(office, *command)
            assert (done.code, "--yes" in done.err) == (2, True)
        assert (await config(office, "set", "server.port=1", "--dry-run")).out == "server.port: 11435 → 1\n"
    assert (await office.tag()).startswith('"v1-')


async def test_programs_get_the_outcome(office: Office) -> None:
    planned = await printed(office, "set", "lifecycle.keep_alive=10m", "--dry-run")
    assert (planned["changed"], planned["changes"][0]["after"]) == (False, 600.0)
    assert (await printed(office, "set", "lifecycle.keep_alive=10m", "--yes"))["version"] == 2
    assert (await printed(office, "rollback", "1", "--yes"))["version"] == 3


async def test_a_change_goes_back_unless_it_is_confirmed(office: Office) -> None:
    done = await config(office, "set", "lifecycle.keep_alive=10m", "--yes", "--confirm-within", "2m")
    assert "unless you confirm it: cortexd config confirm 2\n" in done.out
    assert (await config(office, "confirm", "1")).code == 5
    assert (await config(office, "confirm", "9")).code == 4
    assert await config(office, "confirm") == (0, "Version 2 stays in force.\n", "")
    assert "did not have to be" in (await config(office, "confirm", "2")).out
    assert (await printed(office, "confirm"))["confirmed"] == 2
    done = await config(office, "set", "lifecycle.keep_alive=11m", "--yes", "--confirm-within", "9d")
    assert (done.code, "seven days" in done.err) == (1, True)


async def test_the_way_back_to_a_version_and_to_the_one_before(office: Office) -> None:
    for minutes in (10, 20):
        await office.patch({"lifecycle": {"keep_alive": f"{minutes}m"}})
    done = await config(office, "rollback", "1", "--yes", "--reason", "too patient")
    assert done.out.startswith("lifecycle.keep_alive: 20m → 5m\n")
    assert (await office.store.snapshots.history())[0].reason == "too patient"
    assert (await config(office, "rollback", "--previous", "--yes")).out.startswith("lifecycle.keep_alive: 5m → 20m\n")
    assert (await config(office, "rollback", "9", "--yes")).code == 4
    for arguments in ((), ("1", "--previous")):
        done = await config(office, "rollback", *arguments, "--yes")
        assert (done.code, "Name a version" in done.err) == (2, True)


async def test_before_the_first_version_there_is_none(office: Office) -> None:
    done = await config(office, "rollback", "--previous", "--yes")
    assert (done.code, done.err) == (4, "cortexd: There is no version before the one in force.\n")


async def test_a_history_is_moved_to_another_daemon(office: Office, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.jsonl"
    await office.patch({"lifecycle": {"keep_alive": "10m"}})
    assert (await config(office, "export", "--bundle", "-o", str(bundle))).code == 0
    other = tmp_path / "other"
    other.mkdir()
    async with configured(other) as elsewhere:
        done = await config(elsewhere, "import", str(bundle), "--yes")
        assert done.out.splitlines()[:2] == ["lifecycle.keep_alive: 5m → 10m", "Version 2 is in force."]
        assert (await config(elsewhere, "import", str(bundle), "--dry-run")).out == "Nothing would change.\n"
    bundle.write_text("{}")
    assert (await config(office, "import", str(bundle), "--yes")).code == 1


async def test_who_comes_late_sees_what_has_changed_meanwhile(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Terminal):
        """Says yes, after somebody else was quicker."""

        def readline(self, *arguments: Any) -> str:
            change = {"lifecycle": {"max_wait": 7}}
            url = f"http://127.0.0.1:{office.house.port}/admin/config"
            query = {"reason": "quicker"}
            httpx.patch(url, json=change, headers={**MERGE, "if-match": "*"}, params=query, trust_env=False)
            return "y\n"

    monkeypatch.setattr("sys.stdin", Slow())
    done = await config(office, "set", "lifecycle.keep_alive=10m")
    assert done.code == 5
    assert "changed meanwhile: lifecycle.max_wait (last by admin, “quicker”)" in done.err
    assert (await document(office))["lifecycle"]["keep_alive"] == 300.0


async def test_the_author_is_who_has_typed_the_command(office: Office) -> None:
    await config(office, "set", "lifecycle.keep_alive=10m", "--yes")
    told = json.loads((await config(office, "history", "--json")).out)["snapshots"][0]
    assert (told["author"], told["source"]) == ("zoë", "cli")
