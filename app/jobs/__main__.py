"""`python -m app.jobs`: a jobs worker, beside the service or on another host with the same database and pool."""

import asyncio
import logging
import os
import sys
import threading

from app.api.wiring import build_services
from app.config import SettingsError, load_settings
from app.jobs.kinds import KINDS
from app.jobs.runner import Runner
from app.jobs.worker import JobsWorker
from app.logs import configure_logging


def main() -> int:
    """Work until SIGTERM; the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"facedex: wrong settings: {error}\n")
        return 2
    os.umask(0o077)
    configure_logging(settings, settings.logs_dir / "jobs.log")
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    # Each reconnection would be a line, and what is lost is told once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    stopping = threading.Event()
    runner = Runner(settings, lambda: build_services(settings), KINDS, stopping)
    asyncio.run(JobsWorker(settings, runner, stopping).run())
    if not runner.is_idle:  # it was handed back, and its thread would be waited for
        logging.shutdown()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
