"""Migrates the database: `python -m app.server.migrate`, for the supervisor, which must not wait for another machine."""

import sys

from app.config import load_settings
from app.errors import DatabaseDisabled, FacedexError
from app.logs import configure_logging
from app.server.parts import migrate_database

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, settings.logs_dir / "serve.log")
    try:
        migrate_database(settings)
    except DatabaseDisabled:  # by a reload, in the meantime
        pass
    except FacedexError as error:
        sys.exit(str(error))
