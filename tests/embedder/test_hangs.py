"""Workers that do not come to an end: their own requests pay, at their deadline, and nobody else does."""

import os
import signal
import threading

import pytest

from app.errors import ImageQuarantined, WorkerTimeout
from tests.embedder.pools import CLIENTS, Crowd, at_once, faces, running_pool
from tests.service.running import eventually

pytestmark = pytest.mark.slow

HANGING, SLOW, *HARMLESS = faces(10)
FAULTS = {HANGING: "hang", SLOW: "dawdle"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory, models):
    with running_pool(tmp_path_factory.mktemp("hangs") / "pool", models, faults=FAULTS, embedder_workers=3) as running:
        yield running


@pytest.fixture(scope="module")
def right(pool):
    return [pool.analyze(image) for image in HARMLESS]


def test_a_stopped_worker_costs_its_own_request_and_is_replaced(pool, right):
    hangs = pool.deaths().get("hang", 0)
    pool.wait_until_idle()
    answers = []
    slow = threading.Thread(target=lambda: answers.append(pool.analyze(SLOW, deadline_s=4)))
    slow.start()
    eventually(pool.busy)
    (stopped,) = pool.busy()
    os.kill(stopped.pid, signal.SIGSTOP)
    with Crowd(pool, HARMLESS) as crowd:
        slow.join()
        eventually(lambda: pool.deaths().get("hang", 0) == hangs + 1)
        pool.wait_until_whole()
    assert [type(answer) for answer in answers] == [WorkerTimeout]
    assert crowd.wrong(right) == []
    assert stopped.pid not in {worker.pid for worker in pool.workers()}


def test_a_hang_in_native_code_costs_its_own_request_and_is_quarantined_the_second_time(pool, right):
    hangs = pool.deaths().get("hang", 0)
    with Crowd(pool, HARMLESS) as crowd:
        answers = at_once(*[lambda: pool.analyze(HANGING, client="hanger", deadline_s=2)] * CLIENTS)
        eventually(lambda: pool.deaths().get("hang", 0) == hangs + 2)
        pool.wait_until_whole()
    # Two are risked on it; the others wait for what becomes of these, and their deadline comes first.
    assert {type(answer) for answer in answers} <= {WorkerTimeout, ImageQuarantined}
    assert isinstance(pool.analyze(HANGING), ImageQuarantined)
    assert crowd.wrong(right) == []
    assert pool.deaths()["hang"] == hangs + 2


def test_a_job_that_waited_until_its_deadline_does_not_look_like_a_hang(pool):
    pool.wait_until_idle()
    before = pool.workers(), pool.deaths()
    assert isinstance(pool.analyze(SLOW, deadline_s=0.5), WorkerTimeout)
    pool.wait_until_idle()
    assert [worker.pid for worker in pool.workers()] == [worker.pid for worker in before[0]]
    assert pool.deaths() == before[1]
