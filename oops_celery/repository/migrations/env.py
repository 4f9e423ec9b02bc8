"""Alembic runs this for each upgrade, with the connection of `database.upgrade`."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
