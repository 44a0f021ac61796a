"""Real workers on a real queue, with kinds of jobs that misbehave."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest
from sqlalchemy import create_engine, text

from app.config import PROJECT_ROOT, Settings
from app.db import migrate
from app.db.domains import create_domain
from app.db.jobs import enqueue
from app.db.session import Database, database_url
from app.enrolment.jobs import ENDED, JobInfo, JobService
from app.jobs.runner import pause_s
from app.tenancy import Reach, acting
from tests.jobs.kinds import EFFECTS
from tests.service.running import eventually

Worker = subprocess.Popen
Start = Callable[..., Worker]


@pytest.fixture
def start(database_settings: Settings, tmp_path) -> Iterator[Start]:
    """Starts a worker on the test's database, and ends it after the test."""
    with ExitStack() as started:

        def start(settings: Settings = database_settings, **env: str) -> Worker:
            url = settings.vector_db_url
            assert url is not None
            given = {"VECTOR_DB_URL": url.get_secret_value(), "STORAGE_DIR": str(tmp_path), "JOBS_STALLED_S": "4"}
            argv = [sys.executable, "-m", "tests.jobs.kinds"]
            worker = subprocess.Popen(argv, cwd=PROJECT_ROOT, env=os.environ | given | env)
            started.callback(worker.wait)
            started.callback(worker.kill)
            return worker

        yield start


@pytest.fixture
def domain(database: Database) -> int:
    with database.maintenance() as connection:
        connection.execute(text(EFFECTS))
    with database.transaction() as session:
        return create_domain(session, "one", model="m", contract="c", dimension=8).id


@pytest.fixture
def jobs(database: Database) -> JobService:
    return JobService(database)


@pytest.fixture
def submit(database: Database, domain: int) -> Callable[..., list[str]]:
    def submit(kind: str, count: int = 1) -> list[str]:
        with database.transaction() as session:
            return [str(enqueue(session, kind, domain_id=domain)) for _ in range(count)]

    return submit


def done(jobs: JobService, *ids: str) -> list[JobInfo]:
    eventually(lambda: all(jobs.read(job).state in ENDED for job in ids))
    return [jobs.read(job) for job in ids]


def effects(database: Database) -> list[tuple[UUID, int, str]]:
    with database.transaction() as session:
        return [tuple(row) for row in session.execute(text("SELECT job, worker, note FROM effects"))]


def registered(database: Database) -> int:
    with database.maintenance() as connection:
        return connection.scalar(text("SELECT count(*) FROM procrastinate.procrastinate_workers"))


def began(database: Database, count: int = 1) -> None:
    eventually(lambda: len(effects(database)) >= count)


def test_two_workers_share_two_hundred_jobs_and_each_runs_once(database, jobs, submit, start) -> None:
    workers = [start(JOBS_WORKERS="2") for _ in range(2)]
    eventually(lambda: registered(database) == 2)
    ids = submit("effect", 200)
    eventually(lambda: jobs.report().counts == {("effect", "succeeded"): 200})
    ran = effects(database)
    assert len(ran) == len({job for job, _, _ in ran}) == 200
    assert {str(job) for job, _, _ in ran} == set(ids)
    assert {worker for _, worker, _ in ran} == {worker.pid for worker in workers}
    with database.maintenance() as connection:  # what the queue itself held is gone with them
        assert connection.scalar(text("SELECT count(*) FROM procrastinate.procrastinate_jobs")) == 0


def test_errors_that_may_pass_are_tried_again_and_others_are_not(database, jobs, submit, start, tmp_path) -> None:
    ids = [*submit("flaky"), *submit("permanent"), *submit("broken"), *submit("unheard_of")]
    start()
    flaky, permanent, broken, unheard = done(jobs, *ids)
    assert (flaky.state, flaky.attempts, flaky.result, flaky.error_code) == ("succeeded", 2, {"runs": 2}, None)
    assert (permanent.state, permanent.attempts, permanent.error_code) == ("failed", 1, "no_face")
    assert (broken.state, broken.attempts, broken.error_code) == ("failed", 1, "internal_error")
    assert "secret" not in (broken.error_message or "")
    assert (unheard.state, unheard.error_code) == ("failed", "internal_error")


def test_what_is_kept_for_a_time_goes_though_nobody_asks_the_web_anything(database, domain, start) -> None:
    """Frames of sessions that nobody comes back to, and answers to idempotency keys."""
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO face_sessions (domain_id, kind, label, created_by, token_sha256, limits, expires_at)"
                " VALUES (:domain, 'enrol', 'Ana', 'test', sha256('x'), '{}', now() - interval '1 second')"
            ),
            {"domain": domain},
        )
        session.execute(
            text(
                "INSERT INTO idempotent_requests (client, key, fingerprint, created_at)"
                " VALUES ('test', 'old', sha256('x'), now() - interval '2 days')"
            )
        )
    start()

    def left() -> tuple[int, int]:
        with database.transaction() as session:
            query = (
                "SELECT (SELECT count(*) FROM face_sessions WHERE state = 'open'), count(*) FROM idempotent_requests"
            )
            return tuple(session.execute(text(query)).one())

    eventually(lambda: left() == (0, 0))


