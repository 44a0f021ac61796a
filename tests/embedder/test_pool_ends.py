"""The end of the pool itself: an orderly one, a violent one, and that of the model it works with."""

import os
import signal
import socket
from contextlib import ExitStack, suppress

import psutil
import pytest

from app.errors import EmbedderUnavailable, ModelUnavailable
from tests.embedder.pools import (
    CLIENTS,
    Crowd,
    RunningPool,
    at_once,
    faces,
    held_up,
    is_same,
    living,
    running_pool,
    stopped,
)
from tests.service.running import eventually

pytestmark = pytest.mark.slow

HANGING, *HARMLESS = faces(9)


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_a_pool_that_is_to_end_answers_everything_first(tmp_path, models, number, to_all):
    """A service manager may well tell every process of the group, and Ctrl-C does."""
    with running_pool(tmp_path / "pool", models, embedder_workers=2) as pool:
        right = [pool.analyze(image) for image in HARMLESS]
        family = pool.family()
        images = HARMLESS * 4

        def end_it_once_all_wait() -> None:
            eventually(lambda: pool.queue_length() + len(pool.busy()) == len(images))
            if to_all:
                os.killpg(pool.process.pid, number)
            else:
                pool.process.send_signal(number)
            eventually(lambda: not pool.socket.exists())  # so that it has noticed
            assert isinstance(pool.analyze(HARMLESS[0]), EmbedderUnavailable)
            let_go()

        with held_up(pool) as let_go:
            *answers, _ = at_once(*[lambda image=image: pool.analyze(image) for image in images], end_it_once_all_wait)
        assert [answer for answer, faces in zip(answers, right * 4, strict=True) if not is_same(answer, faces)] == []
        assert pool.process.wait(60) == 0
        assert living(family) == []


def test_a_second_pool_does_not_take_the_place_of_one_that_is_busy(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=1) as pool:
        second = RunningPool(tmp_path / "pool", models, embedder_workers=1)
        try:
            with stopped([pool.process.pid]), ExitStack() as stack:
                for number in range(2):
                    second.launch()
                    assert second.process.wait(60) == 1
                    assert second.said().count("another pool listens") >= number + 1
                    with suppress(BlockingIOError):  # it takes no more connections
                        while True:
                            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                            connection.setblocking(False)
                            connection.connect(str(pool.socket))
        finally:
            second.kill()
        pool.wait_until_whole()  # once it has got through all who had come
        assert len(pool.analyze(HARMLESS[0]).faces) == 1


def test_workers_do_not_outlive_a_pool_that_was_killed(tmp_path, models):
    with running_pool(tmp_path / "pool", models, faults={HANGING: "hang"}, embedder_workers=3) as pool:
        family = pool.family()
        assert len(family) == 4
        with Crowd(pool, HARMLESS) as crowd:
            crowd.wait_for_more(CLIENTS)

            def kill_it_once_one_hangs() -> None:
                eventually(lambda: any(worker.busy_s > 2 for worker in pool.busy()))
                stands_still = next(worker for worker in pool.workers() if worker.busy_s < 2)
                os.kill(stands_still.pid, signal.SIGSTOP)
                pool.process.send_signal(signal.SIGKILL)

            at_once(lambda: pool.analyze(HANGING), kill_it_once_one_hangs)
            assert pool.process.wait(60) == -signal.SIGKILL
            assert living(family) == []
        pool.start()  # over what the old one left behind
        assert len(pool.analyze(HARMLESS[0]).faces) == 1


def test_a_damaged_model_stops_no_worker_and_a_mended_one_is_loaded_again(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2) as pool:
        right = [pool.analyze(image) for image in HARMLESS]
        damaged = max((pool.settings.models_dir / "dlib").iterdir(), key=lambda path: path.stat().st_size)
        kept = damaged.rename(damaged.with_suffix(".kept"))
        damaged.write_bytes(kept.read_bytes()[:-1])
        first, second = [worker.pid for worker in pool.workers()]
        with Crowd(pool, HARMLESS) as crowd:
            crowd.wait_for_more(CLIENTS)
            os.kill(first, signal.SIGKILL)
            eventually(lambda: pool.workers()[0].state == "failed")
            crowd.wait_for_more(CLIENTS)
        assert crowd.wrong(right) == []

        os.kill(second, signal.SIGKILL)
        eventually(lambda: pool.client.status().problem not in (None, "the model is not loaded yet"))
        assert damaged.name in pool.client.status().problem
        answers = at_once(*[lambda: pool.analyze(HARMLESS[0])] * CLIENTS)
        assert {type(answer) for answer in answers} == {ModelUnavailable}
        assert psutil.pid_exists(pool.process.pid)

        kept.rename(damaged)
        pool.wait_until_whole()
        assert is_same(pool.analyze(HARMLESS[0]), right[0])
