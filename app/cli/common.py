"""What all commands share: services, and errors as one line."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from flask.cli import with_appcontext
from sqlalchemy.exc import ProgrammingError

from app.api.wiring import services
from app.db.session import driver_reason
from app.errors import DatabaseDisabled, DatabaseUnavailable, EmbedderUnavailable, FacedexError
from app.logs import configure_logging
from app.tenancy import acting, everything

P = ParamSpec("P")
R = TypeVar("R")

_HINTS: dict[type[FacedexError], str] = {
    DatabaseDisabled: "Set VECTOR_DB_ENABLED=true and reload the service first.",
    DatabaseUnavailable: "Is scripts/serve running with this STORAGE_DIR? `flask --app wsgi doctor` tells more.",
    EmbedderUnavailable: "Is scripts/serve running with this STORAGE_DIR? `flask --app wsgi doctor` tells more.",
}


def one_line(error: FacedexError) -> click.ClickException:
    """What went wrong, what the database said of it, and what to do."""
    parts = (str(error), driver_reason(error), _HINTS.get(type(error)))
    return click.ClickException(" ".join(part for part in parts if part))


def command_body(function: Callable[P, R]) -> Callable[P, R]:
    """Run a command inside the application; our own errors become one line and the exit code 1."""

    @with_appcontext
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        # A command prints its own result; the log is for what goes wrong.
        configure_logging(services().settings, level="WARNING")
        try:
            with acting(everything("cli")):
                return function(*args, **kwargs)
        except FacedexError as error:
            raise one_line(error) from None
        except ProgrammingError as error:
            raise click.ClickException(f"The database's schema is not this program's: {driver_reason(error)}") from None

    return wrapped
