"""`python -m app.jobs`: a jobs worker, beside the service or on another host with the same database and pool."""

import gc
import sys

from app.jobs.kinds import KINDS
from app.jobs.process import run_process

if __name__ == "__main__":
    gc.freeze()  # the program stays: the collector need not look at it again, least of all at the end
    sys.exit(run_process(KINDS))
