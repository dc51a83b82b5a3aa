"""The tables, as the migrations leave them."""

from sqlalchemy import (
    DDL,
    REAL,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.sqlite import Insert, insert

metadata = MetaData()

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", REAL, nullable=False),  # seconds since the epoch
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("owner", Text),
    Column("weighed", Text, nullable=False),  # JSON
    Column("memory", Text, nullable=False),  # JSON
    Column("config", Integer),
    Index("journal_by_model", "model", "id"),
    sqlite_strict=True,
)

usage = Table(
    "usage",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", REAL, nullable=False),  # seconds since the epoch
    Column("model", Text, nullable=False),
    Column("waited", REAL, nullable=False),  # seconds
    Column("service", REAL, nullable=False),  # seconds
    sqlite_strict=True,
)

measurement = Table(
    "measurement",
    metadata,
    Column("weights", Text, primary_key=True),
    Column("strategy", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("what", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("mean", REAL, nullable=False),
    Column("squares", REAL, nullable=False),  # sum of the squared distances from the mean
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

model_use = Table(
    "model_use",
    metadata,
    Column("model", Text, primary_key=True),
    Column("payload", Text, nullable=False),  # JSON, of whoever remembers it
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

resident = Table(
    "resident",
    metadata,
    Column("model", Text, primary_key=True),
    Column("rank", Integer, nullable=False),  # 0: restored first
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("at", REAL, nullable=False),  # seconds since the epoch
    sqlite_strict=True,
)

state_version = Table(
    "state_version",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("content_hash", Text, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("heads", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at", REAL, nullable=False),  # seconds since the epoch
    Column("deleted", Integer, CheckConstraint("deleted IN (0, 1)"), nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# Without parameters: only then does SQLite see that a question with this condition can use the index with this condition.
UNKEPT = text("proven_at IS NULL AND pinned = 0")

snapshot = Table(
    "snapshot",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("parent", Integer),
    Column("previous_hash", Text, nullable=False),  # the chain hash of the version before
    Column("content_hash", Text, nullable=False),
    Column("chain_hash", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("restored_from", Integer),
    Column("created_at", REAL, nullable=False),  # seconds since the epoch
    Column("proven_at", REAL),  # seconds since the epoch
    Column("pinned", Integer, CheckConstraint("pinned IN (0, 1)"), nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON; last, so that SQLite need not read it to find the others
    Index("snapshot_unkept", "version", sqlite_where=UNKEPT),
    sqlite_strict=True,
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("version", Integer, primary_key=True),  # is no longer in `snapshot`, as it should be
    sqlite_strict=True,
)

head = Table(
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("current", Integer, ForeignKey("snapshot.version"), nullable=False),
    Column("confirmed", Integer, ForeignKey("snapshot.version"), nullable=False),
    Column("revert_deadline", REAL),  # seconds since the epoch
    Column("file", Text),  # digest of the configuration file that was applied last
    sqlite_strict=True,
)

proven = Table(
    "proven",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, nullable=False),  # of the configuration that had this spec
    Column("spec", Text, nullable=False),  # JSON
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# By comparison, not `UPDATE OF version`: SQLite does not count an assignment to `rowid` as one. An insertion is looked at
# because `INSERT OR REPLACE` deletes without asking the trigger.
TRIGGERS = (
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
for trigger in TRIGGERS:
    event.listen(snapshot, "after_create", DDL(trigger))


def upsert(table: Table) -> Insert:
    """An insertion that takes the place of a row with the same primary key."""
    statement = insert(table)
    values = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
