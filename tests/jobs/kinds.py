"""A jobs worker with the tests' own kinds: `python -m tests.jobs.kinds`. Each run leaves a row, so that runs can be counted."""

import os
import signal
import sys
import time

from sqlalchemy import text

from app.errors import EmbedderUnavailable, NoFaceFound
from app.jobs.context import JobContext
from app.jobs.process import run_process

EFFECTS = """
CREATE TABLE effects (job uuid, worker integer, note text);
GRANT SELECT, INSERT ON effects TO facedex_app
"""


def leave(context: JobContext, note: str = "") -> int:
    """One more row; how many this job has now."""
    with context.services.database.transaction() as session:
        values = {"job": context.job_id, "worker": os.getpid(), "note": note}
        session.execute(text("INSERT INTO effects VALUES (:job, :worker, :note)"), values)
        return session.scalar(text("SELECT count(*) FROM effects WHERE job = :job"), values)


def effect(context: JobContext) -> None:
    leave(context)
    time.sleep(0.005)


def flaky(context: JobContext) -> None:
    if leave(context) < 2:
        raise EmbedderUnavailable("The pool is away.")
    context.result = {"runs": 2}


def permanent(context: JobContext) -> None:
    leave(context)
    raise NoFaceFound("No face was found.")


def broken(context: JobContext) -> None:
    leave(context)
    raise RuntimeError("a secret")


def until_cancelled(context: JobContext) -> None:
    if leave(context) > 1:
        return
    while not context.cancelled():
        time.sleep(0.02)
    leave(context, "stopped")


def stubborn(context: JobContext) -> None:
    """Hears nothing, the first time."""
    if leave(context) == 1:
        time.sleep(60)
        leave(context, "came back")


def third_time(context: JobContext) -> None:
    """Of three workers that begin it, the third one does it."""
    if leave(context) < 3:
        while not context.cancelled():
            time.sleep(0.02)
        leave(context, "stopped")


def deadly(context: JobContext) -> None:
    leave(context)
    os.kill(os.getpid(), signal.SIGKILL)


def looks_around(context: JobContext) -> None:
    with context.services.database.transaction() as session:
        context.result = {
            "domains": list(session.scalars(text("SELECT id FROM domains"))),
            "jobs": session.scalar(text("SELECT count(*) FROM jobs")),
            "client": session.scalar(text("SELECT current_setting('facedex.client')")),
        }


KINDS = {
    function.__name__: function
    for function in (effect, flaky, permanent, broken, until_cancelled, stubborn, third_time, deadly, looks_around)
}

if __name__ == "__main__":
    sys.exit(run_process(KINDS))
