"""The embedded PostgreSQL server: where its files lie and how to reach it."""

from sqlalchemy import URL

from app.config import Settings
from app.errors import DatabaseUnavailable


def embedded_url(settings: Settings) -> URL:
    """The URL of the embedded server's socket, from files alone: for any process of the installation.

    Raises:
        DatabaseUnavailable: the server was never started in this storage folder, or its password may not be read.
    """
    try:
        password = (settings.storage_dir / "postgres.key").read_text().strip()
    except OSError as error:
        raise DatabaseUnavailable("The embedded database is not set up, or belongs to another user.") from error
    return URL.create(
        "postgresql+psycopg",
        username="facedex",
        password=password,
        database="facedex",
        query={"host": str(settings.run_dir / "postgres")},
    )
