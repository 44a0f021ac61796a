"""Jobs in the background beside ordinary ones, and how long either waits."""

import io
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from PIL import Image

from app.deadline import Deadline
from app.vision.faces import Analysis
from tests import pictures
from tests.embedder.pools import DEADLINE_S, Answer, RunningPool, at_once, faces, held_up, running_pool
from tests.service.running import eventually

pytestmark = pytest.mark.slow

IMAGES = faces(8)
QUEUE, BACKGROUND_QUEUE = 8, 4


def kinds(answers: Sequence[Answer]) -> Counter[str]:
    return Counter(type(answer).__name__ for answer in answers)


def lanes(pool: RunningPool) -> Counter[str | None]:
    return Counter(worker.lane for worker in pool.workers())


@pytest.fixture(scope="module")
def pool(tmp_path_factory, models):
    storage = tmp_path_factory.mktemp("lanes") / "pool"
    with running_pool(
        storage, models, embedder_workers=2, embedder_queue=QUEUE, embedder_background_queue=BACKGROUND_QUEUE
    ) as running:
        for image in IMAGES:  # of a picture that nobody has looked at yet, two at most would be tried at once
            running.analyze(image)
        yield running


def test_one_worker_is_never_given_to_the_background(pool):
    def look_and_let_go() -> None:
        eventually(lambda: pool.client.status().background_queue_length == BACKGROUND_QUEUE)
        assert lanes(pool) == {"background": 1, None: 1}
        asked_last.set()
        eventually(lambda: lanes(pool) == {"background": 1, "ordinary": 1})
        let_go()

    def ask_last() -> Answer:
        asked_last.wait()
        return pool.analyze(IMAGES[1])

    asked_last = threading.Event()
    with held_up(pool) as let_go:
        behind = [lambda: pool.analyze(IMAGES[0], background=True)] * (1 + BACKGROUND_QUEUE)
        *answers, _ = at_once(*behind, ask_last, look_and_let_go)
    assert kinds(answers) == {"Analysis": len(behind) + 1}


def test_a_full_background_refuses_at_once_and_nobody_else(pool):
    before = pool.jobs().get("pool_busy", 0)

    def ask_once_it_is_full() -> Answer:
        eventually(lambda: pool.jobs().get("pool_busy", 0) == before + 3)
        return pool.analyze(IMAGES[1])

    def let_go_once_both_are_full() -> None:
        eventually(lambda: pool.queue_length() == QUEUE)
        assert pool.client.status().background_queue_length == BACKGROUND_QUEUE
        assert pool.jobs()["pool_busy"] == before + 3
        let_go()

    with held_up(pool) as let_go:
        behind = [lambda: pool.analyze(IMAGES[0], background=True)] * (1 + BACKGROUND_QUEUE + 3)
        ordinary = [ask_once_it_is_full] * (1 + QUEUE)
        *answers, _ = at_once(*behind, *ordinary, let_go_once_both_are_full)
    assert kinds(answers[: len(behind)]) == {"Analysis": 1 + BACKGROUND_QUEUE, "PoolBusy": 3}
    assert kinds(answers[len(behind) :]) == {"Analysis": len(ordinary)}


def test_what_no_worker_had_time_for_behind_others_is_no_pictures_fault(pool):
    def ask_in_vain() -> Answer:
        eventually(lambda: lanes(pool)["background"] == 1)
        return pool.analyze(IMAGES[1], background=True, deadline_s=0.2)

    def let_go_once_it_is_refused() -> None:
        eventually(lambda: pool.jobs().get("pool_busy", 0) == before + 1)
        let_go()

    before = pool.jobs().get("pool_busy", 0)
    with held_up(pool) as let_go:
        answers = at_once(lambda: pool.analyze(IMAGES[0], background=True), ask_in_vain, let_go_once_it_is_refused)
    assert [type(answer).__name__ for answer in answers[:2]] == ["Analysis", "PoolBusy"]


def test_how_hard_a_face_is_looked_for_is_told_to_the_worker(pool):
    turned = pictures.encode(Image.open(io.BytesIO(IMAGES[0])).transpose(Image.Transpose.ROTATE_90))
    deadline = Deadline.after(DEADLINE_S)
    assert pool.client.analyze(turned, deadline=deadline).faces == ()
    analysis = pool.client.analyze(turned, deadline=deadline, effort="thorough", background=True)
    assert (len(analysis.faces), analysis.strategy) == (1, "turned-90")


def test_the_only_worker_serves_both_and_no_load_starves_the_background(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=1) as pool:
        over, asked = threading.Event(), []

        def ask_without_pause(client: str) -> None:
            while not over.is_set():
                asked.append(pool.analyze(IMAGES[0], client=client))

        crowd = [threading.Thread(target=ask_without_pause, args=(f"client {number}",)) for number in range(4)]
        for thread in crowd:
            thread.start()
        try:
            eventually(lambda: pool.queue_length() >= 2)
            behind = [pool.analyze(IMAGES[1], background=True) for _ in range(3)]
        finally:
            over.set()
            for thread in crowd:
                thread.join()
        assert kinds(behind) == {"Analysis": 3}
        assert kinds(asked) == {"Analysis": len(asked)}
        assert len(asked) > len(behind)


def test_who_has_waited_as_long_as_anybody_may_is_refused_and_the_background_waits_on(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2, embedder_queue_s=0.3) as pool:
        pool.analyze(IMAGES[0])

        def refused() -> int:
            return pool.jobs().get("pool_busy", 0)

        def fill_and_let_go() -> None:
            eventually(lambda: refused() == 5)
            eventually(lambda: pool.client.status().background_queue_length == 2)
            assert pool.queue_length() == 0
            let_go()

        def ask_behind() -> Answer:
            eventually(lambda: refused() == 5)
            return pool.analyze(IMAGES[0], background=True)

        with held_up(pool) as let_go:
            # Two are with workers, five wait; nobody has a worker to give while all stand still.
            ordinary = [lambda: pool.analyze(IMAGES[0])] * 7
            *answers, _ = at_once(*ordinary, ask_behind, ask_behind, fill_and_let_go)
        assert kinds(answers[:7]) == {"Analysis": 2, "PoolBusy": 5}
        assert kinds(answers[7:]) == {"Analysis": 2}


def test_nobody_is_refused_for_waiting_while_no_worker_is_loaded(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=1, embedder_queue_s=0.05) as pool:
        right = pool.analyze(IMAGES[0])
        assert isinstance(right, Analysis)
        pool.end(pool.workers()[0].pid)
        eventually(lambda: pool.loaded() == 0)
        assert kinds([pool.analyze(IMAGES[0])]) == {"Analysis": 1}
