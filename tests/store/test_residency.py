from pathlib import Path

import pytest

from cortexd.store.residency import Residency
from tests.store.stores import bug, opened


@pytest.mark.parametrize(
    ("noted", "recalled"),
    [
        ([], ()),
        ([["goose", "gander"]], ("goose", "gander")),
        ([["goose", "gander"], ["gander", "goose", "gosling"]], ("gander", "goose", "gosling")),
        ([["goose"], []], ()),
        ([["goose", "gander", "goose"]], ("goose", "gander")),
    ],
    ids=["nothing", "once", "another order", "none any more", "a name twice"],
)
@pytest.mark.parametrize("each", [True, False], ids=["written each", "written at the end"])
async def test_the_next_daemon_recalls_what_was_noted_last(
    tmp_path: Path, noted: list[list[str]], recalled: tuple[str, ...], each: bool
) -> None:
    async with opened(tmp_path / "db") as database:
        residency = Residency(database, bug)
        for names in noted:
            residency.note(names)
            if each:
                await residency.flush()
        await residency.close()
    async with opened(tmp_path / "db") as database:
        assert await Residency(database, bug).recall() == recalled
