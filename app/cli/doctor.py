"""`flask doctor`: what is wrong, and how to mend it."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click
from flask.cli import with_appcontext
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from app.api.wiring import Services, services
from app.db.erasures import unfinished
from app.db.session import driver_reason
from app.embedder.status import PoolStatus, WorkerStatus
from app.enrolment.domains import DomainStatus
from app.errors import DatabaseDisabled, FacedexError
from app.keys.snapshot import Moment, shown_age
from app.tenancy import acting, everything

_DISK_LOW_BYTES: Final = 2 * 1024**3
_SERVE: Final = "start scripts/serve with this STORAGE_DIR"
_RENEW: Final = "flask --app wsgi keys snapshot --renew"
_LOG: Final = "see logs/embedder.log in the storage folder"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; `cure` is empty where nothing is wrong."""

    part: str
    says: str
    cure: str = ""


@click.command("doctor")
@with_appcontext
def doctor() -> None:
    """Examine database, keys, indexes, migrations, datasets, model, pool and disk: what is wrong, and how to mend it."""
    with acting(everything("cli")):
        findings = [finding for examine in _EXAMINATIONS for finding in _run(examine)]
    for finding in findings:
        click.echo(f"{'WRONG' if finding.cure else 'ok':<6} {finding.part:<10} {finding.says}")
        if finding.cure:
            click.echo(f"{'':<17} → {finding.cure}")
    if wrong := sum(1 for finding in findings if finding.cure):
        raise click.ClickException(f"{wrong} of {len(findings)} checks found something wrong.")


def _run(examine: Callable[[Services], list[Finding]]) -> list[Finding]:
    part = examine.__name__.strip("_")
    try:
        return examine(services())
    except DatabaseDisabled:
        return []
    except FacedexError as error:
        reason = driver_reason(error)
        return [Finding(part, f"{error} ({reason})" if reason else str(error), _cure(error))]
    except ProgrammingError as error:  # tables are missing: an older schema, or none
        return [
            Finding(
                part, driver_reason(error) or "the database's schema is not this program's", f"{_SERVE}: it migrates"
            )
        ]


def _cure(error: FacedexError) -> str:
    cures = {
        "database_unavailable": f"{_SERVE}, or check VECTOR_DB_URL; the embedded server's log is logs/postgres.log",
        "embedder_unavailable": _SERVE,
        "unknown_model": "flask --app wsgi models list, then models install or models use",
        "invalid_pack": "remove the pack's folder under models/ in the storage folder, and install it again",
    }
    return cures.get(error.code, "see the logs in the storage folder")


def _database(found: Services) -> list[Finding]:
    with found.database.transaction() as session:
        version = session.scalar(text("SHOW server_version"))
    # Here, because migrations need Alembic, which other commands would load for nothing.
    from app.db.schema import current_revision, head_revision

    current, head = current_revision(found.database.engine), head_revision()
    schema = Finding(
        "schema", f"revision {current or 'none'}", "" if current == head else f"{_SERVE}: it migrates to {head}"
    )
    return [Finding("database", f"PostgreSQL {version}"), schema]


def _extension(found: Services) -> list[Finding]:
    with found.database.transaction() as session:
        row = session.execute(
            text("SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'")
        ).one_or_none()
    if row is None or row[0] is None:
        return [Finding("extension", "pgvector is not installed", "CREATE EXTENSION vector, as a superuser")]
    cure = "" if row[0] == row[1] else f"ALTER EXTENSION vector UPDATE, as a superuser: {row[1]} is available"
    return [Finding("extension", f"pgvector {row[0]}", cure)]


def _erasures(found: Services) -> list[Finding]:
    with found.database.transaction() as session:
        count = len(unfinished(session))
    if not count:
        return []
    return [Finding("erasures", f"{count} not finished: something of who was erased is left", "flask erase --finish")]


def _domains(found: Services) -> list[Finding]:
    reports = list(found.domains.reports())
    indexes = [finding for report in reports for finding in _index(report)]
    migrations = [finding for report in reports for finding in _migration(report)]
    return [*(indexes or [Finding("indexes", f"{len(reports)} domains, every index valid")]), *migrations]


def _index(report: DomainStatus) -> list[Finding]:
    info, index, run = report.info, report.index, report.migration
    if not report.complete or (run is not None and run.state == "running"):
        return []  # a migration builds it at its end
    cure = f"flask --app wsgi domains reindex {info.id}"
    findings = []
    if not index.valid:
        says = f"the index of domain {info.name!r} is {'invalid' if index.exists else 'missing'}"
        findings.append(Finding("indexes", says, cure))
    if index.rows != info.embeddings:
        says = f"domain {info.name!r} counts {info.embeddings} templates and holds {index.rows}"
        findings.append(Finding("indexes", says, cure))
    return findings


def _migration(report: DomainStatus) -> list[Finding]:
    """A migration that was broken off, or that runs; one that was finished is not worth a line."""
    name, run = report.info.name, report.migration
    if run is None:
        if report.complete:
            return []
        cure = f"{_migrate_pkl(name, 'FOLDER')}, where its dataset lies; or delete the domain"
        return [Finding("migrations", f"domain {name!r} is not complete, and nothing is known of its migration", cure)]
    so_far = (
        f"{run.rows_done} of {'?' if run.rows_total is None else run.rows_total} rows of {run.source!r} are settled"
    )
    if run.state == "running":
        return [Finding("migrations", f"domain {name!r}: running, {so_far}")]
    if run.state == "finished":
        return []
    what = f"failed ({run.error})" if run.state == "failed" else "was interrupted"
    anew = ("--mode", "reembed", "--images", "PICTURES") if run.mode == "reembed" else ()
    cure = f"{_migrate_pkl(name, f'FOLDER/{run.source}', *anew, '--resume')}, where that very file lies"
    return [Finding("migrations", f"the migration into domain {name!r} {what}: {so_far}", cure)]


