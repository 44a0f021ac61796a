"""`python -m app.jobs`: a jobs worker, beside the service or on another host with the same database and pool."""

import sys

from app.jobs.kinds import KINDS
from app.jobs.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(KINDS))
