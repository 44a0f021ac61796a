"""procrastinate's queue, in which a worker that was given up for dead changes nothing any more.

By itself, procrastinate knows a job in its queue by its number alone: a worker that stood still, and comes back when another
has its job already, would delete it under that one's hands, and two that look for such jobs would both hand them out.
"""

import datetime
from typing import Final

from procrastinate import utils
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

# The row is locked before it is judged: by what it is when whoever changes it at this moment is done.
_FINISH_SQL: Final = """
SELECT procrastinate_finish_job_v1(id, %(status)s::procrastinate_job_status, %(delete_job)s) FROM (
    SELECT id FROM procrastinate_jobs
    WHERE id = %(job_id)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(worker_id)s::bigint FOR UPDATE
) AS ours
"""
_RETRY_SQL: Final = """
SELECT procrastinate_retry_job_v2(id, %(retry_at)s, %(priority)s::integer, %(queue)s::varchar, %(lock)s::varchar) FROM (
    SELECT id FROM procrastinate_jobs
    WHERE id = %(job_id)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(worker_id)s::bigint FOR UPDATE
) AS ours
"""


class Queue(JobManager):
    """The queue, where who ends a job or hands it out again has to be the worker that it was given to."""

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """End a job, unless another worker has it by now."""
        await self.connector.execute_query_async(
            _FINISH_SQL, job_id=job.id, worker_id=job.worker_id, status=status.value, delete_job=delete_job
        )

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Have a job handed out again, unless another worker has it by now."""
        await self.hand_out_again(job, retry_at=retry_at, priority=priority, queue=queue, lock=lock)

    async def hand_out_again(
        self,
        job: Job,
        *,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> bool:
        """As `retry_job`; whether it was done."""
        rows = await self.connector.execute_query_all_async(
            _RETRY_SQL,
            job_id=job.id,
            worker_id=job.worker_id,
            retry_at=retry_at or utils.utcnow(),
            priority=priority,
            queue=queue,
            lock=lock,
        )
        return bool(rows)