def _migrate_pkl(domain: str, path: str, *options: str) -> str:
    return shlex.join(["flask", "--app", "wsgi", "migrate-pkl", "--domain", domain, "--path", path, *options])


def _datasets(found: Services) -> list[Finding]:
    findings = []
    for status in found.datasets.report():
        says = f"domain {status.domain!r}: {status.persons} persons, {status.rows} embeddings"
        cure = "put a dataset in its place that can be read: docs/operating.md" if status.problem else ""
        findings.append(Finding("datasets", f"{says}; {status.problem}" if status.problem else says, cure))
    cure = "put a dataset there, in the domain's folder or at the path in PKL_DATASETS, or remove what is left of it"
    findings += [Finding("datasets", says, cure) for says in found.datasets.misplaced()]
    if not findings and not found.settings.vector_db_enabled:
        says = "there is none, and the database is switched off (VECTOR_DB_ENABLED=false)"
        return [Finding("datasets", says, "put a DeepFace dataset into storage/pkl/<domain>/")]
    return findings


def _model(found: Services) -> list[Finding]:
    manifest = found.packs.verify(found.packs.active_name(found.settings.face_model)).manifest
    return [Finding("model", f"{manifest.name}, digests right, licence: {manifest.licence.name}")]


def _pool(found: Services) -> list[Finding]:
    status = found.embedder.status()
    findings = [_default_model(found, status), *map(_worker, status.workers)]
    loaded = {worker.model for worker in status.workers}
    if found.settings.embedder_url is None and (missing := sorted(set(found.settings.embedder_extra_models) - loaded)):
        says = f"EMBEDDER_EXTRA_MODELS names {', '.join(missing)}, which the pool does not load"
        findings.append(Finding("pool", says, "restart the service"))
    if status.quarantined:  # somebody's pictures, and no fault of the service's
        says = f"pictures in quarantine, of which workers died: {status.quarantined} (flask --app wsgi quarantine list)"
        findings.append(Finding("pool", says))
    return findings


def _default_model(found: Services, status: PoolStatus) -> Finding:
    if status.model is None:
        return Finding("pool", status.problem or "no model is loaded", _LOG)
    wanted = found.packs.active_name(found.settings.face_model)
    says = f"{status.model} loaded, {status.queue_length} jobs wait"
    return Finding("pool", says, "" if status.model == wanted else f"restart the service: {wanted} is chosen")


def _worker(worker: WorkerStatus) -> Finding:
    says = f"worker {worker.name}: {worker.state}"
    if worker.problem is not None:
        return Finding("pool", f"{says}: {worker.problem}", _LOG)
    if worker.is_loaded:
        says += f", {worker.jobs} jobs, {worker.rss_bytes >> 20} MiB"
    return Finding("pool", says)


def _disk(found: Services) -> list[Finding]:
    storage = found.settings.storage_dir
    if not storage.is_dir():
        return [Finding("disk", f"{storage} does not exist", _SERVE)]
    free = shutil.disk_usage(storage).free
    cure = "" if free >= _DISK_LOW_BYTES else "make room: PostgreSQL stops when the disk is full"
    return [Finding("disk", f"{free / 1024**3:.1f} GiB free for {storage}", cure)]


def _keys(found: Services) -> list[Finding]:
    """The snapshot of the keys; while there is a database, a running service renews it."""
    snapshot, settings = found.keeper.snapshot, found.settings
    if snapshot is None:
        if not settings.keys_snapshot_file.exists():
            return []
        return [Finding("keys", "the snapshot of the keys is not signed by this installation", _RENEW)]
    says = f"{len(snapshot.keys)} keys in a snapshot {shown_age(snapshot.taken.age_s(Moment.now()))} old"
    needed = not settings.vector_db_enabled and not found.keeper.is_fresh(snapshot)
    return [Finding("keys", says + (", which is not gone by any more" if needed else ""), _RENEW if needed else "")]


def _audit(found: Services) -> list[Finding]:
    """Events that wait for the database, and those that nothing could be made of."""
    spool, enabled = found.audit.spool, found.settings.vector_db_enabled
    findings = []
    if spool.unreadable.exists():
        cure = f"look at it, then remove it: {spool.unreadable}"
        findings.append(Finding("audit", "lines of the spool were no events, and were put aside", cure))
    if waiting_bytes := spool.size_bytes:
        says = f"{waiting_bytes / 1024:.0f} KiB of events wait for the database"
        full = waiting_bytes > spool.max_bytes / 2
        cure = "flask --app wsgi audit import" if enabled else "move the folder audit/ away: it is filling up"
        findings.append(Finding("audit", says, cure if enabled or full else ""))
    return findings


_EXAMINATIONS = (_database, _extension, _keys, _audit, _erasures, _domains, _datasets, _model, _pool, _disk)
