"""The requests that were served: a trace of this daemon's own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.REAL, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("waited", sa.REAL, nullable=False),
        sa.Column("service", sa.REAL, nullable=False),
        sqlite_strict=True,
    )
