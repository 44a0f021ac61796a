"""Jobs in the database: one transaction with the caller's, and nothing of the queue for tenants."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import sqlalchemy.exc
from packaging.version import Version
from sqlalchemy import text

from app.config import PROJECT_ROOT
from app.db import jobs
from app.db.domains import create_domain
from app.db.job_files import NewFile, page_of_files, store_files
from app.db.session import Database
from app.db.work_models import Job
from app.tenancy import Reach, acting


@pytest.fixture
def domains(database: Database) -> list[int]:
    """Two domains."""
    with database.transaction() as session:
        return [create_domain(session, name, model="m", contract="c", dimension=8).id for name in ("one", "two")]


def in_queue(database: Database) -> list[dict]:
    with database.maintenance() as connection:
        rows = connection.execute(text("SELECT args FROM procrastinate.procrastinate_jobs ORDER BY id"))
        return [row.args for row in rows]


def test_a_job_is_there_and_in_the_queue_or_neither(database: Database, domains: list[int]) -> None:
    domain = domains[0]
    with database.transaction() as session:
        jobs.enqueue(session, "x", domain_id=domain)
        session.rollback()
    assert in_queue(database) == []
    with database.transaction() as session:
        job_id = jobs.enqueue(session, "x", domain_id=domain, arguments={"number": 7}, total=3)
    assert in_queue(database) == [{"job": str(job_id)}]  # nothing but the id
    with database.transaction() as session:
        claimed = jobs.claim_job(session, job_id)
    assert claimed is not None
    assert (claimed.domain, claimed.arguments, claimed.attempt, claimed.created_by) == ("one", {"number": 7}, 1, "test")


def test_tenants_can_neither_read_nor_change_the_queue(database: Database, domains: list[int]) -> None:
    domain = domains[0]
    with acting(Reach("key", frozenset({"one"}), frozenset({domain}))):
        with database.transaction() as session:
            jobs.enqueue(session, "x", domain_id=domain)
        for statement in (
            "SELECT * FROM procrastinate.procrastinate_jobs",
            "DELETE FROM procrastinate.procrastinate_jobs",
            "SELECT procrastinate.procrastinate_register_worker_v1()",
        ):
            with (
                pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"),
                database.transaction() as session,
            ):
                session.execute(text(statement))


def test_a_job_outside_the_reach_cannot_be_made(database: Database, domains: list[int]) -> None:
    mine, theirs = domains
    with (
        acting(Reach("key", frozenset({"one"}), frozenset({mine}))),
        pytest.raises(sqlalchemy.exc.ProgrammingError, match="row-level security"),
        database.transaction() as session,
    ):
        jobs.enqueue(session, "x", domain_id=theirs)
    assert in_queue(database) == []


def test_an_attempt_that_was_given_up_changes_nothing(database: Database, domains: list[int]) -> None:
    domain = domains[0]
    with database.transaction() as session:
        job_id = jobs.enqueue(session, "x", domain_id=domain)
    with database.transaction() as session:
        first = jobs.claim_job(session, job_id)
        second = jobs.claim_job(session, job_id)
        assert first is not None
        assert second is not None
        assert not jobs.is_mine(session, first)
        assert not jobs.report_progress(session, first, 1, None)
        assert not jobs.report_step(session, first)
        assert not jobs.hand_back(session, first)
        assert not jobs.end_job(session, first, "succeeded")
        assert jobs.report_step(session, second)
        assert jobs.end_job(session, second, "succeeded", result={"count": 1})
        assert jobs.claim_job(session, job_id) is None


def test_coming_on_forgives_setbacks(database: Database, domains: list[int]) -> None:
    domain = domains[0]
    with database.transaction() as session:
        job_id = jobs.enqueue(session, "x", domain_id=domain)
    with database.transaction() as session:
        assert [claimed.setbacks for _ in range(3) if (claimed := jobs.claim_job(session, job_id))] == [1, 2, 3]
        claimed = jobs.claim_job(session, job_id)
        assert claimed is not None
        assert jobs.report_progress(session, claimed, 5, 10)
        again = jobs.claim_job(session, job_id)
        assert again is not None
        assert (again.setbacks, again.attempt) == (1, 5)


def test_ended_jobs_are_swept_when_they_are_old(database: Database, domains: list[int]) -> None:
    domain = domains[0]
    with database.transaction() as session:
        ended, waiting = (jobs.enqueue(session, "x", domain_id=domain) for _ in range(2))
    with database.transaction() as session:
        claimed = jobs.claim_job(session, ended)
        assert claimed is not None
        jobs.end_job(session, claimed, "failed", code="x", message="x")
        session.execute(text("UPDATE jobs SET created_at = now() - interval '2 days'"))
    with database.transaction() as session:
        assert jobs.sweep_jobs(session, keep_s=3600, limit=10) == 0
        session.execute(text("UPDATE jobs SET finished_at = now() - interval '2 hours' WHERE id = :id"), {"id": ended})
        assert jobs.sweep_jobs(session, keep_s=3600, limit=10) == 1
        assert list(session.scalars(text("SELECT id FROM jobs"))) == [waiting]


def test_the_queue_has_the_tables_of_the_package_that_is_installed() -> None:
    """When this fails, the package was upgraded: add a migration with its own new ones (docs/decisions/0014)."""
    kept = max((PROJECT_ROOT / "migrations" / "procrastinate").glob("[0-9]*.sql"), key=lambda path: Version(path.stem))
    installed = Path(str(files("procrastinate") / "sql" / "schema.sql"))
    assert hashlib.sha256(kept.read_bytes()).digest() == hashlib.sha256(installed.read_bytes()).digest()


def test_a_list_of_files_does_not_read_their_pictures(database: Database, domains: list[int]) -> None:
    with database.transaction() as session:
        job = session.get_one(Job, jobs.enqueue(session, "import", domain_id=domains[0]))
        files = [NewFile("Ana", f"{number}.jpg", b"sha", b"picture") for number in range(2)]
        store_files(session, job.id, domains[0], files)
        found = page_of_files(session, job, state=None, after=-1, limit=5)
        assert [row.file_name for row in found] == ["0.jpg", "1.jpg"]
        for row in found:
            with pytest.raises(sqlalchemy.exc.InvalidRequestError):
                _ = row.picture
