"""Workers die in the middle of jobs, again and again, and nobody who waits for an answer notices.

The suite kills a dozen. Two hundred, in some minutes:

    FACEDEX_TEST_KILLS=200 scripts/test tests/embedder/test_killed_workers.py
"""

import logging
import os
import re
import signal
import time

import numpy as np
import pytest

from tests.embedder.pools import Crowd, faces, running_pool
from tests.service.running import eventually

log = logging.getLogger(__name__)

# With two cores, each costs the better part of a second, and several where other tests run beside.
KILLS = int(os.environ.get("FACEDEX_TEST_KILLS", "12"))
WORKERS = 4
# So many at the same moment: the others take over what these held.
_TOGETHER = 2
_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_workers_cost_no_request_and_are_replaced(tmp_path, models):
    rng = np.random.default_rng(4)
    images = faces(48)
    killed: dict[str, int] = {}
    recoveries_s: list[float] = []
    with running_pool(tmp_path / "pool", models, embedder_workers=WORKERS) as pool:
        right = [pool.analyze(image) for image in images]
        with Crowd(pool, images) as crowd:
            while sum(killed.values()) < KILLS:
                # Before all are back nobody is killed: a picture whose second worker dies too would seem to be the reason.
                pool.wait_until_whole()
                crowd.wait_for_more(int(rng.integers(1, 8)))
                busy = next(filter(None, iter(pool.busy, None)))
                victims = [worker.pid for worker in busy[:_TOGETHER]]
                for pid in victims:
                    number = _SIGNALS[rng.integers(len(_SIGNALS))]
                    os.kill(pid, number)
                    killed[number.name.lower()] = killed.get(number.name.lower(), 0) + 1
                since_s = time.monotonic()
                eventually(lambda gone=victims: not {worker.pid for worker in pool.workers()} & set(gone))
                pool.wait_until_whole()
                recoveries_s.append(time.monotonic() - since_s)
        assert crowd.wrong(right) == []
        eventually(lambda: pool.deaths() == killed)
        status = pool.client.status()
        assert (status.restarts, status.quarantined) == (killed, 0)
        assert status.jobs["ok"] >= len(crowd.answers)
        assert pool.client.quarantined() == []
        loads_s = [float(found) for found in re.findall(r"Model dlib loaded in (\S+)s", pool.said())]
    assert len(loads_s) >= WORKERS + sum(killed.values())
    log.info(
        f"{sum(killed.values())} kills among {len(crowd.answers)} requests; all workers back after "
        f"{np.median(recoveries_s):.2f} s, at most {max(recoveries_s):.2f} s; a model was loaded in {np.median(loads_s):.2f} s"
    )
