"""What SIGHUP does: the settings are read again, and the web changes over without dropping a request."""

import time
from typing import Final

import structlog

from app.config import Settings, SettingsError, publish_running, reload_settings, set_in_environment
from app.errors import FacedexError
from app.server.children import Child
from app.server.parts import DATABASE, JOBS, WEB, prepare_datasets, say, start_database, start_jobs, stop_timeout_s
from app.server.supervisor import Supervisor

log = structlog.stdlib.get_logger("facedex.supervisor")

_SWITCH: Final = "VECTOR_DB_ENABLED"


def reload(supervisor: Supervisor) -> None:
    """Read `.env` again: start the database where it is wanted now, replace the web's workers, stop a database that is not.

    Where the settings are wrong or the database cannot be started, everything stays as it is.

    Raises:
        Stopped: a signal came.
    """
    started_s = time.monotonic()
    try:
        settings = reload_settings()
    except SettingsError as error:
        _tell(f"not reloaded: wrong settings: {error}", failed=True)
        return
    if set_in_environment(_SWITCH):
        _tell(f"{_SWITCH} comes from the environment, which goes before .env: a reload cannot change it")
    had_database = supervisor.has_part(DATABASE)
    try:
        if settings.vector_db_enabled:
            start_database(settings, supervisor)
    except FacedexError as error:
        if not had_database:
            supervisor.stop_part(DATABASE)
        _tell(f"not reloaded: {error}", failed=True)
        return
    publish_running(settings)  # whatever starts from now on reads these
    prepare_datasets(settings, supervisor, awaited=not settings.vector_db_enabled)
    supervisor.stop_part(JOBS)  # begun anew with the new settings, where it is wanted; its jobs go on
    start_jobs(settings, supervisor)
    _replace_web_workers(settings, supervisor)
    if not settings.vector_db_enabled:
        supervisor.stop_part(DATABASE)
    chosen = "pgvector" if settings.vector_db_enabled else "PKL"
    _tell(f"reloaded in {time.monotonic() - started_s:.1f} s: recognition by {chosen}")


def _replace_web_workers(settings: Settings, supervisor: Supervisor) -> None:
    """Wait until the old ones have answered what they held: they may need the database for it."""
    web = supervisor.running(WEB)
    if not isinstance(web, Child):  # it is down, and will have the new settings when it is started again
        return
    old = web.hang_up()
    until_s = time.monotonic() + stop_timeout_s(settings)
    while old & web.workers() and time.monotonic() < until_s:
        supervisor.sleep(0.1)


def _tell(message: str, *, failed: bool = False) -> None:
    say(message)
    (log.error if failed else log.info)(f"[SERVE] {message}")
