"""Alembic's entry. The portal hands in a connection; one upgrade at a time, and either all of it or nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from compute_portal.tables import Base

LOCK = 7_351_204_118  # any constant of our own: two upgrades on PostgreSQL wait for each other


def run() -> None:
    connection: sa.Connection = context.config.attributes["connection"]
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
