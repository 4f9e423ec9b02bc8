"""An index to search reports by their exception's type."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the index; with a million reports that takes some seconds."""
    op.create_index("report_type_time", "report", ["type", "time"])
