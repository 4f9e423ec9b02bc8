"""The counts of groups by day; PostgreSQL leaves compressed bodies alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table, and fill it from the counts by hour; set how bodies are kept."""
    op.create_table(
        "group_day",
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.create_index("group_day_day", "group_day", ["day"])
    op.execute(
        "INSERT INTO group_day (group_id, day, count)"
        " SELECT group_id, hour / 24, sum(count) FROM group_hour"
        " GROUP BY group_id, hour / 24"
    )
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        # It would try to compress them once more, in vain.
        days = sa.text(
            "SELECT relname FROM pg_class WHERE relname ~ '^report_[0-9]{8}$'"
        )
        for table in ("report", "dead_letter", *connection.scalars(days)):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL")