def test_pauses_grow_and_stay_bounded() -> None:
    assert [pause_s(setbacks) for setbacks in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert pause_s(10_000) == 300


def test_a_job_whose_worker_was_killed_is_taken_up_by_another(database, jobs, submit, start) -> None:
    (job,) = submit("until_cancelled")
    first = start()
    began(database)
    first.kill()
    second = start()
    (info,) = done(jobs, job)
    assert (info.state, info.attempts) == ("succeeded", 2)
    assert [worker for _, worker, _ in effects(database)] == [first.pid, second.pid]


def test_a_worker_that_comes_back_leaves_the_job_to_the_one_that_has_it(database, jobs, submit, start) -> None:
    (job,) = submit("third_time")
    stopped = start(JOBS_WORKERS="1")
    began(database)
    stopped.send_signal(signal.SIGSTOP)
    rescuer = start(JOBS_WORKERS="1")
    began(database, 2)
    stopped.send_signal(signal.SIGCONT)
    began(database, 3)
    done(jobs, *submit("effect"))  # the rescuer has its hands full: once it is done, the other is through with the job
    rescuer.terminate()
    assert rescuer.wait(60) == 0
    (info,) = done(jobs, job)
    assert (info.state, info.attempts) == ("succeeded", 3)
    runs = [worker for id_, worker, note in effects(database) if str(id_) == job and not note]
    assert runs == [stopped.pid, rescuer.pid, stopped.pid]


def test_a_job_that_the_queue_has_lost_is_done_all_the_same(database, jobs, submit, start) -> None:
    (job,) = submit("effect")
    with database.maintenance() as connection:
        connection.execute(text("UPDATE jobs SET created_at = created_at - interval '1 minute'"))
        connection.execute(text("SET LOCAL search_path = procrastinate; DELETE FROM procrastinate_jobs"))
    start()
    (info,) = done(jobs, job)
    assert (info.state, info.attempts) == ("succeeded", 1)
    assert len(effects(database)) == 1


def test_a_job_that_kills_its_workers_is_given_up(database, jobs, submit, start) -> None:
    (job,) = submit("deadly")
    for count in (1, 2):
        worker = start(JOBS_MAX_ATTEMPTS="2")
        began(database, count)
        assert worker.wait(60) == -signal.SIGKILL
    start(JOBS_MAX_ATTEMPTS="2")
    (info,) = done(jobs, job)
    assert (info.state, info.error_code) == ("failed", "gave_up")
    assert len(effects(database)) == 2


def test_a_running_job_that_is_cancelled_stops(database, jobs, submit, start) -> None:
    (job,) = submit("until_cancelled")
    start()
    began(database)
    assert jobs.cancel(job).state == "cancelled"
    began(database, 2)
    assert [note for _, _, note in effects(database)] == ["", "stopped"]
    (after,) = submit("effect")
    done(jobs, after)
    assert jobs.read(job).state == "cancelled"


@pytest.mark.parametrize("kind", ["until_cancelled", "stubborn"])
def test_a_worker_that_is_told_to_end_hands_back_what_it_has(database, jobs, submit, start, kind: str) -> None:
    (job,) = submit(kind)
    first = start(REQUEST_DEADLINE_S="0.5")
    began(database)
    first.terminate()
    assert first.wait(60) == 0
    assert jobs.read(job).state in ("queued", "running")
    start()
    (info,) = done(jobs, job)
    assert (info.state, info.attempts) == ("succeeded", 2)
    assert "came back" not in {note for _, _, note in effects(database)}


def test_a_job_reaches_its_own_domain_alone_in_the_name_of_who_asked(database, jobs, domain, start) -> None:
    with database.transaction() as session:
        other = create_domain(session, "two", model="m", contract="c", dimension=8).id
        enqueue(session, "effect", domain_id=other)
    with acting(Reach("key-1", frozenset({"one"}), frozenset({domain}))), database.transaction() as session:
        job = str(enqueue(session, "looks_around", domain_id=domain))
    start()
    (info,) = done(jobs, job)
    assert info.result == {"domains": [domain], "jobs": 1, "client": "key-1"}


def test_a_worker_waits_for_a_database_that_was_not_migrated(empty_database_settings: Settings, start) -> None:
    worker = start(empty_database_settings)
    engine = create_engine(database_url(empty_database_settings))
    migrate.upgrade(engine)
    engine.dispose()
    database = Database(empty_database_settings)
    with database.maintenance() as connection:
        connection.execute(text(EFFECTS))
    with database.transaction() as session:
        number = create_domain(session, "one", model="m", contract="c", dimension=8).id
        job = str(enqueue(session, "effect", domain_id=number))
    (info,) = done(JobService(database), job)
    assert info.state == "succeeded"
    assert worker.poll() is None
    database.close()
