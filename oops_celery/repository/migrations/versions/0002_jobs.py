"""What workers do once an hour, one of them at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from oops_celery.repository.schema import UTC

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "job",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("begun", UTC, nullable=False),
    )
