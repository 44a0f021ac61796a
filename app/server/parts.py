"""How each part is started."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from app.config import PROJECT_ROOT, SUPERVISED, Settings
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.db.prewarm import prewarm
from app.db.session import Database, database_url, driver_reason
from app.errors import DatabaseError
from app.server.children import Child
from app.server.supervisor import Supervisor

DATABASE: Final = "database"
POOL: Final = "worker pool"
WEB: Final = "web"
JOBS: Final = "jobs worker"
POOL_ARGV: Final = ["-m", "app.embedder.pool"]
JOBS_ARGV: Final = ["-m", "app.jobs"]
WEB_ARGV: Final = ["-m", "gunicorn", "--config", str(PROJECT_ROOT / "gunicorn.conf.py")]

# Without a database nothing else answers, so that datasets are waited for; a large one goes on being prepared beside.
_DATASETS_WITHIN_S: Final = 10.0
_MIGRATE_EVERY_S: Final = 3.0
# A gigabyte from an SSD takes a few seconds; from anything slower, answering slowly is better than not at all.
_WARM_WITHIN_S: Final = 15.0
_WARM_IN_SILENCE_S: Final = 1.0


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


def say(message: str) -> None:
    """Tell the person at the terminal, while there is one."""
    with contextlib.suppress(OSError):
        print(f"facedex: {message}", file=sys.stderr, flush=True)  # noqa: T201


def start_database(settings: Settings, supervisor: Supervisor) -> None:
    """Start the embedded server, unless it runs or another is configured, and migrate.

    Raises:
        DatabaseError: it cannot be started, reached or migrated.
        Stopped: a signal came.
    """
    if settings.vector_db_url is None and not supervisor.has_part(DATABASE):
        server = EmbeddedPostgres(settings)
        say("starting the database")
        server.prepare()
        supervisor.start(DATABASE, server.start, stop_timeout_s=30, stop_last=True)
    supervisor.check_stopped()
    migrate_database(settings)


def migrate_database(settings: Settings) -> None:
    """Bring the schema to this program's version.

    Raises:
        DatabaseError: it cannot be reached or migrated.
    """
    engine = create_engine(database_url(settings), hide_parameters=True, connect_args={"connect_timeout": 10})
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def warm_database(settings: Settings, supervisor: Supervisor) -> None:
    """Have the server read what searches need, before anything is ready: the first ones would wait for the disk.

    It is bounded, and nothing depends on it: where it fails, the first searches are slow.

    Raises:
        Stopped: a signal came.
    """
    database = Database(settings)
    try:
        warmed = prewarm(database, limit_s=_WARM_WITHIN_S, go_on=lambda: not supervisor.stopping)
    except DatabaseError as error:
        say(f"the galleries were not read into memory: {error}")
        return
    except SQLAlchemyError as error:  # of a right that is missing, say; what the driver says is for the operator
        say(f"the galleries were not read into memory: {driver_reason(error)}")
        return
    finally:
        database.close()
    supervisor.check_stopped()
    if warmed.elapsed_s > _WARM_IN_SILENCE_S or warmed.left_out:
        left = f", {warmed.left_out} left for their first searches" if warmed.left_out else ""
        say(
            f"read {warmed.galleries} galleries ({warmed.size_bytes >> 20} MB) into memory in {warmed.elapsed_s:.1f} s{left}"
        )


def migrate_later(settings: Settings, supervisor: Supervisor) -> None:
    """Try every few seconds, in a process of its own, until the database is there."""
    attempt: Child | None = None
    next_s = time.monotonic() + _MIGRATE_EVERY_S

    def chore() -> bool:
        nonlocal attempt, next_s
        if attempt is None:
            if time.monotonic() >= next_s:
                attempt = _spawn(settings, "migration", ["-m", "app.server.migrate"], "serve.log")
                supervisor.run_once(attempt)
            return False
        if not attempt.exited():
            return False
        migrated = attempt.process.returncode == 0
        attempt, next_s = None, time.monotonic() + _MIGRATE_EVERY_S
        if migrated:
            finish_erasures(settings, supervisor)
        return migrated

    supervisor.add_chore(chore)


def has_datasets(settings: Settings) -> bool:
    """Whether there may be datasets: a domain's folder, or a path that is configured."""
    return bool(settings.pkl_datasets) or any(
        entry.is_dir() and not entry.name.startswith(".") for entry in settings.pkl_dir.iterdir()
    )


def finish_erasures(settings: Settings, supervisor: Supervisor) -> None:
    """Take up erasures that were broken off, beside everything else."""
    supervisor.run_once(_spawn(settings, "erasures", ["-m", "app.erasure.finish"], "serve.log"))


def prepare_datasets(settings: Settings, supervisor: Supervisor, *, awaited: bool) -> None:
    """Bring the datasets' searchable forms up to date, beside everything else.

    Args:
        awaited: wait for it some seconds, since nothing else answers.

    Raises:
        Stopped: a signal came.
    """
    # What was made from datasets that are all gone is removed as well.
    if not has_datasets(settings) and not any(settings.pkl_dir.iterdir()):
        return
    child = _spawn(settings, "datasets", ["-m", "app.datasets.prepare"], "serve.log")
    supervisor.run_once(child)
    if not awaited:
        return
    say("preparing the datasets")
    until_s = time.monotonic() + _DATASETS_WITHIN_S
    while not child.exited() and time.monotonic() < until_s:
        supervisor.sleep(0.1)


def start_pool_and_web(settings: Settings, supervisor: Supervisor) -> None:
    """Start the worker pool, unless another is configured, and the web.

    Raises:
        Stopped: a signal came.
    """

    def part(name: str, argv: list[str], log_name: str) -> Callable[[], Child]:
        return lambda: _spawn(settings, name, argv, log_name)

    if settings.embedder_url is None:
        supervisor.start(POOL, part(POOL, POOL_ARGV, "embedder.log"), stop_timeout_s=stop_timeout_s(settings))
    supervisor.start(WEB, part(WEB, WEB_ARGV, "gunicorn-error.log"), stop_timeout_s=stop_timeout_s(settings))


def start_jobs(settings: Settings, supervisor: Supervisor) -> None:
    """Start the jobs worker where there is a database for it, unless it runs; it waits for that by itself.

    Raises:
        Stopped: a signal came.
    """
    if settings.vector_db_enabled and settings.jobs_workers and not supervisor.has_part(JOBS):
        start = lambda: _spawn(settings, JOBS, JOBS_ARGV, "jobs.log")  # noqa: E731
        supervisor.start(JOBS, start, stop_timeout_s=stop_timeout_s(settings))


def stop_timeout_s(settings: Settings) -> float:
    """How long a part may take to end what it holds."""
    return settings.request_deadline_s + 10


def _spawn(settings: Settings, name: str, arguments: list[str], log_name: str) -> Child:
    env = os.environ | {
        SUPERVISED: "1",
        # One core, one worker, one thread: libraries that start threads of their own only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # glibc would give each of the web's threads a heap of its own, and all of them keep what their largest request took.
        "MALLOC_ARENA_MAX": "2",
        "PYTHONUNBUFFERED": "1",
    }
    if name == POOL:
        # Pictures, and what detectors make of them, in pages of 2 MiB where the kernel has them for who asks: less to look up.
        env["GLIBC_TUNABLES"] = ":".join(filter(None, [env.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"]))
    argv = [sys.executable, *arguments]
    return Child.spawn(name, argv, env=env, cwd=PROJECT_ROOT, log_file=settings.logs_dir / log_name)
