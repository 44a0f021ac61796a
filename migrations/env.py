"""Runs the migrations on the connection that app/db/migrate.py gives; for the `alembic` command, on the configured."""

from alembic import context
from sqlalchemy import Connection

from app.config import load_settings
from app.db.migrate import take_turn
from app.db.models import Base
from app.db.session import Database


def run(connection: Connection) -> None:
    """All revisions in one transaction: a migration that fails leaves nothing half done."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(load_settings())
    try:
        with database.engine.begin() as own:
            take_turn(own)
            run(own)
    finally:
        database.close()
