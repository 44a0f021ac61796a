"""The queue of the jobs: procrastinate's tables in a schema of their own, and the one door to them.

`migrations/procrastinate/3.10.0.sql` is the package's own `schema.sql`, kept here so that this migration stays what it is when
the package is upgraded; docs/decisions/0014 says how an upgrade becomes a migration.
"""

from pathlib import Path

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

_SCHEMA_FILE = Path(__file__).parent.parent / "procrastinate" / "3.10.0.sql"

# The tenants' role sees nothing of the queue. What it may do is hand over a job by its id: of an id that is no job's, nothing
# comes. A job that waits already, for its next attempt, does so no longer: it would hold up this one, whose lock is the same.
_DEFER_JOB = """
CREATE FUNCTION defer_job(job uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = procrastinate, pg_temp AS $$
BEGIN
    DELETE FROM procrastinate_jobs WHERE lock = job::text AND status = 'todo';
    PERFORM procrastinate_defer_jobs_v1(ARRAY[
        ROW('facedex', 'run_job', 0, job::text, NULL, jsonb_build_object('job', job::text), NULL)
    ]::procrastinate_job_to_defer_v1[]);
END
$$;
REVOKE ALL ON FUNCTION defer_job(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defer_job(uuid) TO facedex_app;
"""

# Of some jobs, those that the queue does not know: nobody would ever begin them. It sees what its caller's statement sees.
_UNQUEUED_JOBS = """
CREATE FUNCTION unqueued_jobs(jobs uuid[]) RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = procrastinate, pg_temp AS $$
    SELECT job FROM unnest(jobs) AS job
    WHERE NOT EXISTS (SELECT FROM procrastinate_jobs WHERE procrastinate_jobs.lock = job::text)
$$;
REVOKE ALL ON FUNCTION unqueued_jobs(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION unqueued_jobs(uuid[]) TO facedex_app;
"""


def upgrade() -> None:
    """Make the queue."""
    # Attempts since the job last came on: a long one that goes on after each is not given up.
    op.execute("ALTER TABLE jobs ADD COLUMN setbacks integer NOT NULL DEFAULT 0")
    # Of a picture that workers take too long for, or die of.
    op.execute("ALTER TABLE job_files ADD COLUMN tries integer NOT NULL DEFAULT 0")
    op.execute("CREATE INDEX jobs_finished_at_idx ON jobs (finished_at) WHERE finished_at IS NOT NULL")
    op.execute("CREATE INDEX jobs_waiting_idx ON jobs (state, created_at) WHERE finished_at IS NULL")
    op.execute("CREATE SCHEMA procrastinate; SET LOCAL search_path = procrastinate")
    # Past SQLAlchemy and Alembic, for whom colons and percent signs mean something.
    driver = op.get_bind().connection.driver_connection
    driver.execute(_SCHEMA_FILE.read_text("utf-8"))
    op.execute("SET LOCAL search_path TO DEFAULT")
    driver.execute(_DEFER_JOB)
    driver.execute(_UNQUEUED_JOBS)


def downgrade() -> None:
    """Remove it with the jobs that wait in it."""
    op.execute("DROP FUNCTION unqueued_jobs(uuid[]); DROP FUNCTION defer_job(uuid)")
    op.execute("DROP SCHEMA procrastinate CASCADE")
    op.execute("DROP INDEX jobs_finished_at_idx; DROP INDEX jobs_waiting_idx")
    op.execute("ALTER TABLE job_files DROP COLUMN tries")
    op.execute("ALTER TABLE jobs DROP COLUMN setbacks")
