"""Migrations whose process or database is killed, wherever they happen to be, and which are then gone on with."""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from app.config import Settings
from app.datasets import loading
from app.datasets.migrate import migrate
from app.datasets.report import Silent
from app.db import migrate as schema
from app.db.embedded import EmbeddedPostgres
from app.db.migration_runs import latest_run
from app.db.session import Database
from app.errors import DatabaseUnavailable, DomainNotFound
from tests.datasets.migrating import expected, gallery_of, order, rows_of, run, runs, stored, write
from tests.db_server import storage_in
from tests.service.running import eventually

ROWS = rows_of(1500, persons=40)
BATCH = 50


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


class DyingAt(Silent):
    """Sends its process a signal when a stage has begun and this many rows of it are done."""

    def __init__(self, stage: str, rows: int, *, of: int = signal.SIGKILL) -> None:
        self.wanted, self.rows, self.signal = stage, rows, of
        self.now = ""

    def stage(self, name: str, total: int | None, done: int = 0) -> None:
        self.now = name
        self.advance(0)

    def advance(self, rows: int) -> None:
        if self.now == self.wanted:
            self.rows -= rows
            if self.rows <= 0:
                die(self.signal)


def _work(settings: Settings, path: Path, folder: Path, progress: Silent, prepare: Callable[[], None] | None) -> None:
    # Whoever started the tests may have had Ctrl-C ignored, as a shell does for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare is not None:
        prepare()
    migrate(order(path, folder, batch_rows=BATCH), Database(settings), progress)


def start(
    settings: Settings,
    path: Path,
    folder: Path,
    *,
    progress: Silent | None = None,
    prepare: Callable[[], None] | None = None,
) -> multiprocessing.process.BaseProcess:
    """A migration in a process of its own."""
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(settings, path, folder, progress or Silent(), prepare)
    )
    process.start()
    return process


def at_work(database: Database) -> int:
    """Whose statements the server still carries out: a commit outlives the client that has asked for it."""
    others = "datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    with database.maintenance() as connection:
        return connection.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}"))


def holds_a_part(database: Database, path: Path) -> None:
    """What is there is what the checkpoint says, and no more; and whoever asks is told that it is not all."""
    eventually(lambda: at_work(database) == 0)
    try:
        gallery = gallery_of(database)
    except DomainNotFound:
        return
    whole = expected(ROWS)
    part = stored(database)
    assert part <= whole
    (found,) = runs(database)
    assert found.rows_migrated == found.rows_done == sum(part.values())
    assert part == expected(ROWS[: found.rows_done]) if found.rows_done else not part
    assert gallery.complete == (found.state == "finished")
    if gallery.complete:
        assert gallery.index_valid
        assert part == whole


def is_whole_after_going_on(database: Database, path: Path, folder: Path) -> None:
    run(database, path, folder, batch_rows=BATCH)
    assert stored(database) == expected(ROWS)
    gallery = gallery_of(database)
    assert gallery.complete
    assert gallery.index_valid
    with database.transaction() as session:
        invalid = text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
        assert session.scalar(invalid) == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, ROWS)


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_moment(
    seed: int, database_settings: Settings, database: Database, path: Path, tmp_path: Path
) -> None:
    process = start(database_settings, path, tmp_path)
    # The whole takes about as long as this; later ones find it finished, which is a moment too.
    process.join(random.Random(seed).uniform(0.05, 1.5))
    process.kill()
    process.join()
    holds_a_part(database, path)
    is_whole_after_going_on(database, path, tmp_path)


def test_killed_again_and_again(database_settings: Settings, database: Database, path: Path, tmp_path: Path) -> None:
    done = 0
    for batches in (1, 3, 2, 5, 1, 4, 1, 2, 3, 6):
        process = start(database_settings, path, tmp_path, progress=DyingAt("copy", batches * BATCH))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        done += batches * BATCH
        holds_a_part(database, path)
        assert runs(database)[0].rows_done == done
        with database.transaction() as session:
            status = latest_run(session, gallery_of(database).domain_id, "people")
        assert status is not None
        assert status.rows_done == done
    is_whole_after_going_on(database, path, tmp_path)
    assert len(runs(database)) == 1


