"""The decision journal, what was measured of models and of their use, the models to restore, and a heartbeat."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "journal",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.REAL, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("weighed", sa.Text, nullable=False),
        sa.Column("memory", sa.Text, nullable=False),
        sa.Column("config", sa.Integer),
        sqlite_strict=True,
    )
    op.create_index("journal_by_model", "journal", ["model", "id"])
    op.create_table(
        "measurement",
        sa.Column("weights", sa.Text, primary_key=True),
        sa.Column("strategy", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("mean", sa.REAL, nullable=False),
        sa.Column("squares", sa.REAL, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "model_use",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("payload", sa.Text, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "resident",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("rank", sa.Integer, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "heartbeat",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("at", sa.REAL, nullable=False),
        sqlite_strict=True,
    )
