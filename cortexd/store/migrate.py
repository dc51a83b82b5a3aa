"""The database brought to this version's tables, before anything else looks at it."""

import contextlib
from pathlib import Path

from cortexd.errors import StoreFailed
from cortexd.store.failures import store_errors
from cortexd.store.file import connect
from cortexd.store.versions import known_versions, migrations_of, version_in


def migrate(path: Path, migrations: Path | None = None) -> None:
    """All migrations that the database at `path` lacks, in one transaction: it has all of them afterwards, or none.

    Raises StoreFailed for a database that a newer version has written.
    """
    migrations = migrations or migrations_of()
    known = known_versions(migrations)
    with store_errors(path):
        version = version_of(path)
        # Importing Alembic and reading its scripts takes longer than all the rest of a start.
        if version == known[-1]:
            return
        if version is not None and version not in known:
            raise StoreFailed(
                f"The database {path} was written by a newer cortexd: it is of version {version}, this one knows {known[-1]}."
            )
        _upgrade(path, migrations)


def version_of(path: Path) -> str | None:
    """The last migration that was applied; None for an empty database."""
    with contextlib.closing(connect(path)) as connection:
        return version_in(connection)


def _upgrade(path: Path, migrations: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection, create_engine, event
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    engine = create_engine("sqlite://", creator=lambda: connect(path), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin_immediate(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
