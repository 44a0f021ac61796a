"""What an event costs: beside an empty transaction, and against a commit that does not wait for the disk."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import click
from sqlalchemy import text

from app.audit.chain import append_named
from app.audit.event import Detail, event_now
from app.audit.log import AuditLog
from app.config import parse_settings
from app.db.breaker import CircuitBreaker
from app.db.domains import create_domain
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.db.session import Database
from app.tenancy import acting, carried, everything
from scripts.benchmarks.report import show, time_interleaved

_DOMAIN = "people"
_DETAILS: dict[str, Detail] = {
    "mode": "pgvector",
    "fallback": None,
    "model": "dlib",
    "threshold": 0.07,
    "faces": 1,
    "face_0": "match 00000000-0000-4000-8000-000000000000",
}


@click.command()
@click.option("--runs", type=click.IntRange(min=2), default=500, show_default=True, help="Events each way.")
@click.option("--clients", type=click.IntRange(min=1), default=8, show_default=True, help="Writing at once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def audit(runs: int, clients: int, as_json: bool) -> None:
    """The event of a recognition: stored, stored without waiting for the disk, spooled; in an embedded PostgreSQL."""
    with (
        tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder,
        acting(everything("bench")),
        _running(Path(folder)) as (database, log, away),
    ):

        def empty(_run: int) -> None:
            with database.transaction() as session:
                session.execute(text("SELECT 1"))

        def unsynced(_run: int) -> None:
            with database.transaction() as session:
                session.execute(text("SET LOCAL synchronous_commit = off"))
                append_named(session, event_now("recognition.answered", (), _DETAILS), _DOMAIN)

        def note(_run: int) -> None:
            log.note("recognition.answered", _DETAILS, domain=_DOMAIN)

        ways = {
            "an event of a domain": note,
            "of the installation": lambda _run: log.note("recognition.answered", _DETAILS),
            "without waiting for the disk": unsynced,
            "spooled": lambda _run: away.note("recognition.answered", _DETAILS, domain=_DOMAIN),
            "an empty transaction": empty,
        }
        timings = time_interleaved(ways, runs)
        started_s = perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(carried(note), range(runs)))
        per_s = runs / (perf_counter() - started_s)
    facts: dict[str, object] = {f"{clients} clients in one domain": f"{per_s:.0f} events a second"}
    show("One event more for each recognition", timings, facts, as_json=as_json)


@contextmanager
def _running(folder: Path) -> Iterator[tuple[Database, AuditLog, AuditLog]]:
    settings = parse_settings(storage_dir=folder / "storage", vector_db_url=None)
    server = EmbeddedPostgres(settings)
    server.prepare()
    running = server.start()
    database = Database(settings)
    try:
        upgrade(database.engine)
        with database.transaction() as session:
            create_domain(session, _DOMAIN, model="dlib", contract="bench:8:0", dimension=8)
        log = AuditLog(settings, database, CircuitBreaker())
        log.tend()
        elsewhere = settings.model_copy(update={"storage_dir": folder / "away", "vector_db_enabled": False})
        yield database, log, AuditLog(elsewhere, database, CircuitBreaker())
    finally:
        database.close()
        running.stop()
