"""The queue's rows, as several workers see them that were given up for dead, or not yet."""

import asyncio
from collections.abc import Awaitable, Callable

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from sqlalchemy import text

from app.config import Settings
from app.db.domains import create_domain
from app.db.jobs import enqueue, recover_jobs
from app.db.session import Database, database_url
from app.jobs.queue import Queue


def within(settings: Settings, act: Callable[[Queue], Awaitable[None]]) -> None:
    """Do something with the queue of the test's database."""
    url = database_url(settings).set(drivername="postgresql").difference_update_query(["options"])
    options = {"options": "-c search_path=procrastinate"}

    async def run() -> None:
        connector = PsycopgConnector(conninfo=url.render_as_string(hide_password=False), kwargs=options, min_size=1)
        async with App(connector=connector).open_async():
            await act(Queue(connector))

    asyncio.run(run())


def submit(database: Database, *, age: str = "0 s") -> str:
    with database.transaction() as session:
        job = enqueue(session, "x", domain_id=create_domain(session, "one", model="m", contract="c", dimension=8).id)
        session.execute(text("UPDATE jobs SET created_at = now() - CAST(:age AS interval)"), {"age": age})
    return str(job)


def rows(database: Database) -> list[tuple[str, int | None]]:
    with database.maintenance() as connection:
        query = text("SELECT status, worker_id FROM procrastinate.procrastinate_jobs ORDER BY id")
        return [tuple(row) for row in connection.execute(query)]


def test_a_job_changes_hands_once_and_whose_it_was_has_no_say(database: Database, database_settings: Settings) -> None:
    submit(database)

    async def act(queue: Queue) -> None:
        first, second = await queue.register_worker(), await queue.register_worker()
        lost = await queue.fetch_job(queues=["facedex"], worker_id=first)
        assert lost is not None
        await queue.unregister_worker(first)
        (seen,), (seen_too,) = [list(await queue.get_stalled_jobs(queue="facedex")) for _ in range(2)]
        assert await queue.hand_out_again(seen)
        assert not await queue.hand_out_again(seen_too)
        taken = await queue.fetch_job(queues=["facedex"], worker_id=second)
        assert taken is not None
        assert not await queue.hand_out_again(seen_too)
        await queue.finish_job(lost, Status.SUCCEEDED, delete_job=True)
        await queue.retry_job(lost)
        assert rows(database) == [("doing", second)]
        await queue.retry_job(taken)
        assert rows(database)[0][0] == "todo"
        again = await queue.fetch_job(queues=["facedex"], worker_id=second)
        assert again is not None
        await queue.finish_job(again, Status.SUCCEEDED, delete_job=True)
        assert rows(database) == []

    within(database_settings, act)


def test_only_jobs_that_wait_for_nobody_are_put_into_the_queue(database: Database) -> None:
    job = submit(database, age="10 min")

    def recovered(older_s: float = 60) -> list[str]:
        with database.transaction() as session:
            return [str(found) for found in recover_jobs(session, older_s=older_s)]

    def forget() -> None:
        with database.maintenance() as connection:
            connection.execute(text("SET LOCAL search_path = procrastinate; DELETE FROM procrastinate_jobs"))

    assert recovered() == []
    forget()
    assert recovered(older_s=3600) == []
    assert recovered() == [job]
    assert rows(database) == [("todo", None)]
    assert recovered() == []
    forget()
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET state = 'cancelled', finished_at = now()"))
    assert recovered() == []
