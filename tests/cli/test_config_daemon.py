"""`cortexd config` where a daemon answers: what is in force, its status, and its history."""

import json
import re
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cortexd.change_plan import BeforeAfter, ChangePlan, Refused, Restarted
from cortexd.config import load_settings
from cortexd.store.backup import restore
from tests.api.configured import FILE, Office, configured
from tests.cli.admin import config, no_configuration_elsewhere, printed
from tests.cli.test_config_commands import code_of


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Office]:
    """Version 2 has more patience than version 1. The machine has a file of its own, without models."""
    home = tmp_path / "home"
    home.mkdir()
    no_configuration_elsewhere(home, monkeypatch)
    async with configured(tmp_path) as office:
        await office.patch({"lifecycle": {"keep_alive": "10m"}}, reason="more patience")
        yield office


async def test_what_is_shown_is_what_is_in_force_at_the_daemon(office: Office) -> None:
    done = await config(office, "show")
    assert (done.code, done.err) == (0, "In force as version 2:\n")
    shown = tomllib.loads(done.out)
    assert (shown["lifecycle"]["keep_alive"], shown["server"]["drain_s"]) == ("10m", "1m")
    origins = (await config(office, "show", "--origin")).out
    assert re.search(r'keep_alive = "10m" +# version 2\n', origins)
    assert "# --set server.drain_s\n" in origins
    assert (await printed(office, "show"))["model"][0]["name"] == "goose"
    assert (await printed(office, "show", "--origin"))["server.drain_s"]["origin"] == "--set server.drain_s"


