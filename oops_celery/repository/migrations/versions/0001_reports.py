"""Reports, their groups, and the counts by hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from oops_celery.repository.schema import BYTEWISE, NUMBER, UTC

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "report",
        sa.Column("id", BYTEWISE, primary_key=True),
        sa.Column("time", UTC, primary_key=True),
        sa.Column("group_id", sa.BigInteger, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("reporter", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("compressed", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        postgresql_partition_by="RANGE (time)",
    )
    op.create_index("report_time", "report", ["time"])
    op.create_index("report_group_time", "report", ["group_id", "time"])
    op.create_table(
        "report_group",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False, unique=True),
        sa.Column("rule", sa.Integer, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("example_value", sa.Text, nullable=False),
        sa.Column("example", sa.String, nullable=False),
        sa.Column("first_seen", UTC, nullable=False),
        sa.Column("last_seen", UTC, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("resolved_at", UTC),
    )
    op.create_index("report_group_last_seen", "report_group", ["last_seen"])
    op.create_table(
        "group_hour",
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.create_index("group_hour_hour", "group_hour", ["hour"])
