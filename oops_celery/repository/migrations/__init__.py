"""Alembic's migrations: the changes of the tables, one after another."""