@pytest.mark.parametrize("how", [("--offline",), ("--set", "server.port=1"), ("--config", "other.toml")])
async def test_who_asks_for_a_file_is_not_shown_the_daemon(
    office: Office, how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(office.file.parent)
    (office.file.parent / "other.toml").write_text("")
    done = await config(office, "show", *how)
    assert (done.code, done.err) == (0, "What a daemon that is started now would have:\n")
    assert tomllib.loads(done.out)["lifecycle"]["keep_alive"] == "5m"


def test_a_daemon_that_was_named_and_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_configuration_elsewhere(tmp_path, monkeypatch)
    nowhere = f"unix:{tmp_path}/nobody.sock"
    for command in (("show",), ("status",), ("set", "server.port=1", "--yes"), ("verify",)):
        assert code_of(*command, "--host", nowhere) == 3
    assert "No cortexd daemon answers" in capsys.readouterr().err


async def test_the_status_says_who_when_and_why(office: Office) -> None:
    lines = (await config(office, "status")).out
    assert re.search(r"version: +2\n", lines)
    assert re.search(r"by: +admin \(api\)\nreason: +more patience\n", lines)
    assert f"{office.file}: applied, and changed since" in lines
    assert "lasts until" not in lines
    await office.patch({"lifecycle": {"max_wait": 7}}, confirm_within="1h")
    office.file.write_text("[server]\nport = -1")
    await office.client.post("/admin/config/reload")
    lines = (await config(office, "status")).out
    assert re.search(r"lasts until: .*, then 2 again", lines)
    assert f"{office.file}: not applied" in lines
    assert re.search(r"problem: .*server\.port: -1", lines)
    assert (await printed(office, "status"))["version"] == 3


async def test_the_history_marks_what_is_particular(office: Office) -> None:
    await office.act("/admin/snapshots/1/rollback", params={"reason": "too patient"})
    await office.client.post("/admin/snapshots/1/pin")
    await office.store.snapshots.prove(2)
    lines = (await config(office, "history")).out.splitlines()
    newest, middle, oldest = lines[-3:]
    for line, words in (
        (newest, ("3", "rollback", "too patient", "in force, back to 1")),
        (middle, ("2", "api", "admin", "more patience", "proven")),
        (oldest, ("1", "boot", "the first start", "pinned")),
    ):
        for word in words:
            assert word in line, lines
    await office.patch({"lifecycle": {"max_wait": 7}}, confirm_within="1h")
    newest, middle = (await config(office, "history", "--limit", "2")).out.splitlines()[-2:]
    assert "in force until" in newest
    assert "confirmed, back to 1" in middle
    assert len((await printed(office, "history", "--limit", "2"))["snapshots"]) == 2


async def test_versions_are_compared(office: Office) -> None:
    assert (await config(office, "diff", "1")).out == "lifecycle.keep_alive: 5m → 10m\n"
    assert (await config(office, "diff", "2", "1")).out == "lifecycle.keep_alive: 10m → 5m\n"
    assert (await config(office, "diff", "2")).out == "Nothing is different.\n"
    assert (await printed(office, "diff", "1"))["patch"][0]["op"] == "replace"
    assert (await config(office, "diff", "9"))[0] == 4
    assert (await config(office, "diff", "0")).code == 2


async def test_what_is_exported_is_a_file_that_gives_the_same(office: Office, tmp_path: Path) -> None:
    place = tmp_path / "exported.toml"
    place.write_text("old")
    place.chmod(0o640)
    assert await config(office, "export", "-o", str(place)) == (0, "", "")
    assert load_settings(place, {"HOME": "/"}, ()).lifecycle.keep_alive == 600.0
    assert place.stat().st_mode & 0o777 == 0o640
    assert (await office.client.get("/admin/config", params={"format": "toml"})).text == place.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cortexd.toml", "data", "exported.toml", "home"]


async def test_the_daemon_is_asked_what_it_would_make_of_a_file(office: Office, tmp_path: Path) -> None:
    office.subject.plan = ChangePlan(
        untouched=["crow"],
        relabelled=["goose"],
        added=["swan"],
        removed=["jay"],
        restarted=[
            Restarted(model="roc", keys=["strategy"], loaded=True, beside=True),
            Restarted(model="emu", keys=["threads"], loaded=True, beside=False),
            Restarted(model="owl", keys=["path"], loaded=False, beside=False),
        ],
        refused=[Refused(model="moa", reason="It is damaged.")],
        memory={"cpu": BeforeAfter(before=0, after=2_000_000)},
        daemon=["server.port"],
    )
    file = tmp_path / "new.toml"
    file.write_text(FILE.replace("5m", "20m") + "pin = true\n")
    done = await config(office, "check", str(file), "--plan")
    assert done.code == 0
    assert done.out.splitlines()[1:] == [
        "lifecycle.keep_alive: 10m → 20m",
        "model.goose.pin: false → true",
        "  roc is restarted (strategy): the new worker is loaded beside the old one",
        "  emu is restarted (threads): memory is too short for both, so the old worker goes first",
        "  owl is restarted (path): it is not loaded now",
        "  changed while they run: goose",
        "  added: swan",
        "  removed: jay",
        "  untouched: crow",
        "  moa would not load: It is damaged.",
        "  memory held on cpu: 0 B → 2.0 MB",
        "  not before the daemon is started again: server.port",
    ]
    assert (await office.tag()).startswith('"v2-')


async def test_versions_are_verified(office: Office) -> None:
    assert await config(office, "verify") == (0, "Every version is as it was written.\n", "")
    async with office.store.database.writing() as connection:
        for (name,) in (
            await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ).all():
            await connection.exec_driver_sql(f"DROP TRIGGER {name}")
        await connection.exec_driver_sql("UPDATE snapshot SET author = 'eve' WHERE version = 1")
    done = await config(office, "verify")
    assert (done.code, done.out.startswith("Version 1 has another author")) == (1, True)
    assert json.loads((await config(office, "verify", "--json")).out)["fault"]["version"] == 1


async def test_a_backup_is_restored_where_no_daemon_is(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("an older one")
    assert await config(office, "backup", str(copy)) == (0, "", "")
    assert copy.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "data"))
    assert code_of("restore", str(copy)) == 1
    assert "Another cortexd uses" in capsys.readouterr().err
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "elsewhere"))
    database = tmp_path / "elsewhere" / "cortexd.db"
    assert code_of("restore", str(copy)) == 0
    assert capsys.readouterr().out == f"{database} is restored.\n"
    assert code_of("restore", str(copy)) == 0
    aside = re.search(r"What was there is now (.*)\.\n", capsys.readouterr().out)
    assert aside is not None
    assert restore(Path(aside[1]), tmp_path / "third" / "cortexd.db") is None
    assert code_of("restore", str(tmp_path / "none.db")) == 1
    assert "There is no backup" in capsys.readouterr().err


async def test_a_backup_that_fails_leaves_what_was_there(office: Office, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("an older one")
    await office.store.database.close()
    done = await config(office, "backup", str(copy))
    assert (done.code, "closed" in done.err) == (1, True)
    assert copy.read_text() == "an older one"
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
