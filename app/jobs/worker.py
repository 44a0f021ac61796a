"""Takes jobs from procrastinate's queue and hands each to a thread; outlives the database.

procrastinate keeps the queue, says which jobs are due, and whose workers have gone silent. Its own worker ends when its
connections do: this one begins anew, until it is told to stop.
"""

import asyncio
import contextlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import UUID

import psycopg
import psycopg_pool
import structlog
from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import DeleteJobCondition, Job
from procrastinate.worker import Worker

from app.config import Settings
from app.db.jobs import recover_jobs, sweep_jobs
from app.db.session import database_url, driver_reason
from app.errors import DatabaseError
from app.jobs.queue import Queue
from app.jobs.runner import CLIENT, AgainLater, Runner
from app.tenancy import acting, everything

log = structlog.stdlib.get_logger("facedex.jobs")

# As the function `defer_job` of migration 0005 says them.
QUEUE: Final = "facedex"
TASK: Final = "run_job"

_POLL_S: Final = 2.0
_RECONNECT_FIRST_S: Final = 0.25
_RECONNECT_MAX_S: Final = 3.0
_OPEN_WITHIN_S: Final = 10.0
_SWEEP_EVERY_S: Final = 600.0
_SWEEP_ROWS: Final = 1000

_Lost = (psycopg.Error, psycopg_pool.PoolTimeout, ConnectorException, DatabaseError, OSError)


class _NotThere(Exception):
    """The database has no queue: nobody has migrated it yet."""


class _Retry(BaseRetryStrategy):
    """What the runner says; a job that is broken off because this process ends goes to another one at once."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """When the job is handed out again."""
        after_s = exception.after_s if isinstance(exception, AgainLater) else 0.0
        return RetryDecision(retry_in={"milliseconds": round(after_s * 1000)})


class JobsWorker:
    """A process's worker.

    Args:
        runner: makes the attempts.
        stopping: set when the process is to end, for the jobs in work.
    """

    def __init__(self, settings: Settings, runner: Runner, stopping: threading.Event) -> None:
        self._settings = settings
        self._runner = runner
        self._stopping = stopping
        self._threads = ThreadPoolExecutor(max(1, settings.jobs_workers), thread_name_prefix="job")
        self._former: set[int] = set()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT: then the jobs in work have as long as a request to end, or are handed back."""
        stop = asyncio.Event()

        def on_signal() -> None:
            self._stopping.set()
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        pause_s, told = _RECONNECT_FIRST_S, False
        while not stop.is_set():
            try:
                await self._work(stop)
                pause_s, told = _RECONNECT_FIRST_S, False
            except _NotThere:
                log.info("[JOBS] The database has no queue yet")
            except _Lost as error:
                if not told:
                    log.warning("[JOBS] Waiting for the database", reason=driver_reason(error) or str(error))
                told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            pause_s = min(pause_s * 2, _RECONNECT_MAX_S)

    async def _work(self, stop: asyncio.Event) -> None:
        """Work as long as the connections do."""
        url = database_url(self._settings).set(drivername="postgresql")
        given = url.query.get("options", "")
        options = f"{given if isinstance(given, str) else ' '.join(given)} -c search_path=procrastinate".strip()
        conninfo = url.difference_update_query(["options"]).render_as_string(hide_password=False)
        connecting: dict[str, Any] = {
            "connect_timeout": self._settings.db_connect_timeout_s,
            "application_name": "facedex jobs",
            "options": options,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        async with await psycopg.AsyncConnection.connect(conninfo, **connecting, autocommit=True) as connection:
            found = await (await connection.execute("SELECT to_regclass('procrastinate_workers')")).fetchone()
            if found is None or found[0] is None:
                raise _NotThere
        connector = PsycopgConnector(
            conninfo=conninfo, kwargs=connecting, min_size=1, max_size=4, timeout=_OPEN_WITHIN_S, reconnect_timeout=5
        )
        app = App(connector=connector)
        app.job_manager = queue = Queue(connector)
        async with app.open_async():
            await self._serve(app, queue, stop)

    async def _serve(self, app: App, queue: Queue, stop: asyncio.Event) -> None:
        for former in list(self._former):  # the jobs that its connections were lost with are free at once
            await queue.unregister_worker(former)
            self._former.discard(former)
        app.task(name=TASK, pass_context=True, retry=_Retry())(self._task())
        stalled_s = self._settings.jobs_stalled_s
        worker = Worker(
            app,
            queues=[QUEUE],
            name="jobs",
            concurrency=max(1, self._settings.jobs_workers),
            fetch_job_polling_interval=_POLL_S,
            shutdown_graceful_timeout=self._settings.request_deadline_s,
            delete_jobs=DeleteJobCondition.ALWAYS.value,
            install_signal_handlers=False,
            update_heartbeat_interval=stalled_s / 5,
            stalled_worker_timeout=stalled_s,
        )
        beside = [asyncio.create_task(self._rescue(queue)), asyncio.create_task(_once_set(stop, worker.stop))]
        log.info("[JOBS] Ready for jobs")
        try:
            await worker.run()  # type: ignore[no-untyped-call]
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            if worker.worker_id is not None:
                self._former.add(worker.worker_id)

    def _task(self) -> Any:
        """What procrastinate runs: one attempt, in a thread."""
        loop = asyncio.get_running_loop()

        async def run_job(context: JobContext, job: str) -> None:
            await loop.run_in_executor(self._threads, self._runner.run, UUID(job), context.job.attempts)

        return run_job

    async def _rescue(self, queue: Queue) -> None:
        """Hand out again what silent workers have and what the queue has lost, and delete what is kept only for a time."""
        stalled_s = self._settings.jobs_stalled_s
        loop = asyncio.get_running_loop()
        sweep_at_s = loop.time()
        while True:
            try:
                await queue.prune_stalled_workers(stalled_s)
                for job in await queue.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=stalled_s):
                    if await queue.hand_out_again(job):  # unless another worker was faster
                        log.warning(
                            "[JOBS] A job whose worker has gone is taken up again", job=job.task_kwargs.get("job")
                        )
                await asyncio.to_thread(self._recover)
                await asyncio.to_thread(self._sweep_with_the_web)
                if loop.time() >= sweep_at_s:
                    sweep_at_s = loop.time() + _SWEEP_EVERY_S
                    await asyncio.to_thread(self._sweep)
            except _Lost as error:  # the worker itself notices, and begins anew
                log.debug("[JOBS] Not looked for stalled jobs", reason=str(error))
            await asyncio.sleep(stalled_s / 5)

    def _sweep_with_the_web(self) -> None:
        """What web processes sweep after an answer goes in time where nobody asks them anything, too; once a minute."""
        for sweep in self._runner.services.sweeps:
            sweep.sweep_when_due()

    def _recover(self) -> None:
        with acting(everything(CLIENT)), self._runner.services.database.transaction() as session:
            lost = recover_jobs(session, older_s=self._settings.jobs_stalled_s)
        for job_id in lost:
            log.warning("[JOBS] A job that was not in the queue is put there", job=str(job_id))

    def _sweep(self) -> None:
        with acting(everything(CLIENT)):
            swept = _SWEEP_ROWS
            while swept == _SWEEP_ROWS and not self._stopping.is_set():
                with self._runner.services.database.transaction() as session:
                    swept = sweep_jobs(session, keep_s=self._settings.jobs_keep_s, limit=_SWEEP_ROWS)


async def _once_set(event: asyncio.Event, act: Any) -> None:
    await event.wait()
    act()
