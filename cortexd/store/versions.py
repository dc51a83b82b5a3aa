"""Which version of the tables a database has, and which of them this cortexd knows."""

import sqlite3
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def migrations_of(package: Path = _PACKAGE) -> Path:
    """The folder of migrations: inside the package where it is installed, beside it in a checkout."""
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def known_versions(migrations: Path | None = None) -> list[str]:
    """The newest last."""
    versions = (migrations or migrations_of()) / "versions"
    return sorted(file.name.partition("_")[0] for file in versions.glob("[0-9]*_*.py"))


def version_in(connection: sqlite3.Connection) -> str | None:
    """The last migration that was applied; None for an empty database."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").fetchone():
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None
