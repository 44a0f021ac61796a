"""Whether the database has the schema that this program expects. Without Alembic, which only migrations need: each process that
loads it takes eight megabytes more.
"""

import re
from functools import cache
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from app.config import PROJECT_ROOT
from app.db.session import translated_errors
from app.errors import DatabaseUnavailable

_REVISION: Final = re.compile(r'^(revision|down_revision)\b[^=\n]*= "(\w+)"$', re.MULTILINE)
_UNDEFINED_TABLE: Final = "42P01"


@cache
def head_revision() -> str:
    """The revision that this program expects: of its migrations, the one that no other follows."""
    named: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for path in (PROJECT_ROOT / "migrations" / "versions").glob("*.py"):
        for which, revision in _REVISION.findall(path.read_text("utf-8")):
            named[which].add(revision)
    [head] = named["revision"] - named["down_revision"]
    return head


def current_revision(engine: Engine) -> str | None:
    """The database's revision; None before the first migration.

    Raises:
        DatabaseUnavailable: no connection.
    """
    with translated_errors(), engine.connect() as connection:
        try:
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _UNDEFINED_TABLE:
                raise
            return None
        return revision


def require_head(engine: Engine) -> None:
    """Check that the schema is the one that this program expects.

    Raises:
        DatabaseUnavailable: no connection, or another revision.
    """
    found = current_revision(engine)
    if found != head_revision():
        raise DatabaseUnavailable(f"The database's schema is {found or 'missing'}, not {head_revision()}: migrate it.")
