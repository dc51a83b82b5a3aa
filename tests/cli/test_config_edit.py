"""`cortexd config edit`: the document in an editor, and a text that is never lost."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.api.configured import Office, configured
from tests.cli.admin import Terminal, config, editor, no_configuration_elsewhere, somebody_says

PATIENCE = "text = text.replace('keep_alive = \"5m\"', 'keep_alive = \"10m\"', 1)"


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Office]:
    no_configuration_elsewhere(tmp_path, monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.stdin", Terminal())
    async with configured(tmp_path) as office:
        yield office


def left(office: Office) -> list[Path]:
    """Texts that were kept."""
    return [file for file in office.file.parent.glob("cortexd-*.toml") if file != office.file]


async def test_what_is_saved_comes_into_force_once_it_was_agreed_to(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, f"assert text.startswith('# The configuration in force as version 1.')\n{PATIENCE}")
    somebody_says(monkeypatch, "y")
    done = await config(office, "edit", "--reason", "by hand", "--confirm-within", "1m")
    assert done.code == 0, done.err
    assert done.out.startswith("lifecycle.keep_alive: 5m → 10m\n")
    assert "Version 2 is in force.\nIt lasts until" in done.out
    assert (await office.store.snapshots.history())[0].reason == "by hand"
    assert left(office) == []


@pytest.mark.parametrize("script", ["", "text = ''", "text = '# all is well\\n\\n'"])
async def test_saving_nothing_new_changes_nothing(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    editor(tmp_path, monkeypatch, script)
    done = await config(office, "edit")
    assert (done.code, done.out, done.err) == (0, "", "Nothing was changed.\n")
    assert (await office.tag()).startswith('"v1-')
    assert left(office) == []


async def test_what_is_wrong_is_shown_and_can_be_edited_again(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_first = "text = text.replace('\"10m\"', '600') if '\"10m\"' in text else text.replace('\"5m\"', '\"10m\"', 1)"
    editor(tmp_path, monkeypatch, f"{wrong_first}\nif '600' not in text: text += 'hots = 1\\n'\n"
           "else: text = text.replace('hots = 1\\n', '')")  # fmt: skip
    somebody_says(monkeypatch, "y", "y")
    done = await config(office, "edit")
    assert done.code == 0, done.err
    assert re.search(r"body:\d+: model\[0\]\.\S*hots is not a setting", done.err)
    assert done.out.startswith("lifecycle.keep_alive: 5m → 10m\n")
    assert left(office) == []


@pytest.mark.parametrize(("says", "code"), [(("n",), 2), ((), 130)])
async def test_who_gives_up_is_told_where_the_text_is(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[str, ...], code: int
) -> None:
    editor(tmp_path, monkeypatch, "text += 'hots = 1\\n'")
    somebody_says(monkeypatch, *says)
    done = await config(office, "edit")
    assert done.code == code
    (kept,) = left(office)
    assert f"What you wrote is in {kept}." in done.err
    assert kept.read_text().endswith("hots = 1\n")


async def test_without_anybody_to_ask_a_mistake_is_the_end(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "text += 'hots = 1\\n'")
    done = await config(office, "edit", "--yes")
    assert (done.code, len(left(office))) == (2, 1)
    assert "Edit it again" not in done.err


async def test_a_change_that_is_declined_or_only_shown_is_kept_as_text(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, PATIENCE)
    somebody_says(monkeypatch, "n")
    assert (await config(office, "edit")).code == 1
    assert (await config(office, "edit", "--dry-run")).code == 0
    assert len(left(office)) == 2
    assert (await office.tag()).startswith('"v1-')


async def test_what_changed_while_it_was_edited_is_shown_and_the_text_is_kept(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{office.house.port}/admin/config"
    editor(tmp_path, monkeypatch, f"""{PATIENCE}
import urllib.request
headers = {{"if-match": "*", "content-type": "application/json"}}
change = b'{{"lifecycle": {{"max_wait": 7}}}}'
urllib.request.urlopen(urllib.request.Request({url!r}, change, headers, method="PATCH"))""")  # fmt: skip
    done = await config(office, "edit", "--yes")
    assert done.code == 5
    assert "changed meanwhile: lifecycle.max_wait" in done.err
    (kept,) = left(office)
    assert 'keep_alive = "10m"' in kept.read_text()
    assert (await office.tag()).startswith('"v2-')


async def test_an_editor_that_fails_changes_nothing(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "file.write_text(text + '# half'); sys.exit(1)")
    done = await config(office, "edit")
    assert (done.code, "Editing failed" in done.err) == (1, True)
    (kept,) = left(office)
    assert kept.read_text().endswith("# half")
    monkeypatch.setenv("EDITOR", str(tmp_path / "no such editor"))
    assert (await config(office, "edit")).code == 1
    assert left(office) == [kept]
