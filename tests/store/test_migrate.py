import contextlib
import logging
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from cortexd.errors import StoreFailed
from cortexd.store import tables
from cortexd.store.migrate import migrate, version_of
from cortexd.store.versions import known_versions, migrations_of

VERSIONS = known_versions()
NEXT = f"{int(VERSIONS[-1]) + 1:04}"
ADD_A_COLUMN = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{revision}", "{before}"

def upgrade():
    op.add_column("model_use", sa.Column("colour", sa.Text))
    {then}
"""


def run(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def up_to(version: str, directory: Path) -> Path:
    """A copy of the migrations as they were when `version` was the last."""
    copy = directory / "migrations of 100%"
    shutil.copytree(migrations_of(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy / "versions").glob("0*.py"):
        if path.name.partition("_")[0] > version:
            path.unlink()
    return copy


def with_one_more(directory: Path, then: str = "pass") -> Path:
    copy = up_to(VERSIONS[-1], directory)
    more = ADD_A_COLUMN.format(revision=NEXT, before=VERSIONS[-1], then=then)
    (copy / "versions" / f"{NEXT}_colour.py").write_text(more)
    return copy


def schema(path: Path) -> set[tuple[object, ...]]:
    """Every table and index as its own words, white space aside."""
    rows = run(path, "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'alembic%' AND sql IS NOT NULL")
    return {(name, " ".join(str(sql).split())) for name, sql in rows}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


def test_migrating_nothing_makes_every_table(path: Path) -> None:
    migrate(path)
    names = {name for (name,) in run(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert names == set(tables.metadata.tables) | {"alembic_version"}
    assert version_of(path) == VERSIONS[-1]


def test_tables_and_migrations_agree(path: Path) -> None:
    migrate(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    engine.dispose()


def test_tables_and_migrations_agree_to_the_letter(path: Path, tmp_path: Path) -> None:
    migrate(path)
    engine = create_engine(f"sqlite:///{tmp_path / 'declared'}")
    tables.metadata.create_all(engine)
    engine.dispose()
    assert schema(path) == schema(tmp_path / "declared")


def test_the_number_in_a_files_name_is_its_revision() -> None:
    scripts = ScriptDirectory(str(migrations_of()))
    assert [script.revision for script in scripts.walk_revisions()] == VERSIONS[::-1]
    assert scripts.get_heads() == [VERSIONS[-1]]


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_of_every_earlier_version_are_kept(path: Path, tmp_path: Path, version: str) -> None:
    migrate(path, up_to(version, tmp_path))
    assert version_of(path) == version
    run(path, "INSERT INTO model_use (model, payload) VALUES ('goose', '{}')")
    migrate(path)
    assert version_of(path) == VERSIONS[-1]
    assert run(path, "SELECT model, payload FROM model_use") == [("goose", "{}")]


def test_the_next_migration_finds_todays_rows(path: Path, tmp_path: Path) -> None:
    migrate(path)
    run(path, "INSERT INTO model_use (model, payload) VALUES ('goose', '{}')")
    migrate(path, with_one_more(tmp_path))
    assert version_of(path) == NEXT
    assert run(path, "SELECT model, payload, colour FROM model_use") == [("goose", "{}", None)]


def test_a_migration_that_fails_changes_nothing(path: Path, tmp_path: Path) -> None:
    migrate(path)
    before = schema(path)
    with pytest.raises(ZeroDivisionError):
        migrate(path, with_one_more(tmp_path, then="1 / 0"))
    assert schema(path) == before
    assert version_of(path) == VERSIONS[-1]


def test_a_database_from_a_newer_version_is_refused_in_one_sentence_and_left_alone(path: Path, tmp_path: Path) -> None:
    migrate(path, with_one_more(tmp_path))
    before = path.read_bytes()
    with pytest.raises(StoreFailed) as refused:
        migrate(path)
    assert str(refused.value) == (
        f"The database {path} was written by a newer cortexd: it is of version {NEXT}, this one knows {VERSIONS[-1]}."
    )
    assert path.read_bytes() == before


def test_migrations_are_found_inside_an_installed_package_and_beside_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "cortexd"
    package.mkdir(parents=True)
    assert migrations_of(package) == tmp_path / "site-packages" / "migrations"
    (package / "migrations").mkdir()
    assert migrations_of(package) == package / "migrations"


def test_migrating_leaves_logging_as_it_was(path: Path) -> None:
    before = logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level
    migrate(path)
    assert (logging.root.level, logging.root.handlers, logging.getLogger("alembic").level) == before


def test_a_database_that_is_up_to_date_is_opened_without_alembic(path: Path) -> None:
    migrate(path)
    script = "import sys; from pathlib import Path; from cortexd.store.database import Database; "
    script += "Database(Path(sys.argv[1])); print(sorted({'alembic', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
