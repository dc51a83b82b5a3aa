"""What the configuration file said when it was applied last."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("head", sa.Column("file", sa.Text))
    op.create_table(
        "proven",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