@pytest.mark.parametrize(
    ("stage", "rows"), [("read", 0), ("copy", 0), ("copy", 50), ("copy", 700), ("copy", 1500), ("index", 0)]
)
def test_killed_in_each_stage(
    stage: str, rows: int, database_settings: Settings, database: Database, path: Path, tmp_path: Path
) -> None:
    process = start(database_settings, path, tmp_path, progress=DyingAt(stage, rows))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    holds_a_part(database, path)
    is_whole_after_going_on(database, path, tmp_path)


def _before_a_commit() -> None:
    """Between the checkpoint of the fifth batch and its commit."""
    advance, left = loading.advance, iter(range(5, 0, -1))

    def dying(*arguments: object) -> object:
        moved = advance(*arguments)  # type: ignore[arg-type]
        if next(left) == 1:
            die()
        return moved

    loading.advance = dying  # type: ignore[assignment]


def _in_the_middle_of_the_index() -> None:
    build = loading.build_index

    def dying(*arguments: object, **more: object) -> None:
        threading.Timer(0.05, die).start()
        build(*arguments, **more)  # type: ignore[arg-type]
        time.sleep(60)

    loading.build_index = dying  # type: ignore[assignment]


def _behind_the_index() -> None:
    build = loading.build_index

    def dying(*arguments: object, **more: object) -> None:
        build(*arguments, **more)  # type: ignore[arg-type]
        die()

    loading.build_index = dying  # type: ignore[assignment]


def _before_the_switch_is_committed() -> None:
    finish = loading.finish

    def dying(*arguments: object, **more: object) -> None:
        finish(*arguments, **more)  # type: ignore[arg-type]
        die()

    loading.finish = dying  # type: ignore[assignment]


@pytest.mark.parametrize(
    "prepare", [_before_a_commit, _in_the_middle_of_the_index, _behind_the_index, _before_the_switch_is_committed]
)
def test_killed_where_it_would_hurt(
    prepare: Callable[[], None], database_settings: Settings, database: Database, path: Path, tmp_path: Path
) -> None:
    process = start(database_settings, path, tmp_path, prepare=prepare)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    holds_a_part(database, path)
    assert not gallery_of(database).complete
    with database.transaction() as session:
        status = latest_run(session, gallery_of(database).domain_id, "people")
    assert status is not None
    assert status.state in ("interrupted", "running")  # the server may still be busy with what it was asked
    is_whole_after_going_on(database, path, tmp_path)


def test_stopped_by_an_operator(database_settings: Settings, database: Database, path: Path, tmp_path: Path) -> None:
    process = start(database_settings, path, tmp_path, progress=DyingAt("copy", 700, of=signal.SIGINT))
    process.join()
    assert process.exitcode not in (0, -signal.SIGKILL)
    holds_a_part(database, path)
    assert 0 < runs(database)[0].rows_done < len(ROWS)
    is_whole_after_going_on(database, path, tmp_path)


class Slow(Silent):
    """Takes its time."""

    def advance(self, rows: int) -> None:
        time.sleep(0.1)


def test_the_database_is_killed_in_the_middle_and_comes_back(path: Path, tmp_path: Path) -> None:
    settings = storage_in(tmp_path / "storage")
    settings.storage_dir.mkdir(mode=0o711)
    tmp_path.chmod(0o711)
    server = EmbeddedPostgres(settings)
    server.prepare()
    running = server.start()
    database = Database(settings)
    try:
        schema.upgrade(database.engine)

        class Killing(Silent):
            def stage(self, name: str, total: int | None, done: int = 0) -> None:
                self.loading, self.left = name == "copy", 700

            def advance(self, rows: int) -> None:
                self.left -= rows
                if self.loading and self.left == 0:
                    postmaster = int((settings.storage_dir / "postgres/postmaster.pid").read_text().split()[0])
                    for process in [psutil.Process(postmaster), *psutil.Process(postmaster).children()]:
                        with suppress(psutil.NoSuchProcess):  # it went with its server
                            process.kill()

        with pytest.raises(DatabaseUnavailable):
            migrate(order(path, tmp_path, batch_rows=BATCH), database, Killing())
        running.stop()
        database.close()
        running = server.start()
        holds_a_part(database, path)
        # The last batches may be lost with the server: rows and checkpoint alike.
        assert runs(database)[0].rows_done <= 700
        assert runs(database)[0].state == "running"  # nobody could write down that it failed
        is_whole_after_going_on(database, path, tmp_path)
    finally:
        database.close()
        running.stop()
