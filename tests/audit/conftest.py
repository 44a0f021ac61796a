"""The database's fixtures, and a way to tamper."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from app.db.session import Database


@pytest.fixture
def tamper(database: Database) -> Callable[..., None]:
    """Runs statements as the owner, whom nothing forbids."""

    def run(statement: str, **values: object) -> None:
        with database.maintenance() as connection:
            connection.execute(text(statement), values)

    return run
