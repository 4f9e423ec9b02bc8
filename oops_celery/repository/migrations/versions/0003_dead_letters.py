"""Messages that nobody could process."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from oops_celery.repository.schema import BYTEWISE, NUMBER, UTC

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "dead_letter",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("queue", BYTEWISE, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("id", BYTEWISE, nullable=False),
        sa.Column("is_report", sa.Boolean, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("time", UTC),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("reason_group", sa.Text, nullable=False),
        sa.Column("attempts", sa.BigInteger),
        sa.Column("came_from", sa.Text),
        sa.Column("first_failed_at", UTC),
        sa.Column("parked_at", UTC, nullable=False),
        sa.Column("parked_by", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("compressed", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("queue", "key", name="dead_letter_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("dead_letter_id", "dead_letter", ["id"])
    op.create_index("dead_letter_parked_at", "dead_letter", ["parked_at"])
