"""Every configuration that was in force, and which one is."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TRIGGERS = (
    """
    CREATE TRIGGER snapshot_grows BEFORE INSERT ON snapshot
    WHEN NEW.version <= (SELECT max(version) FROM snapshot)
    BEGIN SELECT RAISE(ABORT, 'snapshots are append-only'); END
    """,
    """
    CREATE TRIGGER snapshot_stays BEFORE UPDATE ON snapshot
    WHEN (NEW.version, NEW.parent, NEW.previous_hash, NEW.content_hash, NEW.chain_hash, NEW.schema_version, NEW.author,
        NEW.reason, NEW.source, NEW.restored_from, NEW.created_at, NEW.body)
        IS NOT (OLD.version, OLD.parent, OLD.previous_hash, OLD.content_hash, OLD.chain_hash, OLD.schema_version, OLD.author,
        OLD.reason, OLD.source, OLD.restored_from, OLD.created_at, OLD.body)
    BEGIN SELECT RAISE(ABORT, 'snapshots are append-only'); END
    """,
    """
    CREATE TRIGGER snapshot_is_kept BEFORE DELETE ON snapshot
    WHEN OLD.pinned OR OLD.proven_at IS NOT NULL OR OLD.version NOT IN (SELECT version FROM forgotten)
    BEGIN SELECT RAISE(ABORT, 'snapshots are append-only'); END
    """,
)


def upgrade() -> None:
    op.create_table(
        "snapshot",
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("parent", sa.Integer),
        sa.Column("previous_hash", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("chain_hash", sa.Text, nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("restored_from", sa.Integer),
        sa.Column("created_at", sa.REAL, nullable=False),
        sa.Column("proven_at", sa.REAL),
        sa.Column("pinned", sa.Integer, sa.CheckConstraint("pinned IN (0, 1)"), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    unkept = sa.text("proven_at IS NULL AND pinned = 0")
    op.create_index("snapshot_unkept", "snapshot", ["version"], sqlite_where=unkept)
    op.create_table("forgotten", sa.Column("version", sa.Integer, primary_key=True), sqlite_strict=True)
    op.create_table(
        "head",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("current", sa.Integer, sa.ForeignKey("snapshot.version"), nullable=False),
        sa.Column("confirmed", sa.Integer, sa.ForeignKey("snapshot.version"), nullable=False),
        sa.Column("revert_deadline", sa.REAL),
        sqlite_strict=True,
    )
    for trigger in _TRIGGERS:
        op.execute(trigger)
